"""Reading ranges of offsets: each partition from a start to an end, in bounded memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Self

from headrace.config.settings import KafkaSettings
from headrace.errors import DependencyDown
from headrace.kafka.broker_contract import Record, TopicPartition
from headrace.kafka.client_config import Lost
from headrace.kafka.cursor import LogCursor
from headrace.kafka.offsets import LogOffsets, Range
from headrace.kafka.unavailable import unavailable

_SILENCE_S = 30.0
_OPEN_S = 90.0
"""Longer than an abandoned transaction can stay open."""
_BATCH = 500
_POLL_S = 0.1
_WAIT_MS = 50
Take = Callable[[Record], None]


class RangeReader:
    """Reads ranges, one call at a time, from one thread; topics without prefix.

    ``records`` and ``bytes`` (of values) count what was read so far. It needs the memory of :func:`reader_config` and
    of one batch of 500 records. Records that expire before they are read are skipped, or raise :class:`OffsetsLost` if
    the reader was created with ``lost="error"``.
    """

    def __init__(
        self, kafka: KafkaSettings, role: str, *, wait_ms: int = _WAIT_MS, lost: Lost = "earliest",
        silence_s: float = _SILENCE_S, open_s: float = _OPEN_S,
    ) -> None:  # fmt: skip
        self._kafka = kafka
        self._cursor = LogCursor(kafka, role, wait_ms=wait_ms, lost=lost)
        self._silence_s = silence_s
        self._open_s = open_s
        self._ends: dict[TopicPartition, int] = {}
        self._starts: dict[TopicPartition, int] = {}
        self.records = 0
        self.bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the connections."""
        self._cursor.close()

    @property
    def unread(self) -> bool:
        """Whether any of the opened ranges is not read to its end."""
        return bool(self._ends)

    def open(self, ranges: Mapping[TopicPartition, Range]) -> None:
        """Read these ranges next, instead of the current ones."""
        places = {TopicPartition(*place): one for place, one in ranges.items() if one.start < one.end}
        self._ends = {place: one.end for place, one in places.items()}
        self._starts = {place: one.start for place, one in places.items()}
        self._cursor.assign(self._starts)

    def at(self, place: TopicPartition) -> int | None:
        """Return the next offset to read of a partition, or None if its range was read to its end."""
        return min(self._cursor.at[place], self._ends[place]) if place in self._ends else None

    def next(self, most: int, seconds: float) -> list[Record]:
        """Return up to ``most`` records of the ranges; waits for them, and raises, as :meth:`LogCursor.fetch` does."""
        fetched = self._cursor.fetch(most, seconds)
        found = [record for record in fetched if record.offset < self._ends.get(record.place, 0)]
        self.records += len(found)
        self.bytes += sum(len(record.value or b"") for record in found)
        if finished := [place for place, end in self._ends.items() if self._cursor.at[place] >= end]:
            for place in finished:
                del self._ends[place]
            self._cursor.drop(finished)
        return found

    def read(self, ranges: Mapping[TopicPartition, Range], take: Take, *, seconds: float | None = None) -> bool:
        """Pass every record of the ranges to ``take``, in order within a partition; return whether all were read.

        It is False only after ``seconds``, if given. A range that ends behind an open transaction is read when the
        transaction ends. Raises :class:`DependencyDown` after 30 s without an answer, or 90 s if a transaction is the
        reason, and what ``take`` raises.
        """
        self.open(ranges)
        until = None if seconds is None else time.monotonic() + seconds
        heard, before = time.monotonic(), dict(self._cursor.at)
        try:
            while self._ends:
                left = _POLL_S if until is None else min(_POLL_S, until - time.monotonic())
                if left <= 0:
                    return False
                for record in self.next(_BATCH, left):
                    take(record)
                if self._cursor.at != before:
                    heard, before = time.monotonic(), dict(self._cursor.at)
                self._require_answer(time.monotonic() - heard)
        finally:
            if self._ends:
                self.open({})  # otherwise the client keeps fetching into memory
        return True

    def _require_answer(self, silent_s: float) -> None:
        """Raise if the remaining partitions gave no answer for too long."""
        silent = min(self._ends.keys() - self._cursor.ended, default=None)
        if silent is not None and silent_s > self._silence_s:
            raise unavailable(self._kafka, f"no answer for {silent} in {self._silence_s:.0f} s")
        if self._ends and silent_s > self._open_s:
            place = min(self._ends)
            raise DependencyDown(
                "kafka", f"{place} cannot be read to offset {self._ends[place]}: a transaction stayed open for "
                f"{self._open_s:.0f} s, or Kafka did not answer",
                remedy="Find open transactions with Kafka's `kafka-transactions.sh find-hanging` and abort them, then "
                "run the command again.",
            )  # fmt: skip


class LogReader(LogOffsets):
    """Offsets, and reading between them with one consumer per call. ``role`` as in :func:`reader_config`."""

    def __init__(self, kafka: KafkaSettings, role: str) -> None:
        super().__init__(kafka)
        self._role = role

    def read(self, ranges: Mapping[TopicPartition, Range], take: Take) -> None:
        """Pass every record of the ranges to ``take``; raises what :meth:`RangeReader.read` does."""
        if any(one.start < one.end for one in ranges.values()):
            with RangeReader(self.kafka, self._role) as reader:
                reader.read(ranges, take)
