"""The four forms of a change event say the same, and the context carries what upstream said."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cloudevents.core.bindings.kafka import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent

from headrace.codec.codec import Codec
from headrace.codec.schema_registry import FixedIds
from headrace.envelope import Operation
from headrace.errors import DependencyDown, UnknownPipeline
from headrace.handlers.pipelines_log import PipelineCatalogue
from headrace.kafka.broker_contract import Record
from headrace.payloads import ChangeEvent, PipelineVersion
from headrace_ingest.events import IngestDecoder, decode
from headrace_ingest.settings import IngestSettings

pytestmark = pytest.mark.unit

CODEC = Codec(FixedIds())
SETTINGS = IngestSettings()
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
KEY = "acme/docs/안내.md".encode()
EVENT = ChangeEvent(
    tenant="acme",
    document_id="docs/안내.md",
    operation=Operation.UPSERT,
    version=7,
    title="안내",
    content="# 안내\r\n\r\n👩‍👩‍👧 e\u0301 text\n",
    media_type="text/markdown",
    source="/wiki/7",
    attributes={"lang": "ko", "team-1": "docs"},
    acl=("group:docs", "user:1"),
    pipeline="default",
    request_id="r-1",
    requested_by="user:9",
    occurred_at=datetime(2026, 1, 1, 12, 30, 0, 250_000, tzinfo=UTC),
)
FIELDS = {
    "tenant": "acme",
    "id": "docs/안내.md",
    "op": "upsert",
    "version": 7,
    "title": "안내",
    "content": EVENT.content,
    "media_type": "text/markdown",
    "source": "/wiki/7",
    "attributes": {"lang": "ko", "team-1": "docs"},
    "acl": ["group:docs", "user:1"],
    "pipeline": "default",
    "request_id": "r-1",
    "requested_by": "user:9",
    "updated_at": "2026-01-01T12:30:00.25Z",
}
ATTRIBUTES = {
    "id": "1", "source": "/wiki/7", "type": "com.example.document.upserted", "datacontenttype": "application/json",
}  # fmt: skip


def record(value: bytes | None, key: bytes | None = KEY, headers: dict[str, bytes] | None = None) -> Record:
    """Return a record of the topic."""
    return Record("changes", 3, 41, key, value, tuple((headers or {}).items()))


def as_json(fields: dict[str, Any], **changed: Any) -> Record:
    """Return a record with the fields as JSON, some of them changed."""
    return record(json.dumps({**fields, **changed}).encode())


def structured(attributes: dict[str, Any], data: Any, **headers: bytes) -> Record:
    """Return a CloudEvent in structured mode, as the library writes it."""
    message = to_structured_event(CloudEvent(dict(attributes), data))
    return record(message.value, headers={**message.headers, **headers})


def binary(attributes: dict[str, Any], data: Any, **headers: bytes) -> Record:
    """Return a CloudEvent in binary mode, as the library writes it."""
    message = to_binary_event(CloudEvent(dict(attributes), data))
    return record(message.value, headers={**message.headers, **headers})


FORMS = {
    "avro": record(CODEC.encode_plain(EVENT)),
    "json": as_json(FIELDS),
    "cloudevents-structured": structured(ATTRIBUTES, FIELDS),
    "cloudevents-binary": binary(ATTRIBUTES, FIELDS),
}


def catalogue() -> PipelineCatalogue:
    """Return the pipeline default in two versions."""
    pipelines = PipelineCatalogue()
    for version in (1, 2):
        pipelines.add(PipelineVersion("default", version, "{}", "digest", "tests", NOW))
    return pipelines


def context_of(change: Record, **settings: Any) -> Any:
    """Return the context that the service makes of the record."""
    return IngestDecoder(CODEC, catalogue().latest, IngestSettings(**settings), lambda: NOW)(change)


@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_the_same_event(form: str) -> None:
    """Upstream could not choose its form freely if one of them lost or changed a field."""
    assert decode(FORMS[form], CODEC, SETTINGS) == (form, EVENT)


@pytest.mark.parametrize("form", FORMS)
def test_the_form_is_kept_as_system_metadata(form: str) -> None:
    """Nobody could tell from a document in which form it came."""
    assert context_of(FORMS[form]).metadata["system.format"] == form


def test_structured_is_recognised_without_its_content_type() -> None:
    """A producer that sets no headers would have its CloudEvent read as a plain change without an operation."""
    change = structured(ATTRIBUTES, FIELDS)._replace(headers=())
    assert decode(change, CODEC, SETTINGS) == ("cloudevents-structured", EVENT)


def test_structured_takes_base64_data() -> None:
    """The CloudEvents library writes bytes as data_base64; such events would be dead letters."""
    change = structured({**ATTRIBUTES, "datacontenttype": "application/json"}, json.dumps(FIELDS).encode())
    assert b"data_base64" in (change.value or b"")
    assert decode(change, CODEC, SETTINGS)[1] == EVENT


@pytest.mark.parametrize("make", [structured, binary])
def test_attributes_of_a_cloudevent_with_text_stand_for_the_fields(make: Any) -> None:
    """A CloudEvent whose data is the document itself would have no identity, version or media type."""
    attributes = {
        **ATTRIBUTES,
        "subject": "docs/안내.md",
        "datacontenttype": "text/markdown; charset=UTF-8",
        "tenant": "acme",
        "version": "7",
        "title": "안내",
        "requestid": "r-1",
        "time": EVENT.occurred_at,
    }
    event = decode(make(attributes, EVENT.content), CODEC, SETTINGS)[1]
    assert (event.tenant, event.document_id, event.version) == ("acme", "docs/안내.md", 7)
    assert (event.title, event.content, event.media_type) == ("안내", EVENT.content, "text/markdown")
    assert (event.source, event.request_id) == ("/wiki/7", "r-1")
    assert event.occurred_at == EVENT.occurred_at


@pytest.mark.parametrize("make", [structured, binary])
def test_data_comes_before_attributes(make: Any) -> None:
    """An event whose attributes and data both carry a field would be refused or take the attribute's."""
    attributes = {**ATTRIBUTES, "subject": "other", "version": "9", "type": "x.deleted", "time": NOW}
    assert decode(make(attributes, FIELDS), CODEC, SETTINGS)[1] == EVENT


@pytest.mark.parametrize("make", [structured, binary])
def test_a_cloudevent_without_time_has_none(make: Any) -> None:
    """The library invents the time of reading, so that a replay would tell another story than the first run."""
    change = make({**ATTRIBUTES, "time": NOW}, {**FIELDS, "updated_at": None})
    stripped = json.loads(change.value)
    stripped.pop("time", None)
    headers = tuple(pair for pair in change.headers if pair[0] != "ce_time")
    event = decode(change._replace(value=json.dumps(stripped).encode(), headers=headers), CODEC, SETTINGS)[1]
    assert event.occurred_at is None


@pytest.mark.parametrize("word", ["upsert", "upserted", "created", "updated", "changed"])
def test_types_that_say_upsert(word: str) -> None:
    """Upstream's usual words for a change would be refused."""
    fields = {name: value for name, value in FIELDS.items() if name != "op"}
    change = binary({**ATTRIBUTES, "type": f"com.example.document.{word}"}, fields)
    assert decode(change, CODEC, SETTINGS)[1].operation is Operation.UPSERT


@pytest.mark.parametrize("word", ["delete", "deleted", "Removed"])
def test_a_delete_in_binary_mode_needs_no_value(word: str) -> None:
    """A delete by headers alone, the natural form of a CloudEvent, would leave the document searchable."""
    headers = {
        "ce_specversion": b"1.0", "ce_id": b"1", "ce_source": b"/s", "ce_type": f"doc.{word}".encode(),
        "ce_subject": "docs/안내.md".encode(), "ce_tenant": b"acme",
    }  # fmt: skip
    context = context_of(record(None, headers=headers))
    assert context.change.operation is Operation.DELETE
    assert context.payload is None


def test_foreign_headers_may_hold_any_bytes() -> None:
    """A tracing header in binary would condemn a good CloudEvent."""
    change = binary(ATTRIBUTES, FIELDS, traceparent=b"\xff\xfe")
    assert decode(change, CODEC, SETTINGS)[1] == EVENT


def test_key_stands_in_for_tenant_and_id() -> None:
    """Sources that know their tenant by the key alone could send nothing."""
    fields = {name: value for name, value in FIELDS.items() if name not in ("tenant", "id")}
    assert decode(as_json(fields), CODEC, SETTINGS)[1] == EVENT


@pytest.mark.parametrize(
    ("changed", "field", "expected"),
    [
        ({"op": "UPSERT"}, "operation", Operation.UPSERT),
        ({"op": None, "operation": "Delete"}, "operation", Operation.DELETE),
        ({"id": None, "document_id": "docs/안내.md"}, "document_id", "docs/안내.md"),
        ({"document_id": "docs/안내.md"}, "document_id", "docs/안내.md"),
        ({"version": None}, "version", None),
        ({"version": 0}, "version", 0),
        ({"version": 2**63 - 1}, "version", 2**63 - 1),
        ({"version": "9007199254740993"}, "version", 9007199254740993),
        ({"content": ""}, "content", ""),
        ({"content": "\ufeffa\r\n"}, "content", "\ufeffa\r\n"),
        ({"media_type": None, "content_type": "Text/X-Markdown; charset=utf-8"}, "media_type", "text/markdown"),
        ({"media_type": "text/prs.fallenstein.rst"}, "media_type", "text/x-rst"),
        ({"attributes": {"a": 1, "b": True, "c": 1.5}}, "attributes", {"a": "1", "b": "true", "c": "1.5"}),
        ({"attributes": {"stage": "x", "self": "y"}}, "attributes", {"stage": "x", "self": "y"}),
        ({"acl": []}, "acl", ()),
        ({"acl": ["user:b", "group:\u1100\u1161", "user:b"]}, "acl", ("group:가", "user:b")),
        ({"updated_at": 1767270600.25}, "occurred_at", EVENT.occurred_at),
        ({"updated_at": "2026-01-01T21:30:00.25+09:00"}, "occurred_at", EVENT.occurred_at),
        ({"updated_at": "2026-01-01T12:30:00.25"}, "occurred_at", EVENT.occurred_at),
        ({"unknown": {"a": [1]}}, "title", "안내"),
    ],
)  # fmt: skip
def test_forms_of_a_field(changed: dict[str, Any], field: str, expected: Any) -> None:
    """A spelling that the guide promises would be refused or misread."""
    event = decode(as_json(FIELDS, **changed), CODEC, SETTINGS)[1]
    assert getattr(event, field) == expected


def test_context_of_an_upsert() -> None:
    """The flow would start with a wrong pipeline version, request or version of the document."""
    context = context_of(FORMS["json"])
    assert context.payload == EVENT
    assert (context.change.version, context.change.key) == (7, KEY)
    assert (context.trace.pipeline_id, context.trace.pipeline_version) == ("default", 2)
    assert (context.trace.request_id, context.trace.requested_by, context.trace.started_at) == ("r-1", "user:9", NOW)
    assert dict(context.metadata) == {"system.format": "json", "user.lang": "ko", "user.team-1": "docs"}


def test_attributes_named_like_parameters_reach_the_metadata() -> None:
    """An attribute called stage or self would break the record with a TypeError."""
    context = context_of(as_json(FIELDS, attributes={"stage": "x", "self": "y"}))
    assert (context.metadata["user.stage"], context.metadata["user.self"]) == ("x", "y")


def test_offset_serves_where_no_version_is_stated() -> None:
    """Changes without a version could not be ordered."""
    assert context_of(as_json(FIELDS, version=None)).change.version == 41


def test_a_delete_has_no_payload() -> None:
    """A delete would be handed to handlers that expect a document."""
    context = context_of(as_json({"op": "delete", "version": 8}))
    assert context.payload is None
    assert context.change.operation is Operation.DELETE


def test_request_id_from_the_header() -> None:
    """A request could not be followed from the producer that set it."""
    change = as_json(FIELDS, request_id=None)._replace(headers=(("Request-Id", b"from-header"),))
    assert context_of(change).trace.request_id == "from-header"


def test_request_id_derives_from_the_place() -> None:
    """A replay would show the same change as another request, or two changes as one."""
    change = as_json(FIELDS, request_id=None)
    first, again = context_of(change).trace.request_id, context_of(change).trace.request_id
    assert first == again
    assert UUID(first).version == 5
    assert context_of(change._replace(offset=42)).trace.request_id != first


def test_unknown_pipeline_is_named() -> None:
    """A change for a pipeline that was never applied would follow another one."""
    with pytest.raises(UnknownPipeline, match="'nightly'"):
        context_of(as_json(FIELDS, pipeline="nightly"))


def test_default_pipeline_is_a_setting() -> None:
    """A deployment could not choose what changes without a pipeline follow."""
    with pytest.raises(UnknownPipeline, match="'other'"):
        context_of(as_json(FIELDS, pipeline=None), default_pipeline="other")


def test_registry_outage_is_no_fault_of_the_record() -> None:
    """Good events would become dead letters while the registry is down."""

    class Down(FixedIds):
        def writer_schema(self, schema_id: int) -> Any:
            raise DependencyDown("schema registry")

    with pytest.raises(DependencyDown):
        decode(FORMS["avro"], Codec(Down()), SETTINGS)


GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "change-events.md"


def test_the_examples_of_the_guide_are_read_as_it_says() -> None:
    """Who copies an example from the guide would get a dead letter."""
    guide = GUIDE.read_text(encoding="utf-8")
    upsert, delete, cloud = re.findall(r"```json\n(.*?)```", guide, re.DOTALL)
    lines, _, text = re.findall(r"```text\n(.*?)```", guide, re.DOTALL)[0].partition("\n\n")
    headers = {name: value.encode() for name, _, value in (line.partition(": ") for line in lines.splitlines())}
    key = b"acme/guides/start.md"
    examples = [
        ("json", record(upsert.encode(), key)),
        ("cloudevents-structured", record(cloud.encode(), key)),
        ("cloudevents-binary", record(text.encode(), key, headers)),
    ]
    for form, change in examples:
        found, event = decode(change, CODEC, SETTINGS)
        assert (found, event.tenant, event.document_id, event.version) == (form, "acme", "guides/start.md", 12)
        assert event.content == "# Getting started\n\nInstall it, then run it.\n"
    deleted = decode(record(delete.encode(), key), CODEC, SETTINGS)[1]
    assert (deleted.operation, deleted.document_id, deleted.version) == (Operation.DELETE, "guides/start.md", 13)
