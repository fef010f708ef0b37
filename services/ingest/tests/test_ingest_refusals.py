"""What is refused, with the field and the reason that the dead letter shows."""

# ruff: noqa: E501 - a refusal stands on one line with the record that causes it

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headrace.codec.codec import Codec
from headrace.codec.schema_registry import FixedIds
from headrace.envelope import Operation
from headrace.errors import InvalidRecord, PermanentError, UndecodableRecord
from headrace.handlers.pipelines_log import PipelineCatalogue
from headrace.kafka.broker_contract import Record
from headrace.payloads import ChangeEvent, DeadLetter, PipelineVersion
from headrace_ingest.events import IngestDecoder, decode
from headrace_ingest.settings import IngestSettings

pytestmark = pytest.mark.unit

CODEC = Codec(FixedIds())
SMALL = IngestSettings(max_content_bytes=64, max_event_bytes=20_000, max_attributes=2, max_attribute_characters=16)
KEY = b"acme/a.md"
FIELDS = {"tenant": "acme", "id": "a.md", "op": "upsert", "version": 7, "content": "text"}
CLOUD = {"specversion": "1.0", "id": "1", "source": "/s", "type": "doc.upserted", "subject": "a.md"}
CLOUD_TEXT = {**CLOUD, "datacontenttype": "text/plain", "data": "text"}
HEADERS = {
    "ce_specversion": b"1.0", "ce_id": b"1", "ce_source": b"/s", "ce_type": b"doc.upserted", "ce_subject": b"a.md",
    "content-type": b"text/plain",
}  # fmt: skip


def record(value: bytes | None, key: bytes | None = KEY, headers: Any = ()) -> Record:
    """Return a record of the topic."""
    pairs = tuple(headers.items()) if isinstance(headers, dict) else headers
    return Record("changes", 0, 5, key, value, pairs)


def as_json(fields: dict[str, Any], **changed: Any) -> Record:
    """Return a record with the fields as JSON, some of them changed."""
    return record(json.dumps({**fields, **changed}).encode())


def as_binary(**changed: bytes | None) -> Record:
    """Return a CloudEvent with text in binary mode, some headers changed; __ stands for -."""
    return record(b"text", headers={**HEADERS, **{name.replace("__", "-"): value for name, value in changed.items()}})


def avro(**changed: Any) -> Record:
    """Return an upsert in Avro, some fields changed."""
    fields: dict[str, Any] = {"tenant": "acme", "document_id": "a.md", "operation": Operation.UPSERT, "content": "text"}
    return record(CODEC.encode_plain(ChangeEvent(**{**fields, **changed})))


FIELD_REFUSALS = [
    (record(b"{}", key=None), "key", "is empty"),
    (record(b"{}", key=b""), "key", "is empty"),
    (record(b"{}", key=b"acme/\xff"), "key", "is not UTF-8: 0xff at byte 5"),
    (as_json(FIELDS)._replace(key=b"acme/b.md"), "key", "is b'acme/b.md', but the event is for b'acme/a.md'"),
    (as_json(FIELDS)._replace(key=b"a.md"), "key", "is b'a.md', but the event is for b'acme/a.md'"),
    (as_json(FIELDS, tenant="other"), "key", "is b'acme/a.md', but the event is for b'other/a.md'"),
    (as_json(FIELDS, tenant=None)._replace(key=b"a.md"), "tenant", "is missing or empty"),
    (as_json(FIELDS, id=None)._replace(key=b"acme/"), "document_id", "is missing or empty"),
    (as_json(FIELDS, tenant=5), "tenant", "is a int, not a string"),
    (as_json(FIELDS, tenant="a/b"), "tenant", "'a/b' contains '/', which is reserved: it separates tenant and document in keys"),
    (as_json(FIELDS, id="x" * 513), "document_id", "has 513 characters; the limit is 512"),
    (as_json(FIELDS, id="a\x00"), "document_id", "contains a NUL character at position 1; remove it"),
    (as_json(FIELDS, document_id="b.md"), "document_id", "is given twice: also as 'document_id', with another value"),
    (as_json(FIELDS, op=None), "operation", "is missing; use upsert or delete"),
    (as_json(FIELDS, op="merge"), "operation", "'merge' is not known; use upsert or delete"),
    (as_json(FIELDS, op=1), "operation", "1 is not known; use upsert or delete"),
    (as_json(FIELDS, version=-1), "version", "is -1; versions run from 0 to 2^63-1"),
    (as_json(FIELDS, version="-1"), "version", "is -1; versions run from 0 to 2^63-1"),
    (as_json(FIELDS, version=2**63), "version", f"is {2**63}; versions run from 0 to 2^63-1"),
    (as_json(FIELDS, version=True), "version", "is True; a version is a whole number"),
    (as_json(FIELDS, version=1.0), "version", "is 1.0; a version is a whole number"),
    (as_json(FIELDS, version="v1"), "version", "is 'v1'; a version is a whole number"),
    (as_json(FIELDS, content=None), "content", "is missing"),
    (as_json(FIELDS, content=["text"]), "content", "is a list, not a string"),
    (as_json(FIELDS, content="한" * 22), "content", "has 66 bytes; the limit is 64"),
    (as_json(FIELDS, content="a\x00b"), "content", "contains a NUL character at position 1; remove it"),
    (as_json(FIELDS, content="ab\ud800"), "content", "contains a lone surrogate at character 2"),
    (record(json.dumps(FIELDS).encode().replace(b'"text"', b'"te\xffxt"')), "content", "is not UTF-8: 0xff at byte 77 of the record"),
    (as_json(FIELDS, title="x" * 17), "title", "has 17 characters; the limit is 16"),
    (as_json(FIELDS, source="x" * 17), "source", "has 17 characters; the limit is 16"),
    (as_json(FIELDS, media_type="image/png"), "media_type", "'image/png' is not supported; use one of text/plain, text/markdown, text/x-rst, application/pdf, application/vnd.openxmlformats-officedocument.wordprocessingml.document, text/html, application/json"),
    (as_json(FIELDS, media_type="application/pdf"), "content", "is text, but application/pdf is binary"),
    (as_json(FIELDS, content_base64="YQ=="), "data", "is given together with content"),
    (as_json(FIELDS, content=None, content_base64="YQ==", reference="https://a/b"), "reference", "is given together with data"),
    (as_json(FIELDS, content=None, content_base64="Y"), "content_base64", "is not base64: Invalid base64-encoded string: number of data characters (1) cannot be 1 more than a multiple of 4"),
    (as_json(FIELDS, content=None, content_base64=5), "content_base64", "is a int, not a string"),
    (as_json(FIELDS, content=None, reference="x" * 4097), "reference", "has 4097 characters; the limit is 4096"),
    (as_json(FIELDS, language="Deutsch!"), "language", "'Deutsch!' is not a language tag; use a tag such as en, ko or pt-BR"),
    (as_json(FIELDS, pages=[3, 1]), "pages", "must list the offset of the first character of each page, in ascending order"),
    (as_json(FIELDS, pages=[0, True]), "pages", "must list the offset of the first character of each page, in ascending order"),
    (as_json(FIELDS, pages=[0, 9]), "pages", "has a page at 9, but the text has 4 characters"),
    (as_json(FIELDS, content=None, content_base64="YQ==", pages=[0]), "pages", "is given for a file; ingest reads the pages from the file"),
    (as_json(FIELDS, attributes=[1]), "attributes", "is a list, not an object"),
    (as_json(FIELDS, attributes={"a": 1, "b": 2, "c": 3}), "attributes", "has 3 entries; the limit is 2"),
    (as_json(FIELDS, attributes={"a b": "1"}), "attributes", "invalid attribute name 'a b': use 1-128 letters, digits, '_' or '-'"),
    (as_json(FIELDS, attributes={"a": {"b": 1}}), "attributes.a", "is not a string, a number or a boolean"),
    (as_json(FIELDS, attributes={"a": None}), "attributes.a", "is not a string, a number or a boolean"),
    (as_json(FIELDS, attributes={"a": "x" * 17}), "attributes.a", "has 17 characters; the limit is 16"),
    (as_json(FIELDS, acl="all"), "acl", "is not a list of strings"),
    (as_json(FIELDS, acl=[1]), "acl", "is not a list of strings"),
    (as_json(FIELDS, acl=[""]), "acl", "'' is no principal; allowed: user:NAME, group:NAME, project:NAME"),
    (as_json(FIELDS, acl=["team"]), "acl", "'team' is no principal; allowed: user:NAME, group:NAME, project:NAME"),
    (as_json(FIELDS, acl=["user: "]), "acl", "user ' ' has no name, or white space around it"),
    (as_json(FIELDS, acl=["group:a\tb"]), "acl", "the name of a group, 'a\\tb', has control characters"),
    (as_json(FIELDS, acl=["user:" + "a" * 256]), "acl", "the name of a user has 256 characters; the limit is 255"),
    (as_json(FIELDS, acl=["user:a"] * 1025), "acl", "has 1025 entries; the limit is 1024"),
    (as_json(FIELDS, pipeline="x" * 129), "pipeline", "has 129 characters; the limit is 128"),
    (as_json(FIELDS, request_id="x" * 129), "request_id", "has 129 characters; the limit is 128"),
    (as_json(FIELDS)._replace(headers=(("request-id", b"\xff"),)), "request-id", "is not UTF-8: 0xff at byte 0"),
    (as_json(FIELDS, updated_at="yesterday"), "occurred_at", "'yesterday' is neither seconds since 1970 nor an ISO 8601 time"),
    (as_json(FIELDS, updated_at=1e300), "occurred_at", "1e+300 is neither seconds since 1970 nor an ISO 8601 time"),
    (as_json(FIELDS, updated_at=True), "occurred_at", "True is neither seconds since 1970 nor an ISO 8601 time"),
    (as_json(FIELDS, ignored="x" * 20_000), "value", "has 20096 bytes; the limit is 20000"),
    (avro(version=-1), "version", "is -1; versions run from 0 to 2^63-1"),
    (avro(tenant="")._replace(key=b"a.md"), "tenant", "is missing or empty"),
    (avro(content=None), "content", "is missing"),
    (avro(content="x" * 65), "content", "has 65 bytes; the limit is 64"),
    (avro(media_type="text/xml"), "media_type", "'text/xml' is not supported; use one of text/plain, text/markdown, text/x-rst, application/pdf, application/vnd.openxmlformats-officedocument.wordprocessingml.document, text/html, application/json"),
    (avro(attributes={"a.b": "1"}), "attributes", "invalid attribute name 'a.b': use 1-128 letters, digits, '_' or '-'"),
    (as_json(CLOUD_TEXT, subject=None)._replace(key=b"acme/"), "subject", "is missing or empty"),
    (as_binary(ce_subject=None)._replace(key=b"acme/"), "subject", "is missing or empty"),
    (as_json(CLOUD_TEXT, id=None), "id", "is missing; a CloudEvent requires specversion, id, source and type"),
    (as_json(CLOUD_TEXT, id=1), "id", "Attribute 'id' must be a <class 'str'>"),
    (as_json(CLOUD_TEXT, specversion="0.3"), "specversion", "Attribute 'specversion' must be '1.0'"),
    (as_json(CLOUD_TEXT, time=5), "time", "is a int, not a string"),
    (as_json(CLOUD_TEXT, time="2026-01-01T00:00:00"), "time", "Attribute 'time' must be timezone aware"),
    (as_json(CLOUD_TEXT, type="doc.archived"), "type", "'doc.archived' does not end with a known operation; use one of upsert, upserted, create, created, update, updated, change, changed, delete, deleted, remove, removed"),
    (as_json(CLOUD_TEXT, datacontenttype="application/pdf"), "data", "is a str with content type 'application/pdf', which ingest does not support"),
    (as_json(CLOUD_TEXT, datacontenttype="text/xml"), "media_type", "'text/xml' is not supported; use one of text/plain, text/markdown, text/x-rst, application/pdf, application/vnd.openxmlformats-officedocument.wordprocessingml.document, text/html, application/json"),
    (as_json(CLOUD, data=[1]), "data", "is a list with content type None, which ingest does not support"),
    (as_json(CLOUD, data="text"), "data", "is a str with content type None, which ingest does not support"),
    (as_json(CLOUD_TEXT, data_base64="dGV4dA=="), "data", "is given twice: as data and as data_base64"),
    (as_json(CLOUD_TEXT, data=None, data_base64=5), "data_base64", "is a int, not a string"),
    (as_json(CLOUD_TEXT, data=None, data_base64="/w=="), "content", "is not UTF-8: 0xff at byte 0"),
    (as_json(CLOUD_TEXT, data=None), "content", "is missing"),
    (as_json(CLOUD_TEXT, **{"\ud800": "x"}), "\\ud800", "Extension attribute '\\ud800' should only contain lowercase letters and numbers"),
    (as_binary(ce_specversion=None), "specversion", "is missing; a CloudEvent requires specversion, id, source and type"),
    (as_binary(ce_source=b"\xff"), "ce_source", "is not UTF-8: 0xff at byte 0"),
    (as_binary(ce_version=b"-2"), "version", "is -2; versions run from 0 to 2^63-1"),
    (as_binary(ce_time=b"noon"), "time", "is not a date and time in RFC 3339 format"),
    (as_binary(content__type=b"image/png"), "datacontenttype", "'image/png' is not supported; use JSON, text or one of application/pdf, application/vnd.openxmlformats-officedocument.wordprocessingml.document, application/octet-stream, application/zip, binary/octet-stream"),
    (as_binary()._replace(value=b"a\xff"), "content", "is not UTF-8: 0xff at byte 1"),
    (as_binary()._replace(value=None), "content", "is missing"),
    (record(b"text", headers=(*HEADERS.items(), ("CE_ID", b"2"))), "ce_id", "is given twice"),
    (record(b"[]", headers={"content-type": b"application/cloudevents-batch+json"}), "content-type", "is 'application/cloudevents-batch+json'; use application/cloudevents+json"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "field", "reason"), FIELD_REFUSALS)
def test_a_bad_field_is_refused_by_name(change: Record, field: str, reason: str) -> None:
    """A bad event would enter the flow, or its dead letter would not say what to repair."""
    with pytest.raises(InvalidRecord) as caught:
        decode(change, CODEC, SMALL)
    assert (caught.value.field, caught.value.reason) == (field, reason)


DEEP = b'{"a":' + b"[" * 19_000
UNDECODABLE = [
    (record(None), "the record has no value"),
    (record(b""), "the record has no value"),
    (record(b"hello"), "it starts with 68656c6c6f"),
    (record(b"[]"), "neither Avro with a schema ID nor a JSON object"),
    (record(b"\xef\xbb\xbf{}"), "it starts with efbbbf7b7d"),
    (record(b'{"a": 1'), "the record is not a JSON object: Expecting"),
    (record(b'{"a": 1, "a": 2}'), "the key 'a' occurs twice"),
    (record(b'{"attributes": {"b": 1, "b": 2}}'), "the key 'b' occurs twice"),
    (record(b'{"a": NaN}'), "NaN is not a JSON number"),
    (record(b'{"a": -Infinity}'), "-Infinity is not a JSON number"),
    (record(b'{"a": 1e999}'), "the number 1e999 is too large"),
    (record(b'{"a": ' + b"1" * 5000 + b"}"), "Exceeds the limit"),
    (record(b'{"\xff": 1'), "the record is not UTF-8: 0xff at byte 2"),
    (record(DEEP), "the record is nested too deeply"),
    (record(b"\x00\x00\x00\x00"), "no Confluent header"),
    (record(b"\x00\x00\x00\xff\xff1"), "no schema with ID 65"),
    (avro()._replace(value=(avro().value or b"")[:-3]), "do not decode as headrace.ChangeEvent"),
    (avro()._replace(value=(avro().value or b"") + b"x"), "1 bytes follow the record"),
    (
        avro()._replace(value=(avro().value or b"").replace(b"text", b"te\xff\xff")),
        "content is not UTF-8: 0xff at byte 2",
    ),
    (record(b"[]", headers={"content-type": b"application/cloudevents+json"}), "the CloudEvent is a JSON list"),
    (
        record(b"{", headers={**HEADERS, "content-type": b"application/json"}),
        "the CloudEvent's data is not a JSON object",
    ),
    (as_json(CLOUD_TEXT, data=None, data_base64="?"), "data_base64: is not base64"),
]


@pytest.mark.parametrize(("change", "reason"), UNDECODABLE)
def test_bytes_of_no_form_are_refused_with_the_reason(change: Record, reason: str) -> None:
    """Bytes that are no event would stop the stage, or be taken for something that nobody sent."""
    with pytest.raises(UndecodableRecord) as caught:
        decode(change, CODEC, SMALL)
    assert reason in str(caught.value)


def test_a_delete_needs_no_content() -> None:
    """Deletes would be refused and documents stay searchable for ever."""
    assert decode(as_json(FIELDS, op="delete", content=None), CODEC, SMALL)[1].operation is Operation.DELETE


def test_limits_are_met_exactly() -> None:
    """A document at the limit would be refused."""
    event = decode(as_json(FIELDS, content="x" * 64, title="t" * 16, attributes={"a" * 128: "x" * 16, "b": ""}), CODEC, SMALL)[1]  # fmt: skip
    assert len(event.content or "") == 64


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.characters(categories=["Cs"])
JSON_VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=6)  # fmt: skip
NAMES = st.sampled_from(
    ["tenant", "id", "document_id", "op", "operation", "version", "title", "content", "media_type", "content_type", "source", "attributes", "acl", "pipeline", "request_id", "requested_by", "updated_at", "occurred_at", "specversion", "type", "time", "subject", "data", "data_base64", "datacontenttype"]
) | st.text(max_size=3)  # fmt: skip
OBJECTS = st.builds(
    lambda base, changes: json.dumps({**base, **changes}).encode(),
    st.sampled_from([FIELDS, CLOUD, CLOUD_TEXT, {**CLOUD, "data": FIELDS}, {}]),
    st.dictionaries(NAMES, JSON_VALUES, max_size=4),
)
AVRO_VALUE = avro().value or b""
FLIPPED = st.builds(
    lambda at, byte: AVRO_VALUE[:at] + bytes([byte]) + AVRO_VALUE[at + 1 :],
    st.integers(5, len(AVRO_VALUE) - 1),
    st.integers(0, 255),
)
HEADER_NAMES = st.sampled_from(["ce_tenant", "ce_time", "ce_Version", "CE_data", "Content-Type", "request-id"])
HEADER_PAIRS = st.tuples(
    st.sampled_from(sorted(HEADERS)) | HEADER_NAMES | st.text(max_size=8),
    st.none()
    | st.binary(max_size=12)
    | st.sampled_from([b"application/json", b"application/cloudevents+json", b"1.0"]),
)
RECORDS = st.builds(
    Record,
    st.just("changes"), st.just(0), st.just(5),
    st.just(KEY) | st.none() | st.binary(max_size=8),
    OBJECTS | FLIPPED | st.binary(max_size=60) | st.binary(max_size=60).map(lambda tail: b"\x00\x00\x00\x00\x03" + tail)
    | st.none(),
    st.builds(lambda base, more: (*base, *more), st.sampled_from([(), tuple(HEADERS.items())]), st.lists(HEADER_PAIRS, max_size=3)),
)  # fmt: skip


def _catalogue() -> PipelineCatalogue:
    pipelines = PipelineCatalogue()
    pipelines.add(PipelineVersion("default", 1, "{}", "digest", "tests", datetime(2026, 1, 1, tzinfo=UTC)))
    return pipelines


DECODER = IngestDecoder(CODEC, _catalogue().latest, IngestSettings())


def _check_dead_letter(change: Record, error: PermanentError) -> None:
    """Fail where the dead letter of this refusal could not be written."""
    letter = DeadLetter(
        stage="ingest", reason=error.code, message=str(error), remedy=error.remedy, stack=None, handler=None,
        attempt=1, topic="changes", partition=0, offset=5, timestamp=datetime(2026, 1, 1, tzinfo=UTC),
        key=change.key, value=change.value, headers=(), failed_at=datetime(2026, 1, 1, tzinfo=UTC), worker="w",
    )  # fmt: skip
    assert CODEC.encode_plain(letter)
    assert not isinstance(error, InvalidRecord) or len(str(error)) < 2000


@settings(max_examples=800, derandomize=True)
@given(RECORDS)
@example(record(json.dumps({**CLOUD_TEXT, "\ud800": 1}).encode()))
@example(record(b"text", headers={**HEADERS, "ce_\ud800": b"x"}))
@example(as_json(FIELDS, pipeline="\u0000"))
def test_no_bytes_raise_anything_but_a_permanent_error(change: Record) -> None:
    """One hostile record would stop the stage; a dead letter that Avro cannot carry would stop it for ever."""
    try:
        context = DECODER(change)
    except PermanentError as error:
        _check_dead_letter(change, error)
    else:
        assert context.change.key == change.key
        assert all(len(key) <= 133 for key in context.metadata)
