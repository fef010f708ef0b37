"""The circuit: how long a lane waits for what it depends on, and who tries first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import DependencyDown
from headrace.kafka.broker_contract import TransactionAborted
from headrace.runtime.backoff import backoff
from headrace.runtime.loop import breaker
from headrace.runtime.loop.breaker import Breaker, Closed, HalfOpen, Open
from headrace.runtime.loop.events import CommitReturned
from headrace.runtime.loop.limits import Limits

pytestmark = pytest.mark.unit

LIMITS = Limits(backoff_s=0.5, backoff_max_s=8.0)
JITTER = st.floats(0, 1)


def failed(
    state: Breaker, now: float, jitter: float, delay: float | None = None, *, recompute: bool = False
) -> Breaker:
    """The breaker after a failure of a dependency."""
    error = DependencyDown("llm", delay=delay)
    return breaker.dependency_failed(state, now, "llm", error, jitter, LIMITS, recompute=recompute)


@given(st.integers(1, 2000), st.floats(0.001, 5), st.floats(5, 100), JITTER)
def test_a_back_off_doubles_within_its_bounds(failures: int, first: float, longest: float, jitter: float) -> None:
    """Broken: what is down is hammered, or forgotten for hours, or workers try again in step."""
    waits = [backoff(first, longest, failures, at) for at in (0.0, jitter, 1.0)]
    assert waits == sorted(waits)
    assert waits[2] == pytest.approx(2 * waits[0])
    assert waits[2] == pytest.approx(min(longest, first * 2.0 ** min(failures - 1, 60)))


@given(st.lists(st.tuples(JITTER, st.one_of(st.none(), st.floats(0, 100))), min_size=1, max_size=12))
def test_failures_in_a_row_wait_longer_and_never_less_than_was_asked(
    failures: list[tuple[float, float | None]],
) -> None:
    """Broken: Retry-After is ignored, or the waits do not grow."""
    state, now = Breaker(), 0.0
    for count, (jitter, delay) in enumerate(failures, start=1):
        state = failed(state, now, jitter, delay)
        assert isinstance(state.circuit, Open)
        assert state.circuit.failures == count
        assert state.circuit.until - now == pytest.approx(max(backoff(0.5, 8.0, count, jitter), delay or 0.0))
        now = state.circuit.until
    assert breaker.close(state).circuit == Closed()


@given(st.lists(st.sampled_from(["fail", "recompute", "close", "half open"]), max_size=12), st.floats(0, 20))
def test_the_circuit_blocks_exactly_as_long_as_it_says(steps: list[str], now: float) -> None:
    """Broken: the loop spins on a circuit that is open, or sleeps on one that is not."""
    state = Breaker()
    for step in steps:
        if step == "half open":
            before = state.circuit
            if not isinstance(before, Open):
                continue
            state = breaker.half_open(state)
            assert state.circuit == HalfOpen(before.dependency, before.reason, before.failures)
        else:
            state = breaker.close(state) if step == "close" else failed(state, 1.0, 0.5, recompute=step == "recompute")
    wait = breaker.wait_s(state, now)
    assert breaker.blocks(state, now) == (wait is not None and wait > 0)
    assert (wait is None) == (state.circuit == Closed())
    assert (wait == float("inf")) == isinstance(state.circuit, HalfOpen)


def test_a_batch_that_is_to_be_computed_again_is_not_forgotten_when_kafka_fails_too() -> None:
    """Broken: after two failures at once a batch is never computed, and the lane waits for it for ever."""
    state = failed(failed(Breaker(), 1.0, 0.5, recompute=True), 1.1, 0.5)
    assert breaker.recomputes(state)
    assert not breaker.recomputes(breaker.half_open(state))
    assert not breaker.recomputes(breaker.close(state))


def test_the_wait_that_a_provider_asked_for_outlasts_a_failed_poll() -> None:
    """Broken: while Kafka fails too, a provider is called before the time that it named, and refuses for longer."""
    asked = breaker.dependency_failed(
        Breaker(), 1.0, "provider", DependencyDown("provider", "busy", delay=300.0), 0.5, LIMITS, recompute=True
    )
    again = failed(asked, 2.0, 0.5)
    assert breaker.wait_s(again, 2.0) == 299.0
    assert breaker.recomputes(again)


@given(st.integers(1, 12), JITTER)
def test_commits_that_fail_in_a_row_back_off_with_jitter(number: int, jitter: float) -> None:
    """Broken: after an outage of the coordinator all workers commit again in step."""
    state = Breaker()
    for _ in range(number):
        state = breaker.commit_failed(state, CommitReturned(5.0, TransactionAborted("no"), jitter), LIMITS)
    assert state.commit_failures == number
    if number == 1:
        assert state.circuit == Closed()
    else:
        assert isinstance(state.circuit, Open)
        assert state.circuit.until == pytest.approx(5.0 + backoff(0.5, 8.0, number - 1, jitter))
    assert breaker.committed(state).commit_failures == 0
