"""Debezium's envelopes: what a row's change becomes, and what is refused or passed over."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import fastavro
import pytest

from headrace.codec.codec import Codec
from headrace.codec.schema_registry import FixedIds
from headrace.codec.schemas import parse_foreign
from headrace.config.captured_tables import Table, read_tables
from headrace.envelope import Operation
from headrace.errors import ConfigurationError, InvalidRecord, NoChange, UndecodableRecord
from headrace.handlers.pipelines_log import LatestPipeline
from headrace.kafka.broker_contract import Record
from headrace.payloads import ChangeEvent
from headrace_ingest.debezium import UNAVAILABLE
from headrace_ingest.events import IngestDecoder, decode
from headrace_ingest.settings import IngestSettings

pytestmark = pytest.mark.unit

TABLE = Table.model_validate(
    {"tenant": "{owner}", "id": "article/{id}", "title": "{title}", "text": "{lead}\n\n{body}", "acl": "{readers}",
     "attributes": {"author": "{author}", "stars": "{stars}", "draft": "{draft}"}, "media_type": "text/markdown"}
)  # fmt: skip
TABLES = {"public.article": TABLE}
ROW = {
    "owner": "acme", "id": 7, "title": "On dams", "lead": "Lead.", "body": "Body.", "readers": ["group:staff"],
    "author": "Kim", "stars": 4.5, "draft": False, "views": 12,
}  # fmt: skip
SOURCE = {
    "version": "3.7.0.Final", "connector": "postgresql", "name": "shop", "ts_ms": 1_767_312_000_000,
    "snapshot": "false", "db": "postgres", "sequence": '["24","30"]', "schema": "public", "table": "article",
    "txId": 757, "lsn": 30,
}  # fmt: skip
KEY = b'{"owner":"acme","id":7}'
CODEC = Codec(FixedIds())


def envelope(op: str, after: Any = None, before: Any = None, **source: Any) -> dict[str, Any]:
    """An envelope as the connector writes it."""
    return {"before": before, "after": after, "source": SOURCE | source, "transaction": None, "op": op, "ts_ms": 1}


def record(value: Any, key: bytes | None = KEY, offset: int = 41) -> Record:
    """A record of the topic ``changes``."""
    return Record("changes", 0, offset, key, None if value is None else json.dumps(value).encode())


def read(value: Any, key: bytes | None = KEY, tables: dict[str, Table] | None = None) -> ChangeEvent:
    """The change event."""
    form, event = decode(record(value, key), CODEC, IngestSettings(), TABLES if tables is None else tables)
    assert form == "debezium"
    return event


def versioned(version: str) -> dict[str, Table]:
    """The table with another version."""
    given = {"tenant": "acme", "id": "article/{id}", "text": "{body}", "version": version}
    return {"public.article": Table.model_validate(given)}


@pytest.mark.parametrize("op", ["c", "u", "r"])
def test_a_row_becomes_a_document(op: str) -> None:
    """Broken: an insert, an update or a snapshot loses a field."""
    event = read(envelope(op, ROW, ROW if op == "u" else None))
    assert (event.tenant, event.document_id, event.operation) == ("acme", "article/7", Operation.UPSERT)
    assert (event.title, event.content, event.media_type) == ("On dams", "Lead.\n\nBody.", "text/markdown")
    assert event.attributes == {"author": "Kim", "stars": "4.5", "draft": "false"}
    assert (event.acl, event.source, event.version) == (("group:staff",), "shop.public.article", None)
    assert event.occurred_at is not None
    assert event.occurred_at.year == 2026


def test_a_deleted_row_is_a_deleted_document_even_where_only_its_key_was_logged() -> None:
    """Broken: a delete is lost, or needs what the database does not log."""
    event = read(envelope("d", before={"owner": "acme", "id": 7}))
    assert (event.tenant, event.document_id, event.operation) == ("acme", "article/7", Operation.DELETE)
    assert event.content is None


def test_json_with_its_schema_says_the_same() -> None:
    """Broken: the converter's default form is refused."""
    key = json.dumps({"schema": {}, "payload": json.loads(KEY)}).encode()
    assert read({"schema": {"type": "struct"}, "payload": envelope("c", ROW)}, key) == read(envelope("c", ROW))


def test_a_column_that_is_not_used_changes_nothing() -> None:
    """Broken: a counter in the row embeds its text anew."""
    assert read(envelope("u", ROW | {"views": 13, "new_column": None}, ROW)) == read(envelope("u", ROW, ROW))


def test_null_is_no_title_no_attribute_and_an_empty_text() -> None:
    """Broken: a row with an empty body is dead-lettered, or gets the title None."""
    event = read(envelope("c", ROW | {"title": None, "lead": None, "body": None, "author": None}))
    assert (event.title, event.content, event.acl) == (None, "\n\n", ("group:staff",))
    assert event.attributes == {"stars": "4.5", "draft": "false"}


class OneSchema(FixedIds):
    """A registry that knows one foreign schema more, with the id 900, and a key's with 901."""

    def writer_schema(self, schema_id: int) -> Any:
        """Return it."""
        return FOREIGN[schema_id] if schema_id in FOREIGN else super().writer_schema(schema_id)


_COLUMNS = [
    {"name": name, "type": ["null", kind], "default": None}
    for name, kind in (("owner", "string"), ("id", "int"), ("title", "string"), ("lead", "string"), ("body", "string"),
                       ("author", "string"), ("stars", "double"), ("draft", "boolean"))
] + [{"name": "readers", "type": ["null", {"type": "array", "items": "string"}], "default": None}]  # fmt: skip
FOREIGN = {
    900: parse_foreign(json.dumps({
        "type": "record", "name": "Envelope", "namespace": "shop.public.article", "fields": [
            {"name": "before", "default": None,
             "type": ["null", {"type": "record", "name": "Value", "fields": _COLUMNS}]},
            {"name": "after", "type": ["null", "Value"], "default": None},
            {"name": "source", "type": {"type": "record", "name": "Source", "fields": [
                {"name": "name", "type": "string"}, {"name": "ts_ms", "type": "long"},
                {"name": "schema", "type": "string"}, {"name": "table", "type": "string"},
                {"name": "lsn", "type": ["null", "long"], "default": None}]}},
            {"name": "op", "type": "string"}],
    }), "test"),
    902: parse_foreign(json.dumps({
        "type": "record", "name": "Heartbeat", "namespace": "io.debezium.connector.common",
        "fields": [{"name": "ts_ms", "type": "long"}],
    }), "test"),
    901: parse_foreign(json.dumps({
        "type": "record", "name": "Key", "namespace": "shop.public.article",
        "fields": [{"name": "owner", "type": "string"}, {"name": "id", "type": "int"}],
    }), "test"),
}  # fmt: skip


def as_avro(schema_id: int, value: Any) -> bytes:
    """The value as a converter with a registry writes it."""
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, FOREIGN[schema_id], value)
    return struct.pack(">BI", 0, schema_id) + buffer.getvalue()


def test_avro_says_the_same() -> None:
    """Broken: the registry's form is taken for one of our own records."""
    codec = Codec(OneSchema())
    value = as_avro(900, envelope("c", {name: value for name, value in ROW.items() if name != "views"}))
    written = Record("changes", 0, 41, as_avro(901, {"owner": "acme", "id": 7}), value)
    form, event = decode(written, codec, IngestSettings(), TABLES)
    assert (form, event) == ("debezium", read(envelope("c", ROW)))
    beat = Record("changes", 0, 41, as_avro(901, {"owner": "x", "id": 1}), as_avro(902, {"ts_ms": 1}))
    with pytest.raises(NoChange):
        decode(beat, codec, IngestSettings(), TABLES)
    with pytest.raises(UndecodableRecord, match="900"):
        decode(written._replace(value=value[:-3]), codec, IngestSettings(), TABLES)


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (None, KEY),
        ({"ts_ms": 1_767_312_000_000}, b'{"serverName":"shop"}'),
        ({"status": "BEGIN", "id": "757:30", "event_count": None}, b'{"id":"757"}'),
        ({"source": SOURCE, "ddl": "ALTER TABLE article ADD x int", "databaseName": "shop"}, KEY),
        (envelope("m"), b'{"prefix":"x"}'),
    ],
    ids=["tombstone", "heartbeat", "transaction", "schema", "message"],
)
def test_what_tells_of_no_row_is_passed_over(value: Any, key: bytes) -> None:
    """Broken: the dead letters fill with what no document is about, or a tombstone deletes something else."""
    with pytest.raises(NoChange):
        read(value, key)


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ({"id": 5, "status": "published", "tenant": "acme", "content": "hello"}, b"acme/5"),
        ({"id": 5, "status": "published", "body": "hello"}, b'{"id":5}'),
        ({"tenant": "acme", "id": "5", "content": "hello", "ts_ms": 1}, b"acme/5"),
        ({"ts_ms": 1}, b"acme/5"),
        ({"status": "BEGIN", "id": "5"}, b"acme/5"),
    ],
)
def test_what_looks_a_little_like_it_is_a_dead_letter(value: Any, key: bytes) -> None:
    """Broken: an event that forgot its operation vanishes without a trace."""
    with pytest.raises(InvalidRecord):
        read(value, key)


def test_without_mapped_tables_nothing_is_passed_over() -> None:
    """Broken: a malformed event of somebody who captures nothing vanishes."""
    for value, key in ((None, KEY), ({"ts_ms": 1}, KEY)):
        with pytest.raises((InvalidRecord, UndecodableRecord)):
            decode(record(value, key), CODEC, IngestSettings())


@pytest.mark.parametrize(
    ("value", "key", "field", "said"),
    [
        (
            envelope("c", ROW, table="other"),
            KEY,
            "source",
            "'public.other' is not mapped; mapped tables: public.article",
        ),
        (envelope("t"), None, "op", "truncated"),
        (envelope("c", ROW), None, "key", "a row's key is"),
        (envelope("c", ROW), b'{"id":7}', "key", "no column 'owner'"),
        (envelope("c", ROW), b'{"owner":null,"id":7}', "owner", "is empty"),
        (envelope("c", ROW), b'{"owner":["a"],"id":7}', "tenant", "is a list"),
        (envelope("c"), KEY, "after", "is missing"),
        (envelope("u", ROW), KEY, "before", "is missing"),
        (envelope("c", ROW | {"readers": []}), KEY, "acl", "names no principal"),
        (envelope("u", ROW | {"body": UNAVAILABLE}, ROW), KEY, "body", "does not send a large value"),
        (envelope("u", ROW | {"readers": [UNAVAILABLE]}, ROW), KEY, "readers", "does not send a large value"),
        (envelope("c", {name: ROW[name] for name in ROW if name != "lead"}), KEY, "lead", "columns are author, body"),
        (envelope("c", ROW | {"stars": {"scale": 2, "value": "AQ=="}}), KEY, "stars", "is a dict"),
        (envelope("c", ROW | {"lead": ["a", "b"]}), KEY, "lead", "is a list"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_document_is_refused_by_name(value: Any, key: bytes | None, field: str, said: str) -> None:
    """Broken: a row is indexed with a hole in it, or its dead letter does not say why."""
    with pytest.raises(InvalidRecord) as caught:
        read(value, key)
    assert caught.value.field == field
    assert said in caught.value.reason


def test_versions_come_from_the_offset_the_log_or_a_column() -> None:
    """Broken: a delete has the version of the row that it deletes, and is taken for a conflict."""
    lsn, column = versioned("lsn"), versioned("{views}")
    assert read(envelope("c", ROW, lsn=30), tables=lsn).version == 61
    assert read(envelope("d", before=ROW, lsn=30), tables=lsn).version == 60  # a changed key: deleted, then there
    assert read(envelope("u", ROW, ROW), tables=column).version == 24
    assert read(envelope("d", before=ROW), tables=column).version == 25
    with pytest.raises(InvalidRecord, match=r"source\.lsn"):
        read(envelope("c", ROW, lsn=None), tables=lsn)
    with pytest.raises(InvalidRecord, match="whole numbers"):
        read(envelope("c", ROW | {"views": "many"}), tables=column)


def test_the_decoder_takes_the_offset_for_the_version(tmp_path: Path) -> None:
    """Broken: two changes of a row have one version."""
    file = tmp_path / "tables.yaml"
    file.write_text("tables:\n  public.article: {tenant: acme, id: 'a/{id}', text: '{body}'}\n")
    latest: LatestPipeline = lambda _: ("default", 1)  # noqa: E731
    decoder = IngestDecoder(CODEC, latest, IngestSettings(tables=file))
    context = decoder(record(envelope("c", ROW), offset=99))
    assert (context.change.document_id, context.change.version) == ("a/7", 99)


def given(tmp_path: Path, text: str) -> Path:
    """A file with the text."""
    path = tmp_path / "tables.yaml"
    path.write_text(text)
    return path


GOOD = "tables:\n  public.article:\n    tenant: acme\n    id: '{id}'\n    text: '{body}'\n"


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (GOOD + "    titel: '{t}'\n", 6, "public.article.titel: is an unknown field"),
        (GOOD.replace("'{id}'", "all"), 4, "does not name a column"),
        (GOOD.replace("'{body}'", "'{body!r}'"), 5, "write only a column name between braces"),
        (GOOD.replace("'{body}'", "'{body'"), 5, "expected '}'"),
        (GOOD.replace("acme", "3"), 3, "put it in quotes"),
        (GOOD + "    version: latest\n", 6, "use offset, lsn or a column in braces"),
        (
            "tables:\n  public.article:\n    id: '{id}'\n    text: '{body}'\n",
            2,
            "article.tenant: is missing",
        ),
        ("tables:\n  public.article: 3\n", 2, "public.article: 3 is not a mapping of names to values"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(tmp_path: Path, text: str, line: int, said: str) -> None:
    """Broken: a slip of the pen is noticed in the dead letters."""
    with pytest.raises(ConfigurationError) as caught:
        read_tables(given(tmp_path, text))
    assert said in caught.value.message
    assert caught.value.where.endswith(f"tables.yaml:{line}")


@pytest.mark.parametrize("text", ["tables: [", "[]", "tables: 3", "other: {}", "\x00"])
def test_what_is_no_such_file_is_refused(tmp_path: Path, text: str) -> None:
    """Broken: ingest starts with no table mapped."""
    with pytest.raises(ConfigurationError, match=r"tables\.yaml"):
        raise ConfigurationError(str(_refusal(given(tmp_path, text))))


def test_a_file_that_does_not_exist_is_told_with_what_to_do(tmp_path: Path) -> None:
    """Broken: `headrace up --tables FILE` and `headrace capture check FILE` answer an error number."""
    error = _refusal(tmp_path / "tabels.yaml")
    assert "file 'tabels.yaml' does not exist" in error.message
    assert "Errno" not in error.message
    assert error.where == str(tmp_path / "tabels.yaml")
    assert "maps table rows to documents" in error.remedy


def _refusal(path: Path) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        read_tables(path)
    return caught.value
