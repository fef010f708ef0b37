"""Converts the fields of a change event in any format to a checked event, and to the context that enters the flow."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from headrace.access.readers import acl_of
from headrace.codec.codec import Codec
from headrace.config.captured_tables import Table, read_tables
from headrace.envelope import (
    Change,
    Context,
    Metadata,
    MetadataValue,
    Operation,
    Trace,
    check_change,
    derived_request_id,
)
from headrace.errors import InvalidRecord
from headrace.handlers.pipelines_log import LatestPipeline
from headrace.kafka.broker_contract import Record
from headrace.kafka.headers import REQUEST_ID
from headrace.payloads import ChangeEvent
from headrace_ingest.fetching.references import MOST_CHARACTERS
from headrace_ingest.files import kinds
from headrace_ingest.formats import BINARY, DEBEZIUM, STRUCTURED, fields_of
from headrace_ingest.masking import Masked, make_masker
from headrace_ingest.settings import IngestSettings
from headrace_ingest.strict_json import decode_text

OPERATIONS = {"UPSERT": Operation.UPSERT, "DELETE": Operation.DELETE}
MEDIA_TYPES = (*kinds.TEXTS, *kinds.PARSED)
_ATTRIBUTE_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
MAX_PAGES = 100_000
NO_TABLES: Mapping[str, Table] = {}
MAX_REQUEST_ID_CHARACTERS = 128


class IngestDecoder:
    """Converts a record of the topic ``changes`` to a context without personal data.

    Raises the errors of :func:`decode`. The constructor raises :class:`ConfigurationError` for invalid settings.
    """

    def __init__(
        self,
        codec: Codec,
        latest_pipeline: LatestPipeline,
        settings: IngestSettings,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._codec = codec
        self._latest_pipeline = latest_pipeline
        self._settings = settings
        self._masker = make_masker(settings)
        self._tables = read_tables(settings.tables)
        self._now = now

    def __call__(self, record: Record) -> Context[ChangeEvent | None]:
        """Return the context. The record keeps the pipeline version that is the newest now."""
        form, stated = decode(record, self._codec, self._settings, self._tables)
        event, masked = self._masked(stated)
        change = check_change(
            Change(
                event.tenant,
                event.document_id,
                record.offset if event.version is None else event.version,
                event.operation,
            )
        )
        pipeline_id, version = self._latest_pipeline(event.pipeline or self._settings.default_pipeline)
        request_id = event.request_id or derived_request_id(record.topic, record.partition, record.offset)
        metadata: dict[str, MetadataValue] = {"system.format": form}
        metadata |= {f"system.masked.{kind}": count for kind, count in masked.items()}
        metadata |= {f"user.{name}": value for name, value in event.attributes.items()}
        return Context(
            Trace(request_id, pipeline_id, version, self._now(), event.requested_by),
            change,
            event if event.operation is Operation.UPSERT else None,
            Metadata(metadata),
        )

    def _masked(self, stated: ChangeEvent) -> Masked:
        """Return the event without personal data. ``open-file`` masks content that it parses first."""
        if stated.media_type not in kinds.PARSED:
            return self._masker.event(stated)
        masked = self._masker.event(replace(stated, content=None))
        return Masked(replace(masked.event, content=stated.content), masked.counts)


def decode(
    record: Record, codec: Codec, settings: IngestSettings, tables: Mapping[str, Table] = NO_TABLES
) -> tuple[str, ChangeEvent]:
    """Return the format and the checked event.

    Raises :class:`headrace.errors.UndecodableRecord`, :class:`InvalidRecord` that names field and reason,
    :class:`headrace.errors.NoChange` for a record that is not about a document, and
    :class:`headrace.errors.DependencyDown` while the registry does not answer.
    """
    if len(record.value or b"") > settings.max_event_bytes:
        raise InvalidRecord(
            "value", f"has {len(record.value or b'')} bytes; the limit is {settings.max_event_bytes}",
            remedy="Send a smaller event, or raise HEADRACE_INGEST_MAX_EVENT_BYTES.",
        )  # fmt: skip
    form, fields = fields_of(record, codec, tables)
    key = None if form == DEBEZIUM else record.key or b""
    key_tenant, key_id = ("", "") if key is None else _key(key)
    if form in (STRUCTURED, BINARY) and not key_id and not fields.get("document_id"):
        raise InvalidRecord(
            "subject", "is missing or empty", remedy="Set it to the document's ID, or add an id to the data."
        )
    event = ChangeEvent(
        tenant=_text(fields, "tenant") or (key_tenant if key_id else ""),
        document_id=_text(fields, "document_id") or key_id,
        operation=_operation(fields.get("operation")),
        version=_version(fields.get("version")),
        title=_text(fields, "title", settings.max_attribute_characters),
        content=_text(fields, "content"),
        media_type=_media_type(_text(fields, "media_type", 200), is_file=fields.get("content") is None),
        source=_text(fields, "source", settings.max_attribute_characters),
        attributes=_attributes(fields.get("attributes"), settings),
        acl=_acl(fields.get("acl")),
        pipeline=_text(fields, "pipeline", 128),
        request_id=_text(fields, "request_id", MAX_REQUEST_ID_CHARACTERS) or _request_id_header(record),
        requested_by=_text(fields, "requested_by", 512),
        occurred_at=_time(fields.get("occurred_at")),
        data=_data(fields.get("data")),
        reference=_text(fields, "reference", MOST_CHARACTERS),
        language=_language(_text(fields, "language", 40)),
        pages=_pages(fields.get("pages")),
    )
    _check(event, key, settings)
    return form, event


def _key(key: bytes) -> tuple[str, str]:
    """Return tenant and document ID from the key."""
    if not key:
        raise InvalidRecord("key", "is empty", remedy="Set the record's key to tenant/document_id.")
    tenant, _, document_id = decode_text(key, "key").partition("/")
    return tenant, document_id


def _check(event: ChangeEvent, key: bytes | None, settings: IngestSettings) -> None:
    change = check_change(Change(event.tenant, event.document_id, event.version or 0, event.operation))
    if key is not None and change.key != key:
        raise InvalidRecord(
            "key", f"is {key[:200]!r}, but the event is for {change.key[:200]!r}",
            remedy="Set the key to tenant/document_id. The key keeps the changes of a document in order.",
        )  # fmt: skip
    if event.operation is Operation.DELETE:
        return
    _check_one_text(event)
    size = len((event.content or "").encode())
    if size > settings.max_content_bytes:
        raise InvalidRecord(
            "content", f"has {size} bytes; the limit is {settings.max_content_bytes}",
            remedy="Split the document, or raise HEADRACE_INGEST_MAX_CONTENT_BYTES.",
        )  # fmt: skip
    media_type = kinds.canonical(event.media_type)[0]
    known = MEDIA_TYPES if event.content is not None else (*MEDIA_TYPES, *kinds.UNTOLD)
    if media_type is not None and media_type not in known:
        raise InvalidRecord("media_type", f"{media_type!r:.100} is not supported; use one of {', '.join(MEDIA_TYPES)}")


def _check_one_text(event: ChangeEvent) -> None:
    """Reject an upsert unless it has exactly one of content, data and reference."""
    given = [name for name in ("content", "data", "reference") if getattr(event, name) is not None]
    if not given:
        raise InvalidRecord(
            "content", "is missing",
            remedy="Send the document's whole text, or its file as content_base64 or reference.",
        )  # fmt: skip
    if len(given) > 1:
        raise InvalidRecord(
            given[1], f"is given together with {given[0]}", remedy="Send only one of content, data and reference."
        )
    if event.content is not None and event.media_type in (kinds.PDF, kinds.DOCX):
        raise InvalidRecord(
            "content", f"is text, but {event.media_type} is binary", remedy="Send the file as content_base64."
        )
    if event.pages and event.content is None:
        raise InvalidRecord("pages", "is given for a file; ingest reads the pages from the file")
    if event.content is not None and event.pages and event.pages[-1] > len(event.content):
        raise InvalidRecord(
            "pages", f"has a page at {event.pages[-1]}, but the text has {len(event.content)} characters"
        )


def _text(fields: Mapping[str, Any], name: str, longest: int | None = None) -> str | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidRecord(name, f"is a {type(value).__name__}, not a string")
    return checked_text(name, value, longest)


def checked_text(name: str, value: str, longest: int | None = None) -> str:
    """Return the text if it can be stored; raises :class:`InvalidRecord` for ``name`` otherwise."""
    if longest is not None and len(value) > longest:
        raise InvalidRecord(name, f"has {len(value)} characters; the limit is {longest}")
    if "\x00" in value:
        raise InvalidRecord(name, f"contains a NUL character at position {value.index(chr(0))}; remove it")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidRecord(name, f"contains a lone surrogate at character {error.start}") from error
    return value


def _media_type(value: str | None, *, is_file: bool) -> str | None:
    """Return the media type under its usual name, for a file with its charset."""
    media_type, charset = kinds.canonical(value)
    return f"{media_type}; charset={charset}" if is_file and charset else media_type


def _data(value: Any) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise InvalidRecord("content_base64", f"is a {type(value).__name__}, not a string")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRecord("content_base64", f"is not base64: {error}") from error


def _language(value: str | None) -> str | None:
    if value is not None and not kinds.LANGUAGE.fullmatch(value):
        raise InvalidRecord("language", f"{value!r:.60} is not a language tag; use a tag such as en, ko or pt-BR")
    return value


def _pages(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    whole = isinstance(value, (list, tuple)) and all(type(page) is int and 0 <= page < 2**31 for page in value)
    if not whole or list(value) != sorted(value):
        raise InvalidRecord("pages", "must list the offset of the first character of each page, in ascending order")
    if len(value) > MAX_PAGES:
        raise InvalidRecord("pages", f"has {len(value)} entries; the limit is {MAX_PAGES}")
    return tuple(value)


def _operation(value: Any) -> Operation:
    if value is None:
        raise InvalidRecord("operation", "is missing; use upsert or delete")
    operation = OPERATIONS.get(value.upper()) if isinstance(value, str) else None
    if operation is None:
        raise InvalidRecord("operation", f"{value!r:.100} is not known; use upsert or delete")
    return operation


def _version(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,20}", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRecord("version", f"is {value!r:.100}; a version is a whole number")
    if not 0 <= value < 2**63:
        raise InvalidRecord("version", f"is {value}; versions run from 0 to 2^63-1")
    return value


def _attributes(value: Any, settings: IngestSettings) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidRecord("attributes", f"is a {type(value).__name__}, not an object")
    if len(value) > settings.max_attributes:
        raise InvalidRecord("attributes", f"has {len(value)} entries; the limit is {settings.max_attributes}")
    found = {}
    for name, item in value.items():
        if not _ATTRIBUTE_NAME.fullmatch(name):
            raise InvalidRecord(
                "attributes", f"invalid attribute name {name!r:.150}: use 1-128 letters, digits, '_' or '-'"
            )
        if not isinstance(item, (str, int, float)):
            raise InvalidRecord(f"attributes.{name}", "is not a string, a number or a boolean")
        text = str(item).lower() if isinstance(item, bool) else str(item)
        found[name] = checked_text(f"attributes.{name}", text, settings.max_attribute_characters)
    return found


def _acl(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise InvalidRecord("acl", "is not a list of strings")
    try:
        return acl_of(value)
    except ValueError as error:
        raise InvalidRecord("acl", str(error)) from error


def _time(value: Any) -> datetime | None:
    """Return the time stated by upstream. It is stored, but never decides the order of changes."""
    try:
        if value is None:
            return None
        if isinstance(value, datetime):
            return value
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
        stated = datetime.fromisoformat(value)
        return stated if stated.tzinfo else stated.replace(tzinfo=UTC)
    except (ValueError, TypeError, OverflowError, OSError) as error:
        raise InvalidRecord(
            "occurred_at", f"{value!r:.100} is neither seconds since 1970 nor an ISO 8601 time"
        ) from error


def _request_id_header(record: Record) -> str | None:
    for name, value in record.headers:
        if name.lower() == REQUEST_ID and value:
            return checked_text(REQUEST_ID, decode_text(value, REQUEST_ID), MAX_REQUEST_ID_CHARACTERS)
    return None
