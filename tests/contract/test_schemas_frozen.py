"""Released schemas stay readable: old bytes by new readers, new bytes by old ones, and the code's types fit both."""

from __future__ import annotations

import copy
import dataclasses
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headrace import envelope, payloads
from headrace.codec import schemas
from headrace.codec.codec import ENVELOPES, PLAIN, Codec
from headrace.errors import UndecodableRecord
from headrace.topology import topics
from headrace_tools import frozen

pytestmark = pytest.mark.contract

RECORDS = frozen.record_names()
PAIRS = [(name, version) for name in RECORDS for version in frozen.versions(name)]
IDS = [f"{name}-{version.number}" for name, version in PAIRS]
NESTED: dict[type, str] = {
    envelope.Change: "headrace.Change",
    envelope.StageRun: "headrace.StageRun",
    envelope.Trace: "headrace.Trace",
    payloads.Chunk: "headrace.ChunkPart",
    payloads.Citation: "headrace.Citation",
    payloads.HeaderPart: "headrace.HeaderPart",
}
TYPES: list[tuple[type, str]] = [
    *((cls, f"{name}Payload") for cls, name in ENVELOPES.items()),
    *PLAIN.items(),
    *NESTED.items(),
]


class OneSchema:
    """Schema ids where the number 1 is one frozen schema."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._schema = schema

    def id_of(self, name: str) -> int:
        raise AssertionError(name)

    def writer_schema(self, schema_id: int) -> Any:
        if schema_id != 1:
            raise UndecodableRecord(f"no schema {schema_id}")
        return self._schema


@pytest.mark.parametrize("name", RECORDS)
def test_the_current_schema_is_the_newest_frozen_one(name: str) -> None:
    """Broken: a service would ship with a schema that was never checked against the released ones."""
    known = frozen.versions(name)
    assert known, f"{name} was never frozen: run `make freeze`"
    assert known[-1].schema == schemas.inline(name), f"{name} differs from its frozen version: run `make freeze`"
    assert [version.number for version in known] == list(range(1, len(known) + 1))


@pytest.mark.parametrize(("name", "version"), PAIRS, ids=IDS)
def test_old_bytes_are_read_by_the_code(name: str, version: frozen.Frozen) -> None:
    """Broken: after an upgrade, records that lie in the log cannot be read any more."""
    wire = struct.pack(">BI", 0, 1) + version.data
    codec = Codec(OneSchema(version.schema))
    envelopes = {schema: cls for cls, schema in ENVELOPES.items()}
    plain = {schema: cls for cls, schema in PLAIN.items()}
    written = frozen.decode(version.data, version.schema, version.schema)
    if name in envelopes:
        context = codec.decode(wire, envelopes[name])
        assert context.change.document_id == written["change"]["document_id"]
        assert len(context.trace.history) == len(written["trace"]["history"]) > 0
        assert dict(context.metadata) == written["metadata"]
        assert isinstance(context.payload, envelopes[name])
        kept = [key for key in written["payload"] if getattr(context.payload, key, None) is not None]
        assert len(kept) >= 3
    elif name in plain:
        record = codec.decode_plain(wire, plain[name])
        assert isinstance(record, plain[name])
        kept = [key for key in written if getattr(record, key, None) is not None]
        assert len(kept) >= 3
    else:
        assert written.items() <= frozen.decode(version.data, version.schema, schemas.inline(name)).items()


@pytest.mark.parametrize("name", RECORDS)
def test_every_pair_of_versions_reads_each_other(name: str) -> None:
    """Broken: two services of different releases beside each other cannot read what the other writes."""
    known = frozen.versions(name)
    for version in known:
        frozen.check(name, version.schema, known)
    frozen.check(name, schemas.inline(name), known)


def _without_field(schema: dict[str, Any]) -> None:
    schema["fields"] = [field for field in schema["fields"] if field["name"] != "tenant"]


def _with_field(schema: dict[str, Any]) -> None:
    schema["fields"].append({"name": "language", "type": "string", "doc": "Language."})


def _retyped(schema: dict[str, Any]) -> None:
    next(field for field in schema["fields"] if field["name"] == "document_id")["type"] = "long"


def _narrowed(schema: dict[str, Any]) -> None:
    next(field for field in schema["fields"] if field["name"] == "version")["type"] = ["null", "int"]


def _wider_union(schema: dict[str, Any]) -> None:
    next(field for field in schema["fields"] if field["name"] == "title")["type"] = ["null", "string", "long"]


@pytest.mark.parametrize(
    ("change", "direction"),
    [
        (_without_field, "forward"),
        (_with_field, "backward"),
        (_retyped, "backward"),
        (_narrowed, "backward"),
        (_wider_union, "forward"),
    ],
)
def test_an_incompatible_change_is_refused(
    change: Callable[[dict[str, Any]], None], direction: str, tmp_path: Path
) -> None:
    """Broken: a schema that others cannot read is frozen, and found out in production."""
    name = "headrace.ChangeEvent"
    schema = schemas.inline(name)
    assert frozen.freeze(name, schema, tmp_path) == 1
    changed = copy.deepcopy(schema)
    change(changed)
    with pytest.raises(frozen.IncompatibleSchema, match=rf"FULL_TRANSITIVE \({direction}\).*{name}, frozen version 1"):
        frozen.freeze(name, changed, tmp_path)
    assert [version.number for version in frozen.versions(name, tmp_path)] == [1]


def test_a_compatible_change_is_frozen_once(tmp_path: Path) -> None:
    """Broken: a field with a default cannot be added, or each run freezes another version."""
    name = "headrace.ChangeEvent"
    schema = schemas.inline(name)
    frozen.freeze(name, schema, tmp_path)
    schema["fields"].append({"name": "colour", "type": ["null", "string"], "doc": "Colour.", "default": None})
    assert frozen.freeze(name, schema, tmp_path) == 2
    assert frozen.freeze(name, schema, tmp_path) is None
    old, new = frozen.versions(name, tmp_path)
    assert frozen.decode(old.data, old.schema, new.schema)["colour"] is None
    assert "colour" not in frozen.decode(new.data, new.schema, old.schema)


def test_a_version_is_checked_against_all_before_it(tmp_path: Path) -> None:
    """Broken: two steps that are each compatible break with the version before the last."""
    name = "headrace.ChangeEvent"
    schema = schemas.inline(name)
    frozen.freeze(name, schema, tmp_path)
    schema["fields"].append({"name": "colour", "type": "string", "doc": "Colour.", "default": ""})
    frozen.freeze(name, schema, tmp_path)
    del schema["fields"][-1]["default"]
    with pytest.raises(frozen.IncompatibleSchema, match="frozen version 1"):
        frozen.freeze(name, schema, tmp_path)


def test_topics_name_schemas_that_exist() -> None:
    """Broken: a topic is declared for a record that nobody can encode."""
    assert [topic.name for topic in topics.declared() if topic.schema and topic.schema not in schemas.names()] == []


@pytest.mark.parametrize(("cls", "name"), TYPES, ids=[name for _, name in TYPES])
def test_a_type_has_exactly_the_fields_of_its_schema(cls: type, name: str) -> None:
    """Broken: a field is lost, or refused, between the code and the wire."""
    assert name in schemas.names()
    written = [field["name"] for field in schemas.inline(name)["fields"]]
    assert sorted(written) == sorted(field.name for field in dataclasses.fields(cls))


def test_every_topic_s_record_has_a_type_that_encodes_it() -> None:
    """Broken: a topic's record has no frozen type, so nobody can write it."""
    assert set(RECORDS) == {*ENVELOPES.values(), *PLAIN.values()}
