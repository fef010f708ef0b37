"""Debezium's envelopes: converts a row's change to the fields of a change event, by the mapping of its table.

The format follows Debezium's documentation of its PostgreSQL connector: ``before``, ``after``, ``source`` and ``op``
(c, u, r, d, t, m), in JSON with or without its schema, or in Avro.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.codec.codec import MAGIC, Codec
from headrace.config.captured_tables import LSN, OFFSET, Table, Template
from headrace.errors import InvalidRecord, NoChange
from headrace_ingest.strict_json import parse_object

UNAVAILABLE = "__debezium_unavailable_value"
"""Debezium's placeholder for a large value that an update did not change and the database did not send."""
_UPSERTS = ("c", "u", "r")
_UPDATE, _DELETE, _TRUNCATE, _MESSAGE = "u", "d", "t", "m"
_OPERATIONS = (*_UPSERTS, _DELETE, _TRUNCATE, _MESSAGE)
_HEARTBEAT = {"ts_ms"}
_MARK = {"status", "id", "ts_ms", "event_count", "data_collections"}
_MARKS = ("BEGIN", "END")
_ENVELOPE = ".Envelope"
_OWN = "io.debezium.connector."
"""Prefix of Debezium's schemas for records that are not about rows."""


def unwrapped(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the envelope without the schema that JSON may include."""
    inner = fields.get("payload")
    return inner if set(fields) == {"schema", "payload"} and isinstance(inner, Mapping) else fields


def is_envelope(fields: Mapping[str, Any]) -> bool:
    """Return whether this is Debezium's envelope. In a plain change event, source is text and op is a word."""
    return isinstance(fields.get("source"), Mapping) and fields.get("op") in _OPERATIONS


def is_envelope_name(schema: str) -> bool:
    """Return whether this is the name of an Avro schema for Debezium's envelopes."""
    return schema.endswith(_ENVELOPE)


def is_other_name(schema: str) -> bool:
    """Return whether this is the name of a Debezium schema for records that are not about rows."""
    return schema.startswith(_OWN)


def tells_no_row(fields: Mapping[str, Any], key: bytes | None) -> bool:
    """Return whether this is another Debezium record: a heartbeat, a transaction mark or a schema change."""
    if not is_row_key(key):
        return False
    names = set(fields)
    mark = fields.get("status") in _MARKS and names <= _MARK
    return mark or names == _HEARTBEAT or ("ddl" in names and isinstance(fields.get("source"), Mapping))


def is_row_key(key: bytes | None) -> bool:
    """Return whether this is a row's key, a JSON object or Avro record, and not a document's, tenant/document_id."""
    return key is not None and key[:1] in (b"{", b"\x00")


def read_key(key: bytes, codec: Codec) -> Mapping[str, Any]:
    """Return the key's columns; raises :class:`InvalidRecord` and the codec's errors."""
    found = codec.decode_foreign(key) if key[0] == MAGIC else parse_object(key, "the key")
    columns = unwrapped(found) if isinstance(found, Mapping) else None
    if columns is None:
        raise InvalidRecord("key", f"is a {type(found).__name__}, not an object of columns")
    return columns


def read(envelope: Mapping[str, Any], key: bytes, tables: Mapping[str, Table], codec: Codec) -> dict[str, Any]:
    """Return the fields of the change event for the row's change.

    Raises :class:`NoChange` for a record that is not about a row, and :class:`InvalidRecord` that names the column, or
    the table and the mapped tables.
    """
    operation = envelope["op"]
    if operation == _MESSAGE:
        raise NoChange("a logical decoding message")
    source = envelope["source"]
    name, table = _table(source, tables)
    if operation == _TRUNCATE:
        raise InvalidRecord(
            "op", f"{name} was truncated; the event does not name the rows, so the documents stay in the index",
            remedy="Run `headrace capture reconcile` to delete the documents whose rows are gone.",
        )  # fmt: skip
    if not is_row_key(key):
        raise InvalidRecord(
            "key",
            f"is {key[:200]!r}; a row's key is a JSON object or an Avro record",
            remedy="Give the table a primary key.",
        )
    fields = _identity(name, table, read_key(key, codec))
    fields["occurred_at"] = source["ts_ms"] / 1000 if isinstance(source.get("ts_ms"), (int, float)) else None
    row = envelope.get("before" if operation == _DELETE else "after")
    fields["version"] = _version(table, source, row, deleted=operation == _DELETE)
    if operation == _DELETE:
        return fields | {"operation": "delete"}
    if not isinstance(row, Mapping):
        raise InvalidRecord("after", "is missing; inserts, updates and reads must carry the row")
    if operation == _UPDATE and envelope.get("before") is None:
        raise InvalidRecord(
            "before", "is missing, so ingest cannot tell whether the row was a different document before",
            remedy=f"Run `ALTER TABLE {schema_and_table(source)} REPLICA IDENTITY FULL`, then update the row again.",
        )  # fmt: skip
    return fields | {"operation": "upsert", "source": name, "pipeline": table.pipeline} | _document(table, row)


def _table(source: Mapping[str, Any], tables: Mapping[str, Table]) -> tuple[str, Table]:
    """Return the table's full name and its mapping, by full name or by ``schema.table``."""
    short = schema_and_table(source)
    full = f"{source.get('name')}.{short}"
    found = tables.get(full) or tables.get(short)
    if found is None:
        mapped = ", ".join(sorted(tables)) or "none"
        raise InvalidRecord(
            "source", f"table {short!r:.200} is not mapped; mapped tables: {mapped}"[:1000],
            remedy="Map it in the file that HEADRACE_INGEST_TABLES names, restart ingest and redrive; or remove the "
            "table from the capture.",
        )  # fmt: skip
    return full, found


def schema_and_table(source: Mapping[str, Any]) -> str:
    """Return the table's name with its schema; MySQL uses databases as schemas."""
    return f"{source.get('schema') or source.get('db')}.{source.get('table')}"


def _identity(name: str, table: Table, key: Mapping[str, Any]) -> dict[str, Any]:
    """Return tenant and document ID from the row's key alone, so all changes of a document have the same key."""
    for column in table.identity:
        if column not in key:
            raise InvalidRecord(
                "key", f"has no column {column!r}, which identifies the document of {name}; it has "
                f"{', '.join(sorted(key))}",
                remedy="List the columns for tenant and id in the connector's message.key.columns.",
            )  # fmt: skip
        if key[column] in (None, ""):
            raise InvalidRecord(column, f"is empty, but it identifies the document of {name}")
    return {"tenant": _single(table.tenant, key, "tenant"), "document_id": _single(table.id, key, "id")}


def _single(template: Template, row: Mapping[str, Any], field: str) -> str:
    value = template.fill(row)
    if not isinstance(value, str):
        raise InvalidRecord(field, f"is a {type(value).__name__}, not text")
    return value


def _version(table: Table, source: Mapping[str, Any], row: Any, *, deleted: bool) -> int | None:
    """Return the version, or None for the record's offset.

    A delete can carry the same version as the row that it deletes, and two rows can have the same position in
    PostgreSQL's log. So versions are doubled: with a version column, the delete comes after the row of the same
    version; with the log position, before it.
    """
    if table.version == OFFSET:
        return None
    if table.version == LSN:
        lsn = source.get("lsn")
        if not isinstance(lsn, int):
            raise InvalidRecord(
                "source.lsn", f"is {lsn!r:.50}, not a log sequence number", remedy="Set version to offset."
            )
        return 2 * lsn + (not deleted)
    assert isinstance(table.version, Template)
    stated = table.version.fill(row if isinstance(row, Mapping) else {})
    if not isinstance(stated, str) or not stated.isdecimal():
        raise InvalidRecord("version", f"is {stated!r:.100}; the version column must hold whole numbers")
    return 2 * int(stated) + deleted


def _document(table: Table, row: Mapping[str, Any]) -> dict[str, Any]:
    for column in table.columns:
        value = row.get(column)
        if value == UNAVAILABLE or (isinstance(value, list) and UNAVAILABLE in value):
            raise InvalidRecord(
                column, "is not in the event: the database does not send a large value that an update leaves unchanged",
                remedy="Run `ALTER TABLE … REPLICA IDENTITY FULL`, then update the row again.",
            )  # fmt: skip
    acl = None if table.acl is None else table.acl.fill(row)
    if table.acl is not None and not acl:
        raise InvalidRecord(
            "acl", f"{', '.join(table.acl.columns) or 'the template'} names no principal; without one, the whole "
            "tenant could read the document", remedy="Name a principal in the row, or remove acl from the mapping.",
        )  # fmt: skip
    attributes = {name: template.fill(row) for name, template in table.attributes.items()}
    return {
        "content": table.text.fill(row) or "",
        "title": None if table.title is None else table.title.fill(row),
        "media_type": None if table.media_type is None else table.media_type.fill(row),
        "acl": [acl] if isinstance(acl, str) else acl,
        "attributes": {name: value for name, value in attributes.items() if value is not None},
    }
