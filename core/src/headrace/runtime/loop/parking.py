"""Records that are read but not due yet. Only the side lane has any."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.kafka import headers
from headrace.kafka.broker_contract import Record, TopicPartition
from headrace.runtime.loop.events import PollReturned
from headrace.runtime.loop.limits import Limits


@dataclass(frozen=True, slots=True)
class Parked:
    """A record that waits until ``due``."""

    due: float
    record: Record


@dataclass(frozen=True, slots=True)
class Parking:
    """Records that are not due yet, or follow one that is not, in the order in which they were read."""

    parked: tuple[Parked, ...] = ()


def park(parking: Parking, event: PollReturned, limits: Limits) -> Parking:
    """Add the records of the poll; those from other topics than the retry topic are due at once."""
    found = tuple(Parked(_due(record, event, limits), record) for record in event.polled.records)
    return Parking((*parking.parked, *found)) if found else parking


def take_due(parking: Parking, now: float) -> tuple[Parking, list[Record]]:
    """Remove the due records; a record behind one of its partition that is not due stays."""
    blocked: set[TopicPartition] = set()
    due: list[Record] = []
    rest: list[Parked] = []
    for parked in parking.parked:
        place = parked.record.place
        if parked.due > now or place in blocked:
            blocked.add(place)
            rest.append(parked)
        else:
            due.append(parked.record)
    return (Parking(tuple(rest)), due) if due else (parking, due)


def full(parking: Parking, limits: Limits) -> bool:
    """Whether the parked records reach the limit and fetching must stop."""
    size = sum(len(parked.record.value or b"") for parked in parking.parked)
    return len(parking.parked) >= limits.parked_records or size >= limits.parked_bytes


def next_due(parking: Parking) -> float:
    """Return when the first record is due; infinity if there is none."""
    return min((parked.due for parked in parking.parked), default=float("inf"))


def _due(record: Record, event: PollReturned, limits: Limits) -> float:
    if record.topic != limits.retry_topic:
        return event.now
    stated = headers.number(record, headers.RETRY_DUE, 0) / 1000 - event.wall_ahead
    return min(stated, event.now + limits.retry_longest_s)
