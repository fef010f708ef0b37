"""The way of a batch: what is cut off the buffer, sealed, doomed and recovered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.kafka.broker_contract import Record, Snapshot
from headrace.runtime.loop import batching
from headrace.runtime.loop.batch import BatchResult
from headrace.runtime.loop.batching import InProgress, Recovery
from headrace.runtime.loop.commands import Cancel, Compute, RecoveryStep
from headrace.runtime.loop.limits import Limits
from headrace.runtime.loop.pacing import Pacing
from headrace.runtime.loop.suspicion import Suspicion

pytestmark = pytest.mark.unit

SIZES = st.lists(st.integers(0, 40), min_size=1, max_size=12)


def records(sizes: list[int]) -> tuple[Record, ...]:
    """A record of each size, in order."""
    return tuple(Record("in", 0, offset, b"k", b"x" * size) for offset, size in enumerate(sizes))


@given(SIZES, st.integers(1, 15), st.integers(1, 100), st.sets(st.integers(0, 12)))
def test_a_cut_is_the_longest_beginning_that_fits(
    sizes: list[int], most: int, bytes_most: int, single: set[int]
) -> None:
    """Broken: a batch is too large for a transaction, empty, has a gap, or is smaller than it needs to be."""
    buffer = records(sizes)
    taken = batching.cut(buffer, most, bytes_most, lambda record: record.offset in single)
    count = len(taken)
    assert taken == buffer[:count]
    assert 1 <= count <= most
    assert count == 1 or sum(sizes[:count]) <= bytes_most
    assert count == 1 or not single.intersection(range(count))
    if count < min(most, len(buffer)):
        assert 0 in single or count in single or sum(sizes[: count + 1]) > bytes_most


@given(st.lists(SIZES, min_size=1, max_size=6), st.integers(1, 4), st.integers(1, 60))
def test_batches_take_each_record_once_in_order(polls: list[list[int]], batch_records: int, batch_bytes: int) -> None:
    """Broken: records are lost, doubled or reordered between the buffer and the batches."""
    limits = Limits(batch_records=batch_records, batch_bytes=batch_bytes)
    in_progress, offset, sealed, numbers = InProgress(), 0, [], []
    for sizes in polls:
        found = [record._replace(offset=offset + record.offset) for record in records(sizes)]
        offset += len(found)
        in_progress = batching.read(in_progress, found, 1.0)
        while batching.ready(in_progress, Pacing(), Suspicion(), 1.0, limits):
            in_progress, commands = batching.seal(in_progress, Pacing(), Suspicion(), 1.0, limits)
            batch = in_progress.computing
            assert batch is not None
            assert commands == [Compute(batch)]
            sealed += [record.offset for record in batch.records]
            numbers.append(batch.number)
            in_progress = batching.committed(batching.computed(in_progress, batch, BatchResult([])))
    assert sealed == list(range(offset))
    assert numbers == list(range(1, len(numbers) + 1))


@given(st.booleans(), st.booleans(), st.booleans(), st.sampled_from([None, Recovery(), Recovery(renew=True)]))
def test_a_doom_leaves_nothing_under_way(computing: bool, computed: bool, renew: bool, due: Recovery | None) -> None:
    """Broken: a batch of an old membership is committed, or a producer that must be renewed is used."""
    in_progress = batching.read(InProgress(snapshot=Snapshot("old"), recovery=due), records([1, 1, 1]), 1.0)
    limits = Limits(batch_records=1)
    if computed:
        in_progress, _ = batching.seal(in_progress, Pacing(), Suspicion(), 1.0, limits)
        assert in_progress.computing is not None
        in_progress = batching.computed(in_progress, in_progress.computing, BatchResult([]))
    if computing:
        in_progress, _ = batching.seal(in_progress, Pacing(), Suspicion(), 1.0, limits)
    number = in_progress.next_number
    doomed, commands = batching.doom(in_progress, renew=renew)
    assert (doomed.idle, doomed.buffer, doomed.snapshot, doomed.next_number) == (True, (), None, number)
    assert commands == ([Cancel(number - 1)] if computing else [])
    assert doomed.recovery == Recovery(renew=renew or due == Recovery(renew=True))


@pytest.mark.parametrize(
    ("renew", "steps"), [(False, [RecoveryStep.REWIND]), (True, [RecoveryStep.RENEW, RecoveryStep.REWIND])]
)
def test_a_recovery_ends_with_the_rewind(renew: bool, steps: list[RecoveryStep]) -> None:
    """Broken: records count again before the worker went back to the committed offsets."""
    in_progress, _ = batching.doom(InProgress(), renew=renew)
    seen = []
    while in_progress.recovery is not None:
        seen.append(in_progress.recovery.step)
        in_progress = batching.recovered(in_progress)
    assert seen == steps


@given(SIZES, st.floats(0, 10), st.floats(0.001, 5), st.floats(0, 20))
def test_a_buffer_waits_for_its_linger_time_at_most(sizes: list[int], since: float, linger: float, now: float) -> None:
    """Broken: records of a quiet topic wait for a batch to fill, or linger_ms does nothing."""
    limits = Limits(batch_records=20, batch_bytes=10_000, linger_s=linger)
    in_progress = batching.read(InProgress(), records(sizes), since)
    assert batching.ready(in_progress, Pacing(), Suspicion(), now, limits) == (now >= since + linger)
    again = batching.read(in_progress, records([1]), since + 0.0005)
    assert batching.due_at(again, limits) == since + linger, "a later record must not begin the wait again"
