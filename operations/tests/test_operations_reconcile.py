"""Reconciling a capture: the plan for all of its tables, and what is deleted after it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from headrace.codec.codec import Codec
from headrace.codec.schema_registry import FixedIds
from headrace.config.captured_tables import Table
from headrace.config.settings import KafkaSettings
from headrace.envelope import Change, Context, Operation, StageRun, Trace
from headrace.errors import DependencyDown
from headrace.kafka.broker_contract import Record
from headrace.payloads import DocumentFacts, SourceDocument
from headrace_operations.capture import reconcile as module
from headrace_operations.capture.control import RefusedCapture
from headrace_operations.capture.reconcile import (
    Known,
    Reconciled,
    ReconcileRequest,
    documents_of,
    plan_reconcile,
    reconcile,
    reconcile_planned,
)
from headrace_testing.cluster import FakeCluster

pytestmark = pytest.mark.unit

TABLE = Table.model_validate({"tenant": "acme", "id": "{id}", "text": "{body}"})
REQUEST = ReconcileRequest("shop", {"public.a": TABLE, "public.b": TABLE}, "postgresql://h/d")
NOW = datetime(2026, 1, 2, tzinfo=UTC)
LEFT = (("acme", "z"),)


class Tables:
    """Documents without a row, by table; each call is noted with whether it was a dry run."""

    def __init__(self, **gone: list[str]) -> None:
        self.gone = gone
        self.calls: list[tuple[str, str, bool]] = []

    async def reconcile(
        self, _kafka: KafkaSettings, _codec: Codec, dsn: str, name: str, mapped: str, table: Table, *, dry_run: bool
    ) -> Reconciled:
        assert (dsn, table) == ("postgresql://h/d", TABLE)
        self.calls.append((name, mapped, dry_run))
        if "down" in self.gone and not dry_run:
            raise DependencyDown("postgres", "gone")
        gone = self.gone.get(mapped.removeprefix("public."), [])
        return Reconciled(mapped, 5, tuple(("acme", one) for one in gone), LEFT)


def tables(monkeypatch: pytest.MonkeyPatch, **gone: list[str]) -> Tables:
    """Put these in the place of the comparison of one table."""
    made = Tables(**gone)
    monkeypatch.setattr(module, "reconcile", made.reconcile)
    return made


async def test_a_plan_looks_at_every_table_and_deletes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a dry run deletes, leaves a table out, or counts documents that cannot be deleted here."""
    found = tables(monkeypatch, a=["1", "2"], b=["3"])
    planned = await plan_reconcile(FakeCluster(), REQUEST)
    assert [(one.table, len(one.gone), one.left) for one in planned.tables] == [
        ("public.a", 2, LEFT), ("public.b", 1, LEFT),
    ]  # fmt: skip
    assert planned.gone == 3
    assert found.calls == [("shop", "public.a", True), ("shop", "public.b", True)]


async def test_what_was_planned_is_compared_again_before_it_is_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a row that came back after the plan loses its document."""
    found = tables(monkeypatch, a=["1", "2"])
    planned = await plan_reconcile(FakeCluster(), REQUEST)
    found.gone["a"] = ["2"]
    done = await reconcile_planned(FakeCluster(), planned)
    assert [one.gone for one in done] == [(("acme", "2"),), ()]
    assert found.calls[2:] == [("shop", "public.a", False), ("shop", "public.b", False)]


async def test_a_plan_without_documents_to_delete_blocks_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: the table's writers wait for a command that has nothing to do."""
    found = tables(monkeypatch)
    planned = await plan_reconcile(FakeCluster(), REQUEST)
    assert await reconcile_planned(FakeCluster(), planned) == planned.tables
    assert all(dry_run for _, _, dry_run in found.calls)


async def test_a_database_that_is_down_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a reconciliation that did nothing looks done."""
    tables(monkeypatch, a=["1"], down=[])
    planned = await plan_reconcile(FakeCluster(), REQUEST)
    with pytest.raises(DependencyDown, match="gone"):
        await reconcile_planned(FakeCluster(), planned)


class Deleting:
    """A table without rows, and the transactions that delete its one document; notes what happens in which order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, raised: Exception | None = None) -> None:
        self.events: list[str] = []
        self.raised = raised
        monkeypatch.setattr(module, "documents_of", lambda *_: {("acme", "1"): Known(3, "changes", 2)})
        monkeypatch.setattr(module, "opened", self.opened)
        monkeypatch.setattr(module, "_require_types", self.no_types)
        monkeypatch.setattr(module, "_rows", self.no_rows)
        monkeypatch.setattr(module, "Transactions", self.started)

    @asynccontextmanager
    async def opened(self, _dsn: str) -> AsyncIterator[Any]:
        """A connection, which is this object."""
        yield self

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """A transaction of the table's database."""
        yield

    async def execute(self, statement: str) -> None:
        """Run a statement."""
        self.events.append(statement.partition(" ")[0])

    async def no_types(self, *_: object) -> None:
        """Every type can be compared."""

    async def no_rows(self, *_: object) -> set[tuple[str, str]]:
        """No row is left."""
        return set()

    def started(self, _kafka: KafkaSettings, writer: str) -> Any:
        """Start Kafka's producer, which is this object."""
        self.events.append(f"starts {writer}")
        return self

    @contextmanager
    def one(self) -> Iterator[Callable[..., None]]:
        """A transaction of Kafka."""
        if self.raised is not None:
            raise self.raised
        yield lambda topic, **said: self.events.append(f"{topic} {said['key'].decode()}")

    async def reconcile(self) -> Reconciled:
        """Delete the document."""
        return await reconcile(
            KafkaSettings(), Codec(FixedIds()), "postgresql://h/d", "shop", "public.a", TABLE, dry_run=False
        )


async def test_the_producer_starts_before_the_table_is_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: the table's writers wait up to 45 s for a Kafka that is down."""
    deleting = Deleting(monkeypatch)
    assert (await deleting.reconcile()).gone == (("acme", "1"),)
    started, *rest = deleting.events
    assert started.startswith("starts ")
    assert rest == ["SET", "LOCK", "changes acme/1"]
    assert started == "starts headrace-reconcile-shop", "commands for two captures would fence each other"


@pytest.mark.parametrize(
    ("code", "expected", "says"),
    [
        (KafkaError._TIMED_OUT, DependencyDown, "cannot delete the documents of public.a"),
        (KafkaError._FENCED, RefusedCapture, "another `headrace capture reconcile` of shop took over"),
    ],
)
async def test_a_transaction_that_fails_is_told(
    monkeypatch: pytest.MonkeyPatch, code: int, expected: type[Exception], says: str
) -> None:
    """Broken: the operator reads "unexpected error: KafkaException" and does not know what to do."""
    with pytest.raises(expected, match=says):
        await Deleting(monkeypatch, KafkaException(KafkaError(code))).reconcile()


def test_a_document_that_cannot_be_read_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: one bad record makes every reconciliation fail, or a document is deleted by what it was before."""
    codec = Codec(FixedIds())
    runs = (StageRun("ingest", (), "w", "changes", 2, 5, 1, NOW, 1),)
    trace = Trace("r", "index", 1, NOW, history=runs)
    document = SourceDocument(DocumentFacts("t", "text/plain", bytes(16), "shop.public.a"), "text")

    class Log:
        """Topic documents: two documents, and a newer record of the second one that does not decode."""

        def __init__(self, *_: object) -> None:
            pass

        def partitions(self, *_: object, **__: object) -> None:
            """All partitions."""

        bounds = partitions

        def read(self, _ranges: object, take: Callable[[Record], None]) -> None:
            """Pass the records."""
            for offset, name in enumerate(("1", "2")):
                context = Context(trace, Change("acme", name, 3, Operation.UPSERT), document)
                take(Record("documents", 0, offset, f"acme/{name}".encode(), codec.encode(context, SourceDocument)))
            take(Record("documents", 0, 2, b"acme/2", b"not Avro"))

    monkeypatch.setattr(module, "LogReader", Log)
    assert documents_of(KafkaSettings(), codec, "shop.public.a") == {("acme", "1"): Known(3, "changes", 2)}
