"""The four forms in which change events arrive, read into plain fields: Avro, JSON, CloudEvents structured and binary.

What is wrong with the bytes is :class:`UndecodableRecord`; what is wrong with a field is said by
:mod:`headrace_ingest.events`, the same for every form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from cloudevents.core.bindings.kafka import KafkaMessage, from_kafka_event
from cloudevents.core.exceptions import BaseCloudEventException

from headrace.avro.codec import MAGIC, Codec
from headrace.avro.mapping import to_dict
from headrace.broker.contract import Record
from headrace.errors import UndecodableRecord
from headrace.records import ChangeEvent

AVRO = "avro"
JSON = "json"
STRUCTURED = "cloudevents-structured"
BINARY = "cloudevents-binary"
_STRUCTURED_TYPE = "application/cloudevents"
_EXTENSIONS = {"tenant", "version", "pipeline"}
"""Extension attributes of a CloudEvent that stand for the field of the same name."""


def fields_of(record: Record, codec: Codec) -> tuple[str, Mapping[str, Any]]:
    """Return the form and the event's fields as they were sent.

    Raises :class:`UndecodableRecord` for bytes that are none of the four forms, and
    :class:`headrace.errors.DependencyDown` while the registry does not answer.
    """
    headers = {name.lower(): value or b"" for name, value in record.headers}
    if "ce_specversion" in headers:
        return BINARY, _cloudevent(record, headers)
    if headers.get("content-type", b"").decode("latin-1").startswith(_STRUCTURED_TYPE):
        return STRUCTURED, _cloudevent(record, headers)
    value = record.value or b""
    if value[:1] == bytes([MAGIC]):
        return AVRO, to_dict(codec.decode_plain(value, ChangeEvent))
    fields = parse_json(value)
    if "specversion" in fields:
        return STRUCTURED, _cloudevent(record, {**headers, "content-type": b"application/cloudevents+json"})
    return JSON, fields


def parse_json(value: bytes) -> dict[str, Any]:
    """Return the JSON object in ``value``; strict UTF-8, no key twice, no NaN. Raises :class:`UndecodableRecord`."""
    try:
        parsed = json.loads(value.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise UndecodableRecord(f"content: is not UTF-8 at byte {error.start}") from error
    except (ValueError, RecursionError) as error:
        raise UndecodableRecord(
            f"the record is neither Avro with a schema id nor a JSON object: {error or 'nested too deeply'}",
            remedy="See the guide on change events for the forms.",
        ) from error
    if not isinstance(parsed, dict):
        raise UndecodableRecord(f"the record is a JSON {type(parsed).__name__}, not an object")
    return parsed


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _cloudevent(record: Record, headers: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the fields of a CloudEvent: its data where that is an object, else its text with the attributes."""
    value = record.value or b""
    if headers.get("content-type", b"").startswith(b"application/json") or "ce_specversion" not in headers:
        parse_json(value)  # refuses what the library would let pass: doubled keys, NaN
    try:
        event = from_kafka_event(KafkaMessage(dict(headers), None, value))
    except (BaseCloudEventException, ExceptionGroup, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UndecodableRecord(f"the record is no valid CloudEvent: {_first(error)}") from error
    attributes = event.get_attributes()
    data = event.get_data()
    if isinstance(data, bytes):
        try:
            data = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UndecodableRecord(f"content: is not UTF-8 at byte {error.start}") from error
    fields = {name: attributes[name] for name in _EXTENSIONS if name in attributes}
    fields["document_id"] = attributes.get("subject")
    fields["operation"] = "delete" if str(attributes["type"]).endswith((".delete", ".deleted")) else "upsert"
    fields["occurred_at"] = attributes["time"].isoformat() if attributes.get("time") else None
    fields["source"] = attributes["source"]
    if isinstance(data, str):
        media_type = str(attributes.get("datacontenttype") or "text/plain").split(";")[0].strip()
        fields |= {"content": data, "media_type": media_type}
    elif isinstance(data, dict):
        fields |= data
    elif data is not None:
        raise UndecodableRecord(f"the CloudEvent's data is a {type(data).__name__}, neither an object nor text")
    return {name: value for name, value in fields.items() if value is not None}


def _first(error: BaseException) -> str:
    inner = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error
    return str(inner) or type(inner).__name__
