"""Deletes documents whose rows disappeared while nothing captured the table, by comparing the log with the table.

A snapshot reads existing rows only. Rows deleted while nothing captured the table, or by TRUNCATE, stay in the index.

The delete must precede any later captured change of such a row. So it is written while the table is locked against
writers (SHARE), to the partition of the row's last change: a row that comes back is written after the lock is released,
and its change has a higher offset.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import asyncpg
import structlog
from confluent_kafka import KafkaException

from headrace.codec.codec import Codec
from headrace.config.captured_tables import OFFSET, Table
from headrace.config.settings import KafkaSettings
from headrace.envelope import Operation
from headrace.errors import ConfigurationError, DependencyDown, PermanentError
from headrace.kafka.broker_contract import Record
from headrace.kafka.ranges import LogReader
from headrace.payloads import SourceDocument
from headrace.topology.stages import INGEST
from headrace_operations.capture.control import RefusedCapture
from headrace_operations.capture.database import opened, quoted
from headrace_operations.cluster import Cluster
from headrace_operations.transactions import Transactions, fenced

log = structlog.get_logger(__name__)

_TYPES = ("int2", "int4", "int8", "text", "varchar", "uuid", "bool")
_TYPE_OF = "SELECT atttypid::regtype::text AS long, t.typname FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid"
_PAGE = 5000
_LOCK_MS = 10_000
_WRITER = "headrace-reconcile"
"""Each capture has a writer of its own, so that commands for two captures do not fence each other."""
Key = tuple[str, str]
"""Tenant and document ID."""


@dataclass(frozen=True, slots=True)
class Known:
    """The newest version of a captured document in the log, and the topic and partition where ingest read it."""

    version: int
    topic: str
    partition: int


@dataclass(frozen=True, slots=True)
class Reconciled:
    """The result for a table: ``gone`` documents were (or would be) deleted; ``left`` ones cannot be deleted here."""

    table: str
    documents: int
    gone: tuple[Key, ...]
    left: tuple[Key, ...] = ()


@dataclass(frozen=True, slots=True)
class ReconcileRequest:
    """The capture, its mapped tables, and the URL of their database."""

    name: str
    tables: Mapping[str, Table]
    dsn: str


@dataclass(frozen=True, slots=True)
class ReconcilePlan:
    """The tables with the documents that would be deleted; nothing was written yet."""

    request: ReconcileRequest
    tables: Sequence[Reconciled]

    @property
    def gone(self) -> int:
        """How many documents would be deleted."""
        return sum(len(one.gone) for one in self.tables)


async def plan_reconcile(cluster: Cluster, request: ReconcileRequest) -> ReconcilePlan:
    """Compare each table with its documents: the dry run, and the input of :func:`reconcile_planned`.

    Raises what :func:`reconcile` raises.
    """
    return ReconcilePlan(request, await _each(cluster, request, dry_run=True))


async def reconcile_planned(cluster: Cluster, planned: ReconcilePlan) -> Sequence[Reconciled]:
    """Delete the documents without a row; each table is read again, because it may have changed since the plan.

    Raises what :func:`reconcile` raises; the tables before the one that failed are done then.
    """
    return await _each(cluster, planned.request, dry_run=False) if planned.gone else planned.tables


async def _each(cluster: Cluster, request: ReconcileRequest, *, dry_run: bool) -> Sequence[Reconciled]:
    return [
        await reconcile(cluster.kafka, cluster.codec, request.dsn, request.name, mapped, table, dry_run=dry_run)
        for mapped, table in request.tables.items()
    ]


def documents_of(kafka: KafkaSettings, codec: Codec, source: str) -> dict[Key, Known]:
    """Return the documents of the source in the log; raises what :class:`LogReader` raises.

    A document whose record cannot be read is left out with a warning: another source may have it now.
    """
    ranges = LogReader(kafka, "capture")
    found: dict[Key, Known] = {}
    newest: dict[Key, int] = {}

    def take(record: Record) -> None:
        if record.value is None:
            return
        try:
            context = codec.decode(record.value, SourceDocument)
        except PermanentError as error:
            log.warning(
                "skipped a document that cannot be read", topic=record.topic, partition=record.partition,
                offset=record.offset, error=error.message,
            )  # fmt: skip
            tenant, _, document_id = (record.key or b"").decode("utf-8", "replace").partition("/")
            found.pop((tenant, document_id), None)
            return
        change = context.change
        key = (change.tenant, change.document_id)
        if change.version < newest.get(key, -1):
            return  # redriven, and superseded
        newest[key] = change.version
        document = context.payload
        own = change.operation is Operation.UPSERT and document is not None and document.facts.source == source
        if own:
            run = context.trace.history[0]
            found[key] = Known(change.version, run.topic, run.partition)
        else:
            found.pop(key, None)  # deleted, or another source has it now

    ranges.read(ranges.bounds(ranges.partitions((INGEST.target,), needed=True), open_too=True), take)
    return found


async def reconcile(
    kafka: KafkaSettings, codec: Codec, dsn: str, name: str, mapped: str, table: Table, *, dry_run: bool
) -> Reconciled:
    """Delete the documents of the capture ``name`` whose rows the table ``mapped`` no longer has.

    If there is anything to delete, it blocks the table's writers while it reads the keys and writes the deletes.
    Raises :class:`ConfigurationError` for a key of a type that cannot be compared, :class:`RefusedCapture` if another
    command that reconciles the capture took over, and :class:`DependencyDown`.
    """
    known = documents_of(kafka, codec, f"{name}.{mapped}")
    async with opened(dsn) as connection:
        await _require_types(connection, mapped, table.identity)
        gone = set(known) - await _rows(connection, mapped, table)
        left = {key for key in gone if not _placed(kafka, table, known[key])}
        gone -= left
        if dry_run or not gone:
            return Reconciled(mapped, len(known), tuple(sorted(gone)), tuple(sorted(left)))
        transactions = Transactions(kafka, f"{_WRITER}-{name}")  # before the lock: it can take 45 s while Kafka is down
        async with connection.transaction():
            await connection.execute(f"SET LOCAL lock_timeout = {_LOCK_MS}")
            await connection.execute(f"LOCK TABLE {_qualified(mapped)} IN SHARE MODE")
            gone -= await _rows(connection, mapped, table)
            try:
                _delete(transactions, table, {key: known[key] for key in sorted(gone)})
            except KafkaException as error:
                raise _failed(error, name, mapped) from error
        return Reconciled(mapped, len(known), tuple(sorted(gone)), tuple(sorted(left)))


def _placed(kafka: KafkaSettings, table: Table, known: Known) -> bool:
    """Whether the partition for the delete is known; a redriven document was read from another topic."""
    return table.version != OFFSET or known.topic == kafka.topic(INGEST.source)


def _delete(transactions: Transactions, table: Table, gone: Mapping[Key, Known]) -> None:
    """Write the deletes in one transaction: when the lock is released, the log has all of them or none."""
    with transactions.one() as produce:
        for (tenant, document_id), known in gone.items():
            said: dict[str, object] = {"op": "delete"}
            where = {}
            if table.version == OFFSET:
                where["partition"] = known.partition
            else:
                said["version"] = known.version + 1
            produce(INGEST.source, value=json.dumps(said).encode(), key=f"{tenant}/{document_id}".encode(), **where)


def _failed(raised: KafkaException, name: str, mapped: str) -> Exception:
    if fenced(raised):
        return RefusedCapture(
            f"another `headrace capture reconcile` of {name} took over", where=mapped,
            remedy="Wait until it ends, then run this command again.",
        )  # fmt: skip
    return DependencyDown(
        "kafka", f"cannot delete the documents of {mapped}: {raised.args[0].str()}",
        remedy="Run the command again when Kafka answers: it deletes the documents that are left.",
    )  # fmt: skip


async def _rows(connection: asyncpg.Connection, name: str, table: Table) -> set[Key]:
    """Return the documents of the table's rows."""
    columns = table.identity
    pairs = ", ".join(f"'{column.replace(chr(39), chr(39) * 2)}', {quoted(column)}" for column in columns)
    found: set[Key] = set()
    async with connection.transaction():
        cursor = await connection.cursor(f"SELECT json_build_object({pairs}) FROM {_qualified(name)}")  # noqa: S608  # quoted
        while page := await cursor.fetch(_PAGE):
            for (text,) in page:
                row = json.loads(text)
                found.add((table.tenant.fill(row) or "", table.id.fill(row) or ""))
    return found


async def _require_types(connection: asyncpg.Connection, name: str, columns: Sequence[str]) -> None:
    for column in columns:
        record = await connection.fetchrow(
            f"{_TYPE_OF} WHERE a.attrelid = to_regclass($1) AND a.attname = $2", _qualified(name), column
        )
        if record is None or record["typname"] not in _TYPES:
            raise ConfigurationError(
                f"cannot compare keys of type {record['long'] if record else 'unknown'}", where=f"{name}.{column}",
                remedy=f"Delete such documents with `headrace delete`. Supported types: {', '.join(_TYPES)}.",
            )  # fmt: skip


def _qualified(name: str) -> str:
    schema, _, table = name.partition(".")
    return f"{quoted(schema)}.{quoted(table)}"
