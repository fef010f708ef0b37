"""Reconciling a capture: the plan for all of its tables, and what is deleted after it."""

from __future__ import annotations

import pytest

from headrace.codec.codec import Codec
from headrace.config.captured_tables import Table
from headrace.config.settings import KafkaSettings
from headrace.errors import DependencyDown
from headrace_operations.capture import reconcile as module
from headrace_operations.capture.reconcile import Reconciled, ReconcileRequest, plan_reconcile, reconcile_planned
from headrace_testing.cluster import FakeCluster

pytestmark = pytest.mark.unit

TABLE = Table.model_validate({"tenant": "acme", "id": "{id}", "text": "{body}"})
REQUEST = ReconcileRequest("shop", {"public.a": TABLE, "public.b": TABLE}, "postgresql://h/d")
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
