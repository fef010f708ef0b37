"""Reads the log for display: within limits, backwards from the end, without joining a group or committing offsets."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from confluent_kafka import murmur2

from headrace.kafka.broker_contract import Record, TopicPartition
from headrace.kafka.offsets import LogOffsets, Range
from headrace.kafka.ranges import RangeReader

_FIRST_WINDOW = 2000
_WAIT_MS = 20
Wanted = Callable[[Record], bool]


@dataclass(frozen=True, slots=True)
class Limits:
    """Reading limits: records per partition, and seconds in total."""

    records: int = 50_000
    seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Cost:
    """What a scan read; ``complete`` is False if a limit ended it."""

    partitions: int = 0
    records: int = 0
    megabytes: float = 0.0
    seconds: float = 0.0
    complete: bool = True

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.partitions + other.partitions,
            self.records + other.records,
            round(self.megabytes + other.megabytes, 3),
            round(self.seconds + other.seconds, 3),
            self.complete and other.complete,
        )


class LogScanner(LogOffsets):
    """Offsets, and scans backwards from the end. Raises :class:`DependencyDown` if Kafka does not answer."""

    def newest_first(
        self,
        places: Sequence[TopicPartition],
        wanted: Wanted,
        limits: Limits,
        floors: Mapping[TopicPartition, int] | None = None,
    ) -> tuple[list[Record], Cost]:
        """Return the wanted records, sorted by topic, partition and offset, and the cost of the scan.

        It reads windows backwards from the end, each twice as long as the previous one, so that it has seen the newest
        records if the time runs out. ``floors`` are the lowest offsets to read.
        """  # fmt: skip
        begun = time.monotonic()
        found: list[Record] = []
        spans, cut = self._spans(places, limits, floors or {})
        window = _FIRST_WINDOW

        def take(record: Record) -> None:
            if wanted(record):
                found.append(record)

        with RangeReader(self.kafka, "trace", wait_ms=_WAIT_MS) as reader:
            while spans and (left := begun + limits.seconds - time.monotonic()) > 0:
                windows = {place: Range(max(span.start, span.end - window), span.end) for place, span in spans.items()}
                if not reader.read(windows, take, seconds=left):
                    break
                rest = {place: Range(spans[place].start, one.start) for place, one in windows.items()}
                spans = {place: span for place, span in rest.items() if span.size}
                window *= 2
            seconds = round(time.monotonic() - begun, 3)
            cost = Cost(len(places), reader.records, round(reader.bytes / 1e6, 3), seconds, not cut and not spans)
        return sorted(found, key=lambda record: record[:3]), cost

    def _spans(
        self, places: Sequence[TopicPartition], limits: Limits, floors: Mapping[TopicPartition, int]
    ) -> tuple[dict[TopicPartition, Range], bool]:
        """Return the range to read of each partition, and whether a limit excludes records."""
        spans, cut = {}, False
        for place, (low, end) in self.bounds(places).items():
            floor = max(low, floors.get(place, low))
            start = max(floor, end - limits.records)
            cut = cut or start > floor
            if start < end:
                spans[place] = Range(start, end)
        return spans, cut


def place_of(key: bytes, topic: str, counts: Mapping[str, int]) -> TopicPartition | None:
    """Return the partition of a key (murmur2), or None if the topic does not exist."""
    return TopicPartition(topic, murmur2(key, counts[topic])) if topic in counts else None
