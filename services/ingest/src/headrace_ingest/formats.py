"""Reads change events in any format into plain fields: Avro, JSON, CloudEvents, Debezium's envelopes.

This module reports errors in the bytes. :mod:`headrace_ingest.events` reports errors in fields, the same for every
format.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.codec.codec import MAGIC, Codec
from headrace.codec.mapping import to_dict
from headrace.config.captured_tables import Table
from headrace.errors import InvalidRecord, NoChange, UndecodableRecord
from headrace.kafka.broker_contract import Record
from headrace.payloads import ChangeEvent
from headrace_ingest import cloud_events, debezium
from headrace_ingest.strict_json import parse_object

AVRO = "avro"
JSON = "json"
STRUCTURED = "cloudevents-structured"
BINARY = "cloudevents-binary"
DEBEZIUM = "debezium"

_ALIASES = {
    "id": "document_id",
    "op": "operation",
    "content_type": "media_type",
    "updated_at": "occurred_at",
    "content_base64": "data",
}
"""Alternative field names in JSON."""


def fields_of(record: Record, codec: Codec, tables: Mapping[str, Table]) -> tuple[str, Mapping[str, Any]]:
    """Return the format and the event's fields by their standard names, without null fields.

    ``tables`` maps captured rows to documents. Raises :class:`UndecodableRecord` for bytes in none of the formats,
    :class:`InvalidRecord` that names a field or header, :class:`headrace.errors.NoChange` for a record that is not
    about a document, and :class:`headrace.errors.DependencyDown` while the registry does not answer.
    """
    headers = {name.lower(): (value or b"").decode("latin-1") for name, value in record.headers}
    if cloud_events.structured_type(headers):
        return STRUCTURED, _named(*cloud_events.read_structured(_value(record)))
    if cloud_events.is_binary(record):
        return BINARY, _named(*cloud_events.read_binary(record))
    if not record.value and tables and debezium.is_row_key(record.key):
        raise NoChange("a tombstone that follows a row's delete")
    value = _value(record)
    if value[0] == MAGIC and tables:
        name = codec.schema_name(value)
        if debezium.is_envelope_name(name):
            return DEBEZIUM, _named(debezium.read(codec.decode_foreign(value), record.key or b"", tables, codec), {})
        if debezium.is_other_name(name):
            raise NoChange("a Debezium record that is not about a row")
    if value[0] == MAGIC:
        return AVRO, _named(to_dict(codec.decode_plain(value, ChangeEvent)), {})
    if value.lstrip()[:1] != b"{":
        raise UndecodableRecord(
            f"the record is neither Avro with a schema ID nor a JSON object; it starts with {value[:8].hex()}",
            remedy="See the guide on change events for the accepted forms.",
        )
    fields = parse_object(value, "the record")
    if "specversion" in fields:
        return STRUCTURED, _named(*cloud_events.read_structured(value))
    envelope = debezium.unwrapped(fields)
    if debezium.is_envelope(envelope):
        return DEBEZIUM, _named(debezium.read(envelope, record.key or b"", tables, codec), {})
    if tables and debezium.tells_no_row(envelope, record.key):
        raise NoChange("a Debezium record that is not about a row")
    return JSON, _named(fields, {})


def _value(record: Record) -> bytes:
    if not record.value:
        raise UndecodableRecord(
            "the record has no value", remedy="Send a delete as a change event, not as a null value."
        )
    return record.value


def _named(stated: Mapping[str, Any], stand_in: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields by their standard names; stated fields take precedence over fallback fields."""
    fields: dict[str, Any] = {}
    for name, value in stated.items():
        own = _ALIASES.get(name, name)
        if value is None:
            continue
        if own in fields and fields[own] != value:
            raise InvalidRecord(own, f"is given twice: also as {name!r}, with another value")
        fields[own] = value
    return {name: value for name, value in stand_in.items() if value is not None} | fields
