"""How far each stage is behind: what its consumer group still has to read.

Lag counts the offsets of a partition from the group's committed offset, or the first one that is left, to the end
(:mod:`headrace.kafka.offsets`: open transactions do not count). Offsets before the first readable record do not count
either, so lag is 0 exactly if there is nothing to read; markers and compacted records behind it do, so it is an upper
bound of the records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headrace.config.settings import KafkaSettings
from headrace.errors import ConfigurationError
from headrace.kafka.broker_contract import TopicPartition
from headrace.kafka.cursor import LogCursor
from headrace.kafka.offsets import LogOffsets, Range
from headrace.kafka.unavailable import unavailable
from headrace.topology.stages import STAGES
from headrace.topology.topics import replay_topic, retry_topic

_LOOKS = 100
_LOOK_S = 0.1
_WAIT_MS = 20


@dataclass(frozen=True, slots=True)
class StageLag:
    """Offsets of ``topic`` that the stage's group is behind, and the total number of offsets."""

    stage: str
    topic: str
    partitions: int
    behind: int
    total: int


class LagReader:
    """Reads how far stages are behind; every method raises :class:`DependencyDown` if Kafka does not answer."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._offsets = LogOffsets(kafka)

    def stages(self) -> list[StageLag]:
        """Return the lag of every stage's live lane whose topic exists."""
        return self._lags([(name, flow.source, False) for name, flow in STAGES.items()])

    def stage(self, stage: str) -> list[StageLag]:
        """Return the lag of a stage's live lane and of each topic of its side lane that exists."""
        return self._lags(
            [
                (stage, STAGES[stage].source, False),
                (stage, retry_topic(stage), True),
                (stage, replay_topic(stage), True),
            ]
        )

    def _lags(self, sources: Sequence[tuple[str, str, bool]]) -> list[StageLag]:
        """Return the lag of each stage in a topic; the third value says whether its side lane reads it."""
        places: dict[str, list[TopicPartition]] = {}
        for place in self._offsets.partitions(topic for _, topic, _ in sources):
            places.setdefault(place.topic, []).append(place)
        groups: dict[str, list[TopicPartition]] = {}
        for stage, topic, side in sources:
            groups.setdefault(self._kafka.group(stage, side=side), []).extend(places.get(topic, ()))
        bounds = self._offsets.bounds(place for own in groups.values() for place in own)
        committed = self._offsets.committed_of(groups)
        gaps = {place: Range(max(committed[place], span.start), span.end) for place, span in bounds.items()}
        empty = self._empty({place: gap for place, gap in gaps.items() if gap.size})
        return [
            StageLag(
                stage, topic, len(places[topic]),
                behind=sum(gaps[place].size - empty.get(place, 0) for place in places[topic]),
                total=sum(bounds[place].size for place in places[topic]),
            )
            for stage, topic, _ in sources
            if topic in places
        ]  # fmt: skip

    def _empty(self, gaps: Mapping[TopicPartition, Range]) -> dict[TopicPartition, int]:
        """Return how many offsets at the beginning of each gap have no record (such as transaction markers).

        Raises :class:`DependencyDown` if a partition does not show its first record, or its end, within 10 s.
        """
        found: dict[TopicPartition, int] = {}
        if not gaps:
            return found
        with LogCursor(self._kafka, "lag", wait_ms=_WAIT_MS) as cursor:
            cursor.assign({place: gap.start for place, gap in gaps.items()})
            for _ in range(_LOOKS):
                for record in cursor.fetch(len(gaps), _LOOK_S):
                    first = min(record.offset, gaps[record.place].end)
                    found.setdefault(record.place, max(0, first - gaps[record.place].start))
                for place in cursor.ended - found.keys():
                    found[place] = gaps[place].size
                if found.keys() == gaps.keys():
                    return found
                cursor.drop(found.keys() & cursor.at.keys())
        silent = min(gaps.keys() - found.keys())
        raise unavailable(self._kafka, f"no answer for {silent} in {_LOOKS * _LOOK_S:.0f} s")


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a stage: total offsets, and pending offsets in its live and side lanes."""

    total: int
    pending: int

    @property
    def percent(self) -> float:
        """Percentage done; 100 if there is nothing to do."""
        return 100.0 if not self.total else 100.0 * (self.total - self.pending) / self.total


def progress(reader: LagReader, stage: str) -> Progress:
    """Return the stage's progress in its source topic, and in its retries and replays.

    Raises :class:`DependencyDown`, and :class:`ConfigurationError` if its topic does not exist.
    """
    lanes = reader.stage(stage)
    live = [lane for lane in lanes if lane.topic == STAGES[stage].source]
    if not live:
        raise ConfigurationError(
            f"topic {STAGES[stage].source} does not exist", remedy="Run `headrace bootstrap` to create the topics."
        )
    again = sum(lane.behind for lane in lanes if lane not in live)
    return Progress(live[0].total + again, live[0].behind + again)
