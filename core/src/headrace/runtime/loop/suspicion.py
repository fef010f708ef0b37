"""Which records may crash the process, according to the marks that crashed workers left.

When a partition is assigned to this worker, its first batch is marked before it is computed. The commit removes the
mark; a crash leaves it to the next owner. After :data:`DEATHS_IN_BATCH` crashes, the records up to the mark's end are
processed one by one, and a record that keeps crashing the worker is dead-lettered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from headrace.kafka.broker_contract import Mark, Polled, Record, TopicPartition
from headrace.runtime.loop.batch import Batch
from headrace.runtime.loop.limits import Limits

DEATHS_IN_BATCH = 2
"""After this number of unfinished attempts, the records of a batch are processed one by one."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What is known of this worker's partitions."""

    assigned: frozenset[TopicPartition] = frozenset()
    unproven: Mapping[TopicPartition, Mark | None] = field(default_factory=dict)
    """Partitions without a commit since their assignment, with the mark that they had then."""


def reassign(suspicion: Suspicion, polled: Polled) -> Suspicion:
    """Apply the new assignment; newly assigned partitions are unproven."""
    kept = {place: mark for place, mark in suspicion.unproven.items() if place in polled.assigned}
    came = {place: polled.marks.get(place) for place in polled.assigned - suspicion.assigned}
    return Suspicion(polled.assigned, kept | came)


def alone(suspicion: Suspicion, record: Record) -> bool:
    """Whether to process the record alone, because a batch of its partition was begun too often."""
    return _suspected(suspicion.unproven.get(record.place))


def deadly(suspicion: Suspicion, records: Sequence[Record], limits: Limits) -> bool:
    """Whether the batch is a single record that crashed the worker too often and must be dead-lettered."""
    mark = suspicion.unproven.get(records[0].place)
    return mark is not None and len(records) == 1 and mark.records == 1 and mark.begun >= limits.deaths_alone


def unproven(suspicion: Suspicion, records: Sequence[Record]) -> bool:
    """Whether any of the records must be marked."""
    return any(record.place in suspicion.unproven for record in records)


def marks(suspicion: Suspicion, records: Sequence[Record]) -> dict[TopicPartition, Mark]:
    """Return the marks to write before a batch of the records is computed."""
    made: dict[TopicPartition, Mark] = {}
    for place in dict.fromkeys(record.place for record in records if record.place in suspicion.unproven):
        own = [record.offset for record in records if record.place == place]
        found, until = suspicion.unproven[place], own[-1] + 1
        if found is None:
            made[place] = Mark(1, len(records), until, own[0])
        elif found.records > 1 and _suspected(found):
            made[place] = Mark(1, 1, max(until, found.until), own[0])
        else:
            made[place] = Mark(found.begun + 1, len(records), max(until, found.until), own[0])
    return made


def committed(suspicion: Suspicion, batch: Batch) -> Suspicion:
    """Mark the batch's partitions as proven, or continue record by record up to the end of their mark."""
    left = dict(suspicion.unproven)
    for place, mark in batch.marks.items():
        at = batch.records[-1].offset + 1
        if mark.records == 1 and at < mark.until:
            left[place] = Mark(0, 1, mark.until, at)
        else:
            left.pop(place, None)
    return replace(suspicion, unproven=left)


def _suspected(mark: Mark | None) -> bool:
    return mark is not None and (mark.records == 1 or mark.begun >= DEATHS_IN_BATCH)
