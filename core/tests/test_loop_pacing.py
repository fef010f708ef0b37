"""How fast the lane goes: fetching, and the share of a replay."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.kafka.broker_contract import Record
from headrace.runtime.loop import batching, pacing
from headrace.runtime.loop.batch import Batch
from headrace.runtime.loop.batching import InProgress
from headrace.runtime.loop.commands import PauseFetching, ResumeFetching
from headrace.runtime.loop.events import LiveLaneChanged
from headrace.runtime.loop.limits import Limits
from headrace.runtime.loop.pacing import Pacing

pytestmark = pytest.mark.unit

LIMITS = Limits(retry_topic="retry", replay_topic="replay")
TOPICS = st.lists(st.sampled_from(["retry", "replay"]), min_size=1, max_size=6)


def records(topics: list[str]) -> tuple[Record, ...]:
    """A record of each topic, in order."""
    return tuple(Record(topic, 0, offset, b"k", b"x") for offset, topic in enumerate(topics))


@given(st.lists(st.booleans(), max_size=20))
def test_fetching_is_told_of_changes_alone(wanted: list[bool]) -> None:
    """Broken: the client is paused and resumed at each event, or stays paused for ever."""
    state, told = Pacing(), [True]
    for want in wanted:
        state, commands = pacing.fetch(state, wanted=want)
        assert state.fetching == want
        assert commands == ([] if told[-1] == want else [ResumeFetching() if want else PauseFetching()])
        told.append(want)


@given(st.floats(0.01, 1.0), st.floats(0, 100), st.floats(0, 60))
def test_a_replay_gets_its_share_of_the_time(share: float, started_at: float, took: float) -> None:
    """Broken: a replay holds up live records, or gets less than HEADRACE_WORKER_REPLAY_SHARE says."""
    now = started_at + took
    batch = Batch(1, records(["replay"]), None, started_at)
    state = pacing.committed(Pacing(live_busy=True), batch, now, replace(LIMITS, replay_share=share))
    took = now - started_at
    assert took == pytest.approx(share * (took + state.yield_until - now), abs=1e-6)


def test_an_outage_is_not_time_that_a_replay_took() -> None:
    """Broken: after an outage of an hour, replays wait nine hours for a busy live lane."""
    failed = Batch(1, records(["replay"]), None, 1.0, attempt=2)
    again, _ = batching.start_again(InProgress(computing=failed), failed, 3601.0)
    assert again.computing is not None
    state = pacing.committed(Pacing(live_busy=True), again.computing, 3602.0, replace(LIMITS, replay_share=0.1))
    assert state.yield_until == pytest.approx(3602.0 + 9.0)


@given(TOPICS, st.booleans(), st.floats(0, 9))
def test_only_replayed_records_wait_and_only_for_a_busy_live_lane(topics: list[str], busy: bool, now: float) -> None:
    """Broken: what failed for now waits as a replay does, or a replay waits where nothing is live."""
    state = pacing.live_lane_changed(Pacing(yield_until=5.0), LiveLaneChanged(now, busy))
    expected = busy and now < 5.0 and "retry" not in topics
    assert pacing.yields(state, records(topics), now, LIMITS) == expected


@given(TOPICS, st.booleans(), st.integers(1, 20))
def test_batches_of_a_replay_are_small_while_live_records_come(topics: list[str], busy: bool, most: int) -> None:
    """Broken: a live record waits at each stage for a whole batch of a replay."""
    limits = replace(LIMITS, batch_records=most, batch_bytes=1000, replay_batch_records=4, replay_batch_bytes=100)
    bounds = pacing.batch_bounds(Pacing(live_busy=busy), records(topics)[0], limits)
    assert bounds == ((min(most, 4), 100) if busy and topics[0] == "replay" else (most, 1000))


@given(TOPICS)
def test_a_batch_that_ends_with_a_retry_has_nothing_to_make_up_for(topics: list[str]) -> None:
    """Broken: retries count as a replay, and hold the next replay up."""
    state = pacing.committed(Pacing(yield_until=3.0), Batch(1, records(topics), None, 1.0), 9.0, LIMITS)
    assert (state.yield_until > 9.0) == (topics[-1] == "replay")
