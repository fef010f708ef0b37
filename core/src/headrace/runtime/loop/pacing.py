"""The pace of the lane: when fetching stops, and how replays give way to the live lane."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from headrace.kafka.broker_contract import Record
from headrace.runtime.loop.batch import Batch
from headrace.runtime.loop.commands import Command, PauseFetching, ResumeFetching
from headrace.runtime.loop.events import LiveLaneChanged
from headrace.runtime.loop.limits import Limits

PAUSE_AFTER_S = 1.0
"""Fetching pauses if a batch takes longer than this, so that polls can keep the group membership."""


@dataclass(frozen=True, slots=True)
class Pacing:
    """What slows the lane down."""

    fetching: bool = True
    live_busy: bool = False
    """Whether live records arrive; only the side lane uses it."""
    yield_until: float = 0.0
    """Until this time, replayed records give way to a busy live lane."""


def live_lane_changed(pacing: Pacing, event: LiveLaneChanged) -> Pacing:
    """Store whether live records arrive."""
    return replace(pacing, live_busy=event.busy)


def committed(pacing: Pacing, batch: Batch, now: float, limits: Limits) -> Pacing:
    """Make replayed records wait after a batch of them, so that they take only their share of the time."""
    if batch.records[-1].topic != limits.replay_topic:
        return pacing
    took = now - batch.started_at
    return replace(pacing, yield_until=now + took * (1 - limits.replay_share) / limits.replay_share)


def yields(pacing: Pacing, buffer: Sequence[Record], now: float, limits: Limits) -> bool:
    """Whether the buffer has only replayed records and these wait for the live lane."""
    if not pacing.live_busy or now >= pacing.yield_until:
        return False
    return all(record.topic == limits.replay_topic for record in buffer)


def batch_bounds(pacing: Pacing, first: Record, limits: Limits) -> tuple[int, int]:
    """Return the maximum records and bytes of a batch that begins with the record."""
    if pacing.live_busy and first.topic == limits.replay_topic:
        return min(limits.batch_records, limits.replay_batch_records), limits.replay_batch_bytes
    return limits.batch_records, limits.batch_bytes


def lasts(computing: Batch, now: float) -> bool:
    """Whether the batch has run so long that fetching must stop when the buffer is full."""
    return now - computing.started_at >= PAUSE_AFTER_S


def fetch(pacing: Pacing, *, wanted: bool) -> tuple[Pacing, list[Command]]:
    """Stop fetching, or start again."""
    if wanted == pacing.fetching:
        return pacing, []
    return replace(pacing, fetching=wanted), [ResumeFetching() if wanted else PauseFetching()]
