"""Records that wait until they are due."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.kafka.broker_contract import Polled, Record
from headrace.runtime.loop import parking
from headrace.runtime.loop.events import PollReturned
from headrace.runtime.loop.limits import Limits
from headrace.runtime.loop.parking import Parking

pytestmark = pytest.mark.unit

LIMITS = Limits(retry_topic="retry", replay_topic="replay", parked_records=4, parked_bytes=50)
AHEAD = 1_000_000.0
WAITING = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9), st.integers(0, 20)), max_size=12)
"""Partition, due time and size of each record."""


def parked(found: list[tuple[int, int, int]], topic: str = "retry") -> Parking:
    """The parking that a poll of the records fills."""
    records = [
        Record(topic, partition, offset, b"k", b"x" * size, (("retry-due", str(int((due + AHEAD) * 1000)).encode()),))
        for offset, (partition, due, size) in enumerate(found)
    ]
    return parking.park(Parking(), PollReturned(0.5, Polled(records), None, AHEAD), LIMITS)


@given(WAITING, st.integers(0, 10))
def test_what_is_due_is_taken_in_order_and_nothing_is_lost(found: list[tuple[int, int, int]], now: int) -> None:
    """Broken: an offset is committed over a record that still waits, or a due record is forgotten."""
    rest, due = parking.take_due(parked(found), now)
    left = [one.record for one in rest.parked]
    assert sorted([record.offset for record in [*due, *left]]) == list(range(len(found)))
    for partition in range(3):
        own = [record.offset for record in [*due, *left] if record.partition == partition]
        assert own == sorted(own), "a record overtakes one of its partition"
        waiting = [one for one in rest.parked if one.record.partition == partition]
        assert not waiting or waiting[0].due > now, "the first of a partition is due and still waits"
    assert all(found[record.offset][1] <= now for record in due), "a record is taken before it is due"


@given(WAITING)
def test_each_record_is_taken_by_the_time_that_the_last_is_due(found: list[tuple[int, int, int]]) -> None:
    """Broken: a record that failed for now is never tried again."""
    waiting, taken, now = parked(found), 0, 0.0
    while waiting.parked:
        now = max(now, parking.next_due(waiting))
        before = len(waiting.parked)
        waiting, due = parking.take_due(waiting, now)
        taken += len(due)
        if len(waiting.parked) == before:  # the first due record waits for another of its partition
            now += 1.0
    assert taken == len(found)
    assert now <= 11.0
    assert parking.next_due(waiting) == float("inf")


@given(WAITING)
def test_fetching_stops_by_number_or_bytes(found: list[tuple[int, int, int]]) -> None:
    """Broken: a flood of retries fills the memory."""
    assert parking.full(parked(found), LIMITS) == (len(found) >= 4 or sum(size for *_, size in found) >= 50)


@given(WAITING)
def test_what_is_replayed_is_due_at_once(found: list[tuple[int, int, int]]) -> None:
    """Broken: a replay waits for due times that its records brought from elsewhere."""
    assert all(one.due == 0.5 for one in parked(found, "replay").parked)
