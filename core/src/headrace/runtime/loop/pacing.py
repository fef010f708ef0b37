"""How fast the lane goes: when fetching stops, and what a replay leaves to the live lane."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from headrace.kafka.broker_contract import Record
from headrace.runtime.loop.batch import Batch
from headrace.runtime.loop.commands import Command, PauseFetching, ResumeFetching
from headrace.runtime.loop.events import LiveLaneChanged
from headrace.runtime.loop.limits import Limits

PAUSE_AFTER_S = 1.0
"""A batch that computes longer than this has fetching paused, so that polling can keep up the membership."""


@dataclass(frozen=True, slots=True)
class Pacing:
    """What holds the lane back."""

    fetching: bool = True
    live_busy: bool = False
    """Whether live records come; only the side lane learns of it."""
    yield_until: float = 0.0
    """Until then replayed records leave a busy live lane its share."""


def live_lane_changed(pacing: Pacing, event: LiveLaneChanged) -> Pacing:
    """Keep whether live records come."""
    return replace(pacing, live_busy=event.busy)


def committed(pacing: Pacing, batch: Batch, now: float, limits: Limits) -> Pacing:
    """Have replayed records wait after a batch of them, so that they get their share of the time and no more."""
    if batch.records[-1].topic != limits.replay_topic:
        return pacing
    took = now - batch.sealed_at
    return replace(pacing, yield_until=now + took * (1 - limits.replay_share) / limits.replay_share)


def yields(pacing: Pacing, buffer: Sequence[Record], now: float, limits: Limits) -> bool:
    """Whether the buffer has only replayed records, and those wait for the live lane."""
    if not pacing.live_busy or now >= pacing.yield_until:
        return False
    return all(record.topic == limits.replay_topic for record in buffer)


def batch_bounds(pacing: Pacing, first: Record, limits: Limits) -> tuple[int, int]:
    """Return the most records and bytes of a batch that begins with the record."""
    if pacing.live_busy and first.topic == limits.replay_topic:
        return min(limits.batch_records, limits.replay_batch_records), limits.replay_batch_bytes
    return limits.batch_records, limits.batch_bytes


def lasts(computing: Batch, now: float) -> bool:
    """Whether the batch computes for so long that a full buffer must stop the fetching."""
    return now - computing.sealed_at >= PAUSE_AFTER_S


def fetch(pacing: Pacing, *, wanted: bool) -> tuple[Pacing, list[Command]]:
    """Stop fetching, or start again."""
    if wanted == pacing.fetching:
        return pacing, []
    return replace(pacing, fetching=wanted), [ResumeFetching() if wanted else PauseFetching()]
