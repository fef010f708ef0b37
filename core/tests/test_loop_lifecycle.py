"""Whether the worker goes on: orders, too many dead letters, a drain."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.kafka.broker_contract import BrokerUnavailable, OffsetsLost, ProducerFenced, Record, TransactionUncertain
from headrace.runtime.loop import lifecycle
from headrace.runtime.loop.batch import Batch, BatchResult
from headrace.runtime.loop.events import OrdersChanged, StopRequested
from headrace.runtime.loop.lifecycle import EXIT_DONE, EXIT_FENCED, EXIT_OFFSETS_LOST, Exit, Lifecycle
from headrace.runtime.loop.limits import Limits

pytestmark = pytest.mark.unit

BATCHES = st.lists(st.integers(1, 6).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size))), max_size=20)
"""Records and faults of each batch."""


def first_stop(batches: list[tuple[int, int]], window: int, share: float) -> int | None:
    """The batch that stops the stage, by the rule said plainly: the fewest newest batches that fill the window."""
    for index, (_, faults) in enumerate(batches):
        newest = next(
            (batches[start : index + 1] for start in range(index, -1, -1)
             if sum(size for size, _ in batches[start : index + 1]) >= window), None,
        )  # fmt: skip
        if newest is None or not faults:
            continue
        if sum(faulty for _, faulty in newest) > share * sum(size for size, _ in newest):
            return index
    return None


@given(BATCHES, st.integers(1, 12), st.sampled_from([0.25, 0.5, 1.0]))
def test_the_stage_stops_at_the_first_batch_with_too_many_faults(
    batches: list[tuple[int, int]], window: int, share: float
) -> None:
    """Broken: a bad release drains a topic into the dead letters, or a few bad records stop a stage."""
    limits = Limits(dead_letter_window=window, dead_letter_share=share)
    state, stopped = Lifecycle(), None
    for index, (size, faults) in enumerate(batches):
        records = tuple(Record("in", 0, offset, b"k", b"x") for offset in range(size))
        state = lifecycle.judge(state, Batch(1, records, None, 0.0), BatchResult([], faults=faults), limits)
        if state.stopped is not None:
            stopped = index
            break
    assert stopped == first_stop(batches, window, share)


@given(st.lists(st.tuples(st.sampled_from([None, "by ann"]), st.integers(0, 3)), max_size=8))
def test_only_an_order_to_go_on_ends_a_stop_of_the_stage_s_own(orders: list[tuple[str | None, int]]) -> None:
    """Broken: a stage that stopped itself goes on by itself, or not when it is told to."""
    state, resumes = Lifecycle(stopped="too many", recent=((3, 3),)), 0
    for paused, more in orders:
        resumes += more
        state = lifecycle.ordered(state, OrdersChanged(1.0, paused, resumes))
        assert (state.paused, state.resumes) == (paused, resumes)
        assert (state.stopped is None) == (resumes > 0)
        assert state.idles == (paused is not None or resumes == 0)
        assert (state.recent == ()) == (resumes > 0)


@given(st.floats(0, 50), st.floats(0, 50), st.booleans(), st.floats(0, 100))
def test_a_drain_ends_when_idle_or_when_its_time_is_over(first: float, again: float, idle: bool, now: float) -> None:
    """Broken: SIGTERM loses finished work, is put off by a second one, or never ends the process."""
    limits = Limits(drain_s=10.0)
    working = Lifecycle()
    assert lifecycle.finish(working, now, idle=idle) == working
    draining = lifecycle.drain(lifecycle.drain(working, StopRequested(first), limits), StopRequested(again), limits)
    assert draining.draining_until == first + 10.0
    end = lifecycle.finish(draining, now, idle=idle).exit
    assert (end is not None) == (idle or now >= first + 10.0)
    assert end is None or end.code == EXIT_DONE


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ProducerFenced("other"), EXIT_FENCED), (OffsetsLost("gone"), EXIT_OFFSETS_LOST),
        (BrokerUnavailable(), None), (TransactionUncertain(), None), (None, None),
    ],
)  # fmt: skip
def test_what_no_retry_repairs_has_an_exit_code_of_its_own(error: Exception | None, code: int | None) -> None:
    """Broken: a worker whose offsets are lost tries for ever, or one whose broker restarts ends."""
    assert lifecycle.exit_code_of(error) == code
    assert lifecycle.end(Lifecycle(), 70, "why").exit == Exit(70, "why")
