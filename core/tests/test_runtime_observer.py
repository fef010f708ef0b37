"""What a worker tells metrics and the log, by stage and lane."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from headrace.kafka.broker_contract import BrokerUnavailable, Polled, Record, TransactionAborted
from headrace.runtime.contract import Lane
from headrace.runtime.loop.batch import Batch, BatchResult
from headrace.runtime.loop.breaker import Breaker, Circuit, Closed, HalfOpen, Open
from headrace.runtime.loop.events import OrdersChanged
from headrace.runtime.loop.lifecycle import Lifecycle
from headrace.runtime.loop.limits import Limits
from headrace.runtime.loop.state import State
from headrace.runtime.observer import Observer

pytestmark = pytest.mark.unit

BATCH = Batch(1, (Record("in", 0, 0, b"k", b"v"), Record("in", 0, 1, b"k", b"v")), None, 0.0)


@pytest.fixture
def stage() -> str:
    """A stage of its own, for metrics live as long as the process."""
    return f"stage-{uuid4().hex}"


def observer(stage: str, lane: Any = "live") -> Observer:
    """The observer of the stage's lane."""
    return Observer(Lane(stage, ["in"], Limits(), lane))


def value(name: str, stage: str, lane: str, **labels: str) -> float | None:
    """The metric's value, None where it has none."""
    return REGISTRY.get_sample_value(name, {"stage": stage, "lane": lane, **labels})


def with_circuit(circuit: Circuit) -> State:
    """A state with the circuit."""
    return State(breaker=Breaker(circuit))


def test_the_lanes_of_a_stage_are_told_apart_by_a_label(stage: str) -> None:
    """Broken: a query by stage misses the side lane, or must take a suffix off its name."""
    observer(stage, "live").committed(BATCH, BatchResult([], dead_letters=1), 0.1)
    observer(stage, "side").committed(BATCH, BatchResult([], retried=2, held=1, passed_over=1), 0.1)
    observer(stage, "side").commit_failed(BATCH, TransactionAborted("no"))
    assert [value("headrace_records_done_total", stage, lane) for lane in ("live", "side")] == [2, 2]
    assert [value("headrace_dead_letters_total", stage, lane) for lane in ("live", "side")] == [1, 0]
    assert [value("headrace_retries_total", stage, lane) for lane in ("live", "side")] == [0, 2]
    assert value("headrace_commits_failed_total", stage, "side", error="TransactionAborted") == 1
    assert value("headrace_commits_failed_total", stage, "live", error="TransactionAborted") is None


def test_a_circuit_is_shown_until_it_is_closed_again(stage: str) -> None:
    """Broken: a dependency that works is shown as broken for ever, or a try as an outage."""
    seen = observer(stage)
    shown = []
    for circuit in (Open("pg", "why", 1, 9.0), HalfOpen("pg", "why", 1), Open("kafka", "other", 1, 9.0), Closed()):
        seen.decided(with_circuit(circuit))
        shown.append([
            value("headrace_circuit", stage, "live", dependency="pg"),
            value("headrace_circuit", stage, "live", dependency="kafka"),
            value("headrace_waiting", stage, "live"),
        ])  # fmt: skip
    assert shown == [[2, None, 1], [1, None, 1], [0, 2, 1], [0, 0, 0]]


def test_the_log_tells_of_a_wait_once_and_of_its_end(stage: str) -> None:
    """Broken: an outage fills the log, or leaves no line in it."""
    with capture_logs() as lines:
        seen = observer(stage, "side")
        seen.decided(State())
        for until in (1.0, 2.0, 3.0):
            seen.decided(with_circuit(Open("pg", "why", 1, until)))
            seen.decided(with_circuit(HalfOpen("pg", "why", 1)))
        seen.decided(State())
    assert [(line["event"], line["stage"], line["lane"]) for line in lines] == [
        ("stage waits", stage, "side"), ("stage continues", stage, "side"),
    ]  # fmt: skip
    assert (lines[0]["dependency"], lines[0]["reason"]) == ("pg", "why")


def test_a_stage_that_stopped_itself_says_what_to_do(stage: str) -> None:
    """Broken: a stage stops its work and the log does not say why."""
    with capture_logs() as lines:
        seen = observer(stage)
        seen.decided(replace(State(), lifecycle=Lifecycle(stopped="4 of the last 6")))
        assert value("headrace_stopped", stage, "live") == 1
        seen.decided(State())
    assert value("headrace_stopped", stage, "live") == 0
    assert [line["event"] for line in lines] == ["stage stopped itself", "stage continues"]
    assert "headrace resume" in lines[0]["remedy"]


def test_a_pause_and_its_end_are_told_and_other_orders_are_not(stage: str) -> None:
    """Broken: the log does not tell who paused a stage."""
    with capture_logs() as lines:
        seen = observer(stage)
        for event in (OrdersChanged(1.0, None, 1), OrdersChanged(2.0, "paused by ann", 1), OrdersChanged(3.0, None, 2)):
            seen.orders_changed(event)
    assert [(line["event"], line["reason"]) for line in lines] == [
        ("stage paused", "paused by ann"), ("stage resumed", None),
    ]  # fmt: skip


def test_what_fails_and_moves_is_counted_or_logged(stage: str) -> None:
    """Broken: rebalances and doomed batches do not show, or an error is swallowed."""
    with capture_logs() as lines:
        seen = observer(stage)
        seen.rebalanced(Polled((), rebalanced=True))
        seen.cancelled()
        seen.poll_failed(BrokerUnavailable("away"))
        seen.mark_failed(BrokerUnavailable("away"))
    assert value("headrace_rebalances_total", stage, "live") == 1
    assert value("headrace_batches_doomed_total", stage, "live") == 1
    assert [line["event"] for line in lines] == ["partitions changed", "poll failed", "mark not written"]
