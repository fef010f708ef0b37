"""CloudEvents 1.0 over Kafka, structured and binary: the fields of the data, and fallback fields from attributes.

The CloudEvents project's library splits headers and body and checks the attributes. This module reads JSON and text
itself, because the library accepts what change events must not contain (repeated keys, NaN, bytes that are not UTF-8)
and invents a missing ID or time.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from cloudevents.core.base import BaseCloudEvent, EventFactory
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary, from_structured
from cloudevents.core.exceptions import CloudEventValidationError
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from headrace.errors import InvalidRecord, UndecodableRecord
from headrace.kafka.broker_contract import Record
from headrace_ingest.files.kinds import DOCX, PDF, UNTOLD, canonical
from headrace_ingest.strict_json import decode_text, parse_object

PREFIX = "ce_"
CONTENT_TYPE = "content-type"
STRUCTURED_TYPE = "application/cloudevents+json"
FILES = (PDF, DOCX, *UNTOLD)
"""Content types whose data is a file's bytes."""
_JSON_TYPE = re.compile(r"(application|text)/([a-z0-9.-]+\+)?json")
_EXTENSIONS = {
    "tenant": "tenant",
    "version": "version",
    "pipeline": "pipeline",
    "title": "title",
    "requestid": "request_id",
    "dataref": "reference",
}
"""Extension attributes (the standard allows lower-case letters and digits only) and the fields that they replace."""
_OPERATIONS = {
    "upsert": ("upsert", "upserted", "create", "created", "update", "updated", "change", "changed"),
    "delete": ("delete", "deleted", "remove", "removed"),
}
_OPERATION_OF = {word: operation for operation, words in _OPERATIONS.items() for word in words}


def read_structured(value: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields of the data, and the attributes' fields as fallback for those that the data lacks.

    Raises :class:`InvalidRecord` that names the attribute, and :class:`UndecodableRecord` if the body is not JSON.
    """
    return _fields(_checked(lambda: from_structured(KafkaMessage({}, None, value), _StrictFormat(), _event)))


def read_binary(record: Record) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the same for binary mode: attributes in ``ce_`` headers, data in the value (null: no data).

    Raises :class:`InvalidRecord` that names the header or field, and :class:`UndecodableRecord`.
    """
    message = KafkaMessage(_headers(record), None, record.value or b"")
    stated, stand_in = _fields(_checked(lambda: from_binary(message, _StrictFormat(), _event)))
    return ({} if record.value is None else stated), stand_in


class _StrictFormat(JSONFormat):
    """The JSON format with Headrace's strict parser."""

    def read(self, event_factory: EventFactory | None, data: str | bytes) -> BaseCloudEvent:
        """Return the event of a structured body."""
        attributes = parse_object(data if isinstance(data, bytes) else data.encode(), "the CloudEvent")
        attributes = {name: value for name, value in attributes.items() if value is not None}
        if "time" in attributes:
            attributes["time"] = _time(attributes["time"])
        body = attributes.pop("data", None)
        encoded = attributes.pop("data_base64", None)
        if encoded is not None:
            if body is not None:
                raise InvalidRecord("data", "is given twice: as data and as data_base64")
            body = self.read_data(_base64(encoded), attributes.get("datacontenttype"))
        return (event_factory or _event)(attributes, body)

    def read_data(self, body: bytes, datacontenttype: str | None) -> dict[str, Any] | str | None:
        """Return an object for JSON, a string for UTF-8 text, and an object with the bytes for a file or other text.

        Without a content type, the data is JSON, as the standard says.
        """
        media_type, charset = split_content_type(datacontenttype)
        if media_type is None or _JSON_TYPE.fullmatch(media_type):
            return parse_object(body, "the CloudEvent's data") if body else None
        if canonical(media_type)[0] in FILES:
            return {"data": body, "media_type": media_type} if body else None
        if not media_type.startswith("text/"):
            raise InvalidRecord(
                "datacontenttype", f"{media_type!r:.100} is not supported; use JSON, text or one of {', '.join(FILES)}"
            )
        if charset not in (None, "utf-8", "utf8", "us-ascii"):
            return {"data": body, "media_type": datacontenttype} if body else None
        return decode_text(body, "content")


def split_content_type(value: Any) -> tuple[str | None, str | None]:
    """Return media type and charset of a content type, in lower case; None for a missing part."""
    if not isinstance(value, str):
        return None, None
    media_type, *parameters = (part.strip().lower() for part in value.split(";"))
    named = dict(parameter.partition("=")[::2] for parameter in parameters)
    return media_type or None, named["charset"].strip('"') if "charset" in named else None


def _event(attributes: dict[str, Any], data: Any) -> CloudEvent:
    """Create the event. Unlike the library, invent neither ID nor version nor time."""
    for name in ("specversion", "id", "source", "type"):
        if name not in attributes:
            raise InvalidRecord(name, "is missing; a CloudEvent requires specversion, id, source and type")
    timed = "time" in attributes
    event = CloudEvent(attributes, data)
    if not timed:
        del event.get_attributes()["time"]
    return event


def _checked(read: Callable[[], BaseCloudEvent]) -> BaseCloudEvent:
    """Return the library's event, and convert its errors to Headrace's. Of other errors, only the time's can occur."""
    try:
        return read()
    except CloudEventValidationError as error:
        name, reasons = next(iter(error.errors.items()))
        raise InvalidRecord(_plain(name), _plain(str(reasons[0]))) from error
    except (ValueError, OverflowError) as error:
        raise InvalidRecord("time", "is not a date and time in RFC 3339 format") from error


def _headers(record: Record) -> dict[str, bytes]:
    """Return the headers of the CloudEvent with lower-case names. Other headers may contain any bytes."""
    found: dict[str, bytes] = {}
    for name, value in record.headers:
        own = name.lower()
        if not own.startswith(PREFIX) and own != CONTENT_TYPE:
            continue
        if own in found:
            raise InvalidRecord(_plain(own), "is given twice")
        if value is not None:
            decode_text(value, _plain(own))
            found[own] = value
    return found


def _fields(event: BaseCloudEvent) -> tuple[dict[str, Any], dict[str, Any]]:
    attributes, data = event.get_attributes(), event.get_data()
    stand_in = {field: attributes.get(name) for name, field in _EXTENSIONS.items()}
    stand_in["document_id"] = attributes.get("subject")
    stand_in["source"] = attributes["source"]
    stand_in["occurred_at"] = attributes.get("time")
    media_type = split_content_type(attributes.get("datacontenttype"))[0]
    stated: dict[str, Any] = {}
    if stand_in["reference"] is not None and not data:
        data = None  # the standard's claim check: the data is at the URL in dataref
    elif data is not None:
        del stand_in["reference"]
    if isinstance(data, dict):
        stated = data
    elif isinstance(data, str) and (media_type or "").startswith("text/"):
        stated = {"content": data, "media_type": media_type}
    elif data is not None:
        raise InvalidRecord(
            "data", f"is a {type(data).__name__} with content type {media_type!r:.100}, which ingest does not support",
            remedy="Send an object, text with a datacontenttype of text/…, or a file as data_base64 with its type.",
        )  # fmt: skip
    if stated.get("op") is None and stated.get("operation") is None:
        stand_in["operation"] = _operation(attributes["type"])
    return stated, stand_in


def _operation(event_type: str) -> str:
    operation = _OPERATION_OF.get(event_type.rpartition(".")[2].lower())
    if operation is None:
        words = ", ".join(word for words in _OPERATIONS.values() for word in words)
        raise InvalidRecord(
            "type", f"{event_type!a:.200} does not end with a known operation; use one of {words}",
            remedy="End the type with one of them, or set op in the data.",
        )  # fmt: skip
    return operation


def _time(value: Any) -> datetime:
    if not isinstance(value, str):
        raise InvalidRecord("time", f"is a {type(value).__name__}, not a string")
    return datetime.fromisoformat(value)


def _base64(value: Any) -> bytes:
    if not isinstance(value, str):
        raise InvalidRecord("data_base64", f"is a {type(value).__name__}, not a string")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UndecodableRecord(f"data_base64: is not base64: {error}") from error


def _plain(text: str) -> str:
    """Return untrusted text in a form that fits into any dead letter."""
    return text[:300].encode("utf-8", "backslashreplace").decode()


def is_binary(record: Record) -> bool:
    """Return whether the record's headers indicate binary mode."""
    return any(name.lower().startswith(PREFIX) for name, _ in record.headers)


def structured_type(headers: Mapping[str, str]) -> bool:
    """Return whether the headers indicate structured mode; raises :class:`InvalidRecord` for unsupported formats."""
    media_type = split_content_type(headers.get(CONTENT_TYPE))[0] or ""
    if media_type.startswith("application/cloudevents") and media_type != STRUCTURED_TYPE:
        raise InvalidRecord(CONTENT_TYPE, f"is {media_type!r:.100}; use {STRUCTURED_TYPE}")
    return media_type == STRUCTURED_TYPE
