"""The complete content of a dead letter as plain values for people and JSON; bytes are base64."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import Any

from headrace.codec.codec import MAGIC, Codec
from headrace.errors import UndecodableRecord
from headrace.orders.control import TOPIC as CONTROL
from headrace.payloads import ChangeEvent, Control, DeadLetter
from headrace.topology.stages import INGEST, STAGES
from headrace_operations.dead_letters.log import Found
from headrace_operations.dead_letters.model import SOURCES, Entry


def decoded(codec: Codec, letter: DeadLetter) -> dict[str, Any]:
    """Return the record's value as far as it can be decoded: its ``form``, and ``value`` or the reason in ``why``.

    Raises :class:`headrace.errors.DependencyDown` if the schema registry does not answer.
    """
    value = letter.value
    if value is None:
        return {"form": "none", "why": "the record has no value"}
    why = ""
    if value[:1] == bytes([MAGIC]) and letter.stage in SOURCES:
        try:
            return _avro(codec, letter.stage, value)
        except UndecodableRecord as error:
            why = error.message
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError as error:
        return {"form": "bytes", "why": why or f"it is not UTF-8: {error.reason} at byte {error.start}"}
    try:
        return {"form": "json", "value": json.loads(text)}
    except (ValueError, RecursionError):
        return {"form": "text", "value": text, **({"why": why} if why else {})}


def _avro(codec: Codec, stage: str, value: bytes) -> dict[str, Any]:
    if stage == INGEST.name:
        return {"form": "avro ChangeEvent", "value": plain(codec.decode_plain(value, ChangeEvent))}
    if stage == CONTROL:
        return {"form": "avro Control", "value": plain(codec.decode_plain(value, Control))}
    consumes = STAGES[stage].consumes
    return {"form": f"avro {consumes.__name__}", **envelope_document(codec, value, consumes)}


def envelope_document(codec: Codec, value: bytes | None, kind: type) -> dict[str, Any]:
    """Return the envelope as ``value``, and the reference as ``object`` if the payload is in the object store.

    Raises :class:`UndecodableRecord`.
    """
    context, reference = codec.envelope(value, kind)
    if reference is None:
        return {"value": plain(context)}
    return {"value": plain(context), "object": {**plain(reference), "sha256": reference.sha256.hex()}}


def entry_document(entry: Entry) -> dict[str, Any]:
    """Return the entry of a dead letter, without its payload."""
    action = entry.action
    return {
        "id": str(entry.id),
        "stage": entry.id.stage,
        "state": entry.state.value,
        "reason": entry.reason,
        "handler": entry.handler,
        "message": entry.message,
        "remedy": entry.remedy,
        "tenant": entry.tenant,
        "document": entry.document_id,
        "version": entry.version,
        "request_id": entry.request_id,
        "attempt": entry.attempt,
        "failed_at": entry.failed_at.isoformat(),
        "origin": entry.origin,
        "redrive_of": entry.redrive_of,
        "bytes": entry.size,
        "whole": entry.whole is None,
        "lacking": entry.whole,
        "action": None if action is None else plain(action),
    }


def full_document(codec: Codec, found: Found) -> dict[str, Any]:
    """Return the whole dead letter: its entry, the failed record, and the record that carries it."""
    record, letter = found.record, found.letter
    return {
        **entry_document(found.entry),
        "stack": letter.stack if letter else None,
        "worker": letter.worker if letter else None,
        "record": None if letter is None else _failed_record(codec, letter),
        "carrier": {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "timestamp_ms": record.timestamp_ms,
            "key_base64": encoded(record.key),
            "headers": [_header(name, value) for name, value in record.headers],
            "value_base64": encoded(record.value) if letter is None else None,
        },
    }


def _failed_record(codec: Codec, letter: DeadLetter) -> dict[str, Any]:
    return {
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "timestamp": letter.timestamp.isoformat(),
        "key": None if letter.key is None else letter.key.decode("utf-8", "replace"),
        "key_base64": encoded(letter.key),
        "headers": [_header(part.name, part.value) for part in letter.headers],
        "value_base64": encoded(letter.value),
        "decoded": decoded(codec, letter),
    }


def _header(name: str, value: bytes | None) -> dict[str, Any]:
    text = None if value is None else value.decode("utf-8", "replace")
    return {"name": name, "text": text, "value_base64": encoded(value)}


def encoded(value: bytes | None) -> str | None:
    """Return the bytes in base64, None as it is."""
    return None if value is None else base64.b64encode(value).decode()


def plain(value: Any) -> Any:
    """Return records, times and bytes as JSON values: dicts, ISO 8601, ``{"base64": …}``."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return {"base64": encoded(value)}
    return value.isoformat() if isinstance(value, datetime) else value
