"""Bytes and frozen types: the Confluent wire format (a zero byte, the schema id, the Avro body)."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

import fastavro
from fastavro.read import SchemaResolutionError

from headrace import payloads
from headrace.codec import mapping, schemas
from headrace.codec.utf8 import escaped_field
from headrace.envelope import Change, Context, Metadata, Operation, Reference, Trace
from headrace.errors import InvalidRecord, PermanentError, UndecodableRecord

T = TypeVar("T")

MAGIC = 0
_HEADER = struct.Struct(">BI")
_UNDECODABLE = (
    SchemaResolutionError, EOFError, ValueError, TypeError, LookupError, ArithmeticError, struct.error, MemoryError,
    RecursionError, AttributeError, StopIteration,
)  # fmt: skip
"""Exceptions that fastavro raises for bytes that do not match their schema."""
_MAX_REASON = 300
"""Maximum characters of fastavro's message in an error, because some contain a whole schema."""

ENVELOPES: dict[type[object], str] = {
    payloads.SourceDocument: "headrace.SourceDocument",
    payloads.ChunkedDocument: "headrace.ChunkedDocument",
    payloads.EmbeddedDocument: "headrace.EmbeddedDocument",
    payloads.IndexedDocument: "headrace.IndexedDocument",
    payloads.GenerationRequest: "headrace.GenerationRequest",
    payloads.Artifact: "headrace.Artifact",
}
"""Payload class to the full name of its envelope's schema."""

PLAIN: dict[type[object], str] = {
    payloads.ChangeEvent: "headrace.ChangeEvent",
    payloads.Control: "headrace.Control",
    payloads.DeadLetter: "headrace.DeadLetter",
    payloads.DeadLetterAction: "headrace.DeadLetterAction",
    payloads.HeldAction: "headrace.HeldAction",
    payloads.PipelineVersion: "headrace.PipelineVersion",
    payloads.ReplayRun: "headrace.ReplayRun",
}
"""Records that travel without an envelope."""

_read_trace = mapping.reader(Trace)
_write_trace = mapping.writer(Trace)
_read_change = mapping.reader(Change)
_write_change = mapping.writer(Change)
_read_reference = mapping.reader(Reference)
_write_reference = mapping.writer(Reference)
_NOBODYS = Trace("", "", 0, datetime.fromtimestamp(0, UTC)), Change("", "", 0, Operation.UPSERT)
"""Trace and change for an envelope in which only the payload counts. They are constant, so that equal payloads have
equal bytes."""


class SchemaIds(Protocol):
    """Source of schema IDs: :mod:`headrace.codec.schema_registry` asks the registry; tests use fixed IDs.

    Both methods raise :class:`headrace.errors.DependencyDown` while the registry does not answer.
    """

    def id_of(self, name: str) -> int:
        """Return the ID under which the schema ``name`` is registered; never registers it."""

    def writer_schema(self, schema_id: int) -> Any:
        """Return the parsed schema with this ID; raises :class:`UndecodableRecord` if there is none."""


class Payloads(Protocol):
    """Where to read payloads that are too large for their records."""

    def read(self, reference: Reference, tenant: str, record: str) -> bytes:
        """Return the payload that the reference in a record of the tenant names, as ``encode_payload`` encoded it.

        Raises :class:`PermanentError` if it is not available, and :class:`DependencyDown`.
        """


class Codec:
    """Encodes and decodes the records of all topics."""

    def __init__(self, ids: SchemaIds, payloads: Payloads | None = None) -> None:
        self._ids = ids
        self._payloads = payloads
        self._prefixes: dict[str, bytes] = {}

    def encode(self, context: Context, payload_type: type[object], reference: Reference | None = None) -> bytes:
        """Return the envelope's bytes; ``payload_type`` is the topic's payload class, needed if the payload is None.

        A ``reference`` replaces the payload. Raises :class:`InvalidRecord` if a value does not match its field.
        """
        payload = context.payload
        if payload is not None and type(payload) is not payload_type:
            raise InvalidRecord("payload", f"is a {type(payload).__name__}; this topic carries {payload_type.__name__}")
        name = ENVELOPES[payload_type]
        # The pair names the branch of the union, so the writer does not try each branch.
        return self._write(
            name,
            lambda: {
                "trace": _write_trace(context.trace),
                "metadata": context.metadata.to_dict(),
                "change": _write_change(context.change),
                "payload": None if payload is None else (f"{name}Payload", mapping.writer(payload_type)(payload)),
                "reference": None if reference is None else _write_reference(reference),
            },
        )

    def decode(self, data: bytes | None, payload_type: type[T]) -> Context[T | None]:
        """Return the envelope in ``data`` with its payload, fetched from the object store if necessary.

        Raises :class:`UndecodableRecord` if the bytes are not a record of this topic. For a payload in the object
        store, raises what :meth:`Payloads.read` does, and :class:`PermanentError` if no object store is configured.
        """
        context, reference = self.envelope(data, payload_type)
        if reference is None:
            return context
        if self._payloads is None:
            raise no_store(reference)
        found = self._payloads.read(reference, context.change.tenant, ENVELOPES[payload_type])
        return context.with_payload(self.decode_payload(found, payload_type))

    def envelope(self, data: bytes | None, payload_type: type[T]) -> tuple[Context[T | None], Reference | None]:
        """Return the envelope in ``data``; if its payload is in the object store, without it and with the reference.

        Raises :class:`UndecodableRecord` if the bytes are not a record of this topic.
        """
        values = self._read(data, ENVELOPES[payload_type])
        payload, reference = values["payload"], values["reference"]
        context: Context[T | None] = Context(
            _read_trace(values["trace"]),
            _read_change(values["change"]),
            None if payload is None else mapping.reader(payload_type)(payload),
            Metadata(values["metadata"]),
        )
        return context, None if reference is None or payload is not None else _read_reference(reference)

    def encode_payload(self, payload: object) -> bytes:
        """Return the payload in an envelope that is empty otherwise, as the object store contains it."""
        return self.encode(Context(*_NOBODYS, payload), type(payload))

    def decode_payload(self, data: bytes, payload_type: type[T]) -> T:
        """Return the payload that :meth:`encode_payload` encoded; raises :class:`UndecodableRecord`."""
        context, _ = self.envelope(data, payload_type)
        if context.payload is None:
            raise UndecodableRecord(f"the object does not contain a payload of {ENVELOPES[payload_type]}")
        return context.payload

    def encode_plain(self, record: object) -> bytes:
        """Return the bytes of a record that travels without an envelope."""
        return self._write(PLAIN[type(record)], lambda: mapping.to_dict(record))

    def decode_plain(self, data: bytes | None, record_type: type[T]) -> T:
        """Return the record in ``data``; raises :class:`UndecodableRecord` if it is not valid."""
        return mapping.reader(record_type)(self._read(data, PLAIN[record_type]))

    def schema_name(self, data: bytes) -> str:
        """Return the full name of the schema that the record was written with; raises what :meth:`decode_foreign` does.

        The name is empty for a schema without one, such as a union or a primitive type.
        """
        schema = self._ids.writer_schema(_schema_id(data))
        return str(schema.get("name", "")) if isinstance(schema, dict) else ""

    def decode_foreign(self, data: bytes) -> Any:
        """Decode ``data`` with its own schema; raises :class:`UndecodableRecord` if it does not match."""
        schema_id = _schema_id(data)
        buffer = io.BytesIO(data)
        buffer.seek(_HEADER.size)
        writer_schema = self._ids.writer_schema(schema_id)
        try:
            values = fastavro.schemaless_reader(buffer, writer_schema, None)
        except _UNDECODABLE as error:
            raise UndecodableRecord(f"the bytes do not decode with schema id {schema_id}: {_reason(error)}") from error
        if buffer.tell() != len(data):
            raise UndecodableRecord(f"{len(data) - buffer.tell()} bytes follow the record of schema id {schema_id}")
        return values

    def _write(self, name: str, values: Callable[[], dict[str, Any]]) -> bytes:
        prefix = self._prefixes.get(name)
        if prefix is None:
            prefix = self._prefixes[name] = _HEADER.pack(MAGIC, self._ids.id_of(name))
        buffer = io.BytesIO()
        buffer.write(prefix)
        try:
            fastavro.schemaless_writer(buffer, schemas.parsed(name), values())
        except (ValueError, TypeError, KeyError, OverflowError, struct.error, AttributeError) as error:
            raise InvalidRecord("payload", f"does not match the schema {name}: {_reason(error)}") from error
        return buffer.getvalue()

    def _read(self, data: bytes | None, name: str) -> dict[str, Any]:
        if data is None:
            raise UndecodableRecord(
                "the record has no value", remedy="To delete a document, send a change event, not a null value."
            )
        schema_id = _schema_id(data)
        buffer = io.BytesIO(data)
        buffer.seek(_HEADER.size)
        writer_schema = self._ids.writer_schema(schema_id)
        try:
            values: dict[str, Any] = fastavro.schemaless_reader(buffer, writer_schema, schemas.parsed(name))  # type: ignore[assignment]
        except UnicodeDecodeError as error:
            field = _not_utf8_field(data, writer_schema, name)
            raise UndecodableRecord(
                f"{field} is not UTF-8: 0x{error.object[error.start]:02x} at byte {error.start}"
            ) from error
        except _UNDECODABLE as error:
            raise UndecodableRecord(
                f"the bytes do not decode as {name} with schema id {schema_id}: {_reason(error)}"
            ) from error
        if buffer.tell() != len(data):
            raise UndecodableRecord(f"{len(data) - buffer.tell()} bytes follow the record {name}")
        return values


def no_store(reference: Reference) -> PermanentError:
    """Return the error for a payload in the object store if no object store is configured."""
    return PermanentError(
        "the payload is in the object store, but no object store is configured here", where=f"{reference.uri:.300}",
        remedy="Set HEADRACE_OBJECTS_URL as in the stage that wrote the record, then run `headrace dlq redrive`.",
    )  # fmt: skip


def _schema_id(data: bytes) -> int:
    if len(data) < _HEADER.size or data[0] != MAGIC:
        raise UndecodableRecord(
            f"the record has no Confluent header (a zero byte and a schema id); it starts with {data[:8].hex()}"
        )
    schema_id: int = _HEADER.unpack_from(data)[1]
    return schema_id


def _not_utf8_field(data: bytes, writer_schema: Any, name: str) -> str:
    """Return the field whose text is not UTF-8, by decoding again with a handler that accepts such bytes."""
    buffer = io.BytesIO(data)
    buffer.seek(_HEADER.size)
    try:
        values = fastavro.schemaless_reader(
            buffer, writer_schema, schemas.parsed(name), handle_unicode_errors="surrogateescape"
        )
    except _UNDECODABLE:
        return f"a text field of {name}"
    return escaped_field(values) or f"a text field of {name}"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__} {error}"[:_MAX_REASON]
