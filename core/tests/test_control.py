"""Operators' orders: the newest counts, nonsense changes nothing."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from headrace.envelope import Change, Context, Operation, Trace
from headrace.errors import InvalidRecord
from headrace.orders.control import OrderBook, Scope, StageOrders, check
from headrace.payloads import Control

pytestmark = pytest.mark.unit


def order(action: str, target: str = "embedder", scope: str = "stage", reason: str = "") -> Control:
    """An order by ann."""
    return Control(action, scope, target, reason, "ann", datetime(2026, 1, 1, tzinfo=UTC))


def test_the_newest_order_counts() -> None:
    """Broken: a stage stays paused after it was resumed, or goes on after it was paused."""
    book = OrderBook()
    stage = StageOrders(book, "embedder")
    assert (stage.paused(), stage.resumes()) == (None, 0)
    book.take(order("PAUSE", reason="new model"))
    assert stage.paused() == "paused by ann: new model"
    assert StageOrders(book, "chunker").paused() is None
    book.take(order("RESUME"))
    assert (stage.paused(), stage.resumes()) == (None, 1)


def test_a_paused_tenant_or_pipeline_holds_its_records_alone() -> None:
    """Broken: pausing one tenant stops another, or nobody."""
    book = OrderBook()
    stage = StageOrders(book, "chunker")
    trace = Trace("r", "default", 1, datetime(2026, 1, 1, tzinfo=UTC))
    acme = Context(trace, Change("acme", "a", 1, Operation.UPSERT), None)
    other = Context(trace, Change("other", "a", 1, Operation.UPSERT), None)
    book.take(order("PAUSE", "acme", scope="tenant", reason="audit"))
    assert stage.held(acme) == ("tenant/acme", "paused by ann: audit")
    assert (stage.held(other), stage.paused()) == (None, None)
    book.take(order("PAUSE", "default", scope="pipeline"))
    assert stage.held(other) == ("pipeline/default", "paused by ann")
    book.take(order("RESUME", "default", scope="pipeline"))
    book.take(order("RESUME", "acme", scope="tenant"))
    assert stage.held(acme) is None


@pytest.mark.parametrize(
    ("wrong", "field"),
    [(order("STOP"), "action"), (order("PAUSE", scope="planet"), "scope"), (order("PAUSE", ""), "target"),
     (order("CANCEL"), "action")],
)  # fmt: skip
def test_an_order_that_makes_no_sense_is_refused_and_changes_nothing(wrong: Control, field: str) -> None:
    """Broken: a forged or newer order stops a stage, or hides the one that counts."""
    with pytest.raises(InvalidRecord) as raised:
        check(wrong)
    assert raised.value.field == field
    book = OrderBook()
    book.take(order("PAUSE"))
    with pytest.raises(InvalidRecord):
        book.take(wrong)
    assert [found.action for found in book.all()] == ["PAUSE"]
    assert book.newest(Scope.STAGE, "embedder") is not None
