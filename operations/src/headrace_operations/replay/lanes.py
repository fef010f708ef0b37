"""Counts the records that wait in the side lanes of a replay."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from headrace.config.settings import KafkaSettings
from headrace.kafka import headers
from headrace.kafka.broker_contract import Record, TopicPartition
from headrace.kafka.offsets import Range
from headrace.kafka.ranges import LogReader
from headrace.topology.stages import STAGES, StageFlow, next_stage
from headrace.topology.topics import replay_topic, retry_topic

LOOK_S = 0.5
"""Seconds between two looks at the lanes, because each look costs requests."""
_MANY = 10
"""If more than this multiple of the outstanding limit waits, offsets are used as the count, without reading records."""
Gaps = dict[TopicPartition, Range]
"""Ranges between a lane's committed offsets and the ends of its topic."""


def lanes(stage: str) -> list[StageFlow]:
    """Return the stages that a replayed record passes, from the stage on."""
    found: list[StageFlow] = [STAGES[stage]]
    while (following := next_stage(found[-1])) is not None:
        found.append(following)
    return found


class SideLanes:
    """Counts the waiting records; every method raises :class:`DependencyDown` if Kafka does not answer.

    ``waiting`` is the last count; the copier adds what it sends.
    """

    def __init__(self, kafka: KafkaSettings, outstanding: int) -> None:
        self._ranges = LogReader(kafka, "replay")
        self._outstanding = outstanding
        self._looked = 0.0
        self._then: Gaps = {}
        self._left_then: Gaps = {}
        self.waiting = 0

    @property
    def room(self) -> int:
        """Return how many records may be sent before the lanes must be looked at again."""
        return self._outstanding - self.waiting

    def full(self, stage: str) -> bool:
        """Whether the lanes from the stage on, including their retries, have as many records as may be outstanding.

        Offsets are counted, including transaction markers. If they do not move, records are counted, because markers
        that no lane reads would otherwise block the replay forever.
        """
        if time.monotonic() - self._looked > LOOK_S:
            gaps = self._gaps({flow: [replay_topic(flow.name), retry_topic(flow.name)] for flow in lanes(stage)})
            self.waiting = sum(span.end - span.start for span in gaps.values())
            few = self.waiting <= _MANY * self._outstanding
            if self.waiting >= self._outstanding and gaps == self._then and few:
                self.waiting = self._count(gaps)
            self._then = gaps
            self._looked = time.monotonic()
        return self.waiting >= self._outstanding

    def left(self, flow: StageFlow, run_id: str) -> int:
        """Return how many records of the replay the stage's lane has still to process or to retry.

        If many records wait, all offsets in the lane are counted.
        """
        gaps = self._gaps({flow: [replay_topic(flow.name), retry_topic(flow.name)]})
        size = sum(span.end - span.start for span in gaps.values())
        if size > _MANY * self._outstanding:
            self.waiting = size  # an upper bound: reading so many records at each look would cost more than it is worth
        elif gaps != self._left_then:  # if nothing moved, reading again would give the same result
            self.waiting = self._count(gaps, run_id)
            self._left_then = gaps
        return self.waiting if gaps else 0

    def _count(self, gaps: Gaps, run_id: str | None = None) -> int:
        """Return the number of records in the ranges, of one replay or of all; markers do not count."""
        count = 0

        def take(record: Record) -> None:
            nonlocal count
            count += run_id is None or (headers.REPLAY, run_id.encode()) in record.headers

        self._ranges.read(gaps, take)
        return count

    def _gaps(self, topics: Mapping[StageFlow, Sequence[str]]) -> Gaps:
        gaps: Gaps = {}
        for flow, names in topics.items():
            places = self._ranges.partitions(names, needed=True)
            committed = self._ranges.committed(flow.name, places, side=True)
            for place, span in self._ranges.bounds(places, open_too=True).items():
                start = max(span.start, committed[place])
                if start < span.end:
                    gaps[place] = Range(start, span.end)
        return gaps
