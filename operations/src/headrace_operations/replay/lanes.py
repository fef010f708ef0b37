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
"""How often the lanes are looked at, for looking costs requests."""
_MANY = 10
"""Times what may be outstanding: more than that is not read to be counted, for its offsets tell enough."""
Gaps = dict[TopicPartition, Range]
"""What lies between a lane's committed offset and the end of its topic."""


def lanes(stage: str) -> list[StageFlow]:
    """Return the stages that a replayed record passes, from the stage on."""
    found: list[StageFlow] = [STAGES[stage]]
    while (following := next_stage(found[-1])) is not None:
        found.append(following)
    return found


class SideLanes:
    """Counts what waits; every method raises :class:`DependencyDown` where Kafka does not answer.

    ``waiting`` is the last count, to which the copier adds what it sends.
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
        """How many records more may be sent before the lanes are looked at again."""
        return self._outstanding - self.waiting

    def full(self, stage: str) -> bool:
        """Whether as much as may be outstanding lies before the lanes from the stage on, to be tried again included.

        Offsets are counted, markers of transactions among them; where nothing moves, records are, lest markers that
        no lane takes up hold the run up for good.
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
        """Return how many of the run's records the stage's lane has still to take up, or to try again.

        Where much lies there, whatever it is counts.
        """
        gaps = self._gaps({flow: [replay_topic(flow.name), retry_topic(flow.name)]})
        size = sum(span.end - span.start for span in gaps.values())
        if size > _MANY * self._outstanding:
            self.waiting = size  # an upper bound: to read so much at each look would cost more than it tells
        elif gaps != self._left_then:  # where nothing moved, reading it again would tell nothing new
            self.waiting = self._count(gaps, run_id)
            self._left_then = gaps
        return self.waiting if gaps else 0

    def _count(self, gaps: Gaps, run_id: str | None = None) -> int:
        """Return how many records lie there, of the run or of all; a marker is none."""
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
