"""Which documents have a change under way: the records that wait for the stages, followed in memory, for search.

:class:`~headrace_gateway.flow.KafkaFlowReader` reads the log for one document at a time. A search asks for the
documents of all its hits and cannot wait for that, so these records are kept: a refresh asks Kafka how far the log and
the stages are, and reads only what is new. Searches that arrive during a refresh share the next one.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from confluent_kafka import murmur2

from headrace.codec.codec import Codec
from headrace.config.settings import KafkaSettings
from headrace.documents.status import Waiting
from headrace.kafka.broker_contract import Record, TopicPartition
from headrace.kafka.offsets import LogOffsets, Range
from headrace.kafka.ranges import RangeReader
from headrace_gateway.flow import MAX_RECORDS, MAX_SECONDS, FlowState, WaitingTopics

_CALL_S = 5.0
_PARTITIONS_S = 60.0
_WAIT_MS = 10


class PendingRecords:
    """The newest waiting record of each key in each partition; no input or output.

    A record of a stage's topic waits until the stage has committed an offset behind it. A held record stays until the
    log drops it: :func:`headrace.documents.status.judge` knows which of them went on.
    """

    def __init__(self) -> None:
        self._newest: defaultdict[TopicPartition, dict[bytes, Waiting]] = defaultdict(dict)
        self._read_to: dict[TopicPartition, int] = {}
        self._ends: dict[TopicPartition, int] = {}
        self._committed: dict[TopicPartition, int] = {}
        self._skipped_to: dict[TopicPartition, int] = {}

    def changed(self, ends: Mapping[TopicPartition, int]) -> bool:
        """Whether there is anything to read, or anything that a stage may have taken meanwhile."""
        return any(self._newest[place] for place in self._committed) or any(
            end > self._read_to.get(place, -1) for place, end in ends.items()
        )

    def spans(
        self, ends: Mapping[TopicPartition, int], committed: Mapping[TopicPartition, int], most: int
    ) -> dict[TopicPartition, Range]:
        """Return what to read next: of each partition, at most the last ``most`` offsets that were not read yet."""
        spans = {}
        for place, end in ends.items():
            floor = max(self._read_to.get(place, 0), committed.get(place, 0))
            start = min(max(floor, end - most), end)
            if start > floor:
                self._skipped_to[place] = start
            spans[place] = Range(start, end)
        return spans

    def take(self, place: TopicPartition, key: bytes, waiting: Waiting) -> None:
        """Keep a record."""
        self._newest[place][key] = waiting

    def advance(
        self,
        read_to: Mapping[TopicPartition, int],
        ends: Mapping[TopicPartition, int],
        committed: Mapping[TopicPartition, int],
    ) -> None:
        """Note how far the log was read and goes and how far stages are; forget what no stage waits for any more."""
        self._read_to |= read_to
        self._ends |= ends
        self._committed |= committed
        self.forget(committed)

    def forget(self, before: Mapping[TopicPartition, int]) -> None:
        """Forget the records before these offsets."""
        for place, offset in before.items():
            newest = self._newest[place]
            for key in [key for key, waiting in newest.items() if waiting.offset < offset]:
                del newest[key]

    def state(self, key: bytes, places: Iterable[TopicPartition]) -> FlowState:
        """Return the records of a key that wait in these partitions, and whether none can be missing."""
        found, complete = [], True
        for place in places:
            if (waiting := self._newest[place].get(key)) is not None:
                found.append(waiting)
            complete = (
                complete
                and self._read_to.get(place, -1) >= self._ends.get(place, 0)
                and self._skipped_to.get(place, 0) <= self._committed.get(place, 0)
            )
        return FlowState(tuple(found), complete)


class KafkaPending:
    """Keeps :class:`PendingRecords` up to date. librdkafka's calls block, so one thread makes them."""

    def __init__(self, kafka: KafkaSettings, codec: Codec) -> None:
        self._topics = WaitingTopics(kafka, codec)
        self._offsets = LogOffsets(kafka, call_s=_CALL_S)
        self._reader = RangeReader(kafka, "gateway-pending", wait_ms=_WAIT_MS)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pending")
        self._lock = threading.Lock()
        self._records = PendingRecords()
        self._counts: Mapping[str, int] = {}
        self._counted_at = 0.0
        self._running: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    def begin(self) -> asyncio.Task[None]:
        """Return the next refresh. A gateway begins one at its start: the first takes longer, for its connections."""
        if self._next is None:
            self._next = asyncio.create_task(self._after(self._running), name="pending-records")
            self._next.add_done_callback(lambda task: task.cancelled() or task.exception())  # read, if nobody waits
        return self._next

    async def refresh(self) -> None:
        """Wait for a refresh that begins after this call; raises :class:`headrace.errors.DependencyDown`."""
        await asyncio.shield(self.begin())

    def state(self, key: bytes) -> FlowState:
        """Return the records of the key that waited at the last refresh."""
        with self._lock:
            if not self._counts:
                return FlowState(complete=False)
            return self._records.state(key, [TopicPartition(t, murmur2(key, n)) for t, n in self._counts.items()])

    async def close(self) -> None:
        """Close the connections."""
        for task in (self._running, self._next):
            if task is not None:
                await asyncio.wait([task])
        self._thread.shutdown()
        self._reader.close()

    async def _after(self, running: asyncio.Task[None] | None) -> None:
        if running is not None:
            await asyncio.wait([running])
        self._running, self._next = self._next, None
        await asyncio.get_running_loop().run_in_executor(self._thread, self._refresh)

    def _refresh(self) -> None:
        places = self._places()
        groups: dict[str, list[TopicPartition]] = {}
        for place in places:
            if place.topic in self._topics.sources:
                groups.setdefault(self._topics.sources[place.topic][1], []).append(place)
        ends = self._offsets.ends(places)
        if not self._records.changed(ends):
            return
        # Commits first: what a stage has committed is in the next topic before its end is asked for.
        committed = self._offsets.committed_of(groups)
        ends = self._offsets.ends(places)
        spans = self._records.spans(ends, committed, MAX_RECORDS)
        found: list[Record] = []
        whole = self._reader.read(spans, found.append, seconds=MAX_SECONDS)
        read_to = {place: span.end if whole else span.start for place, span in spans.items()}
        with self._lock:
            for record in found:
                if record.key is not None:
                    self._records.take(record.place, record.key, self._topics.describe(record, decoded=False))
                read_to[record.place] = max(read_to[record.place], record.offset + 1)
            self._records.advance(read_to, ends, committed)

    def _places(self) -> list[TopicPartition]:
        """Return every partition; once in a while, ask for their number and forget what the log has dropped."""
        if not self._counts or time.monotonic() - self._counted_at > _PARTITIONS_S:
            counts = self._topics.partitions(self._offsets)
            held = [TopicPartition(topic, at) for topic in self._topics.held for at in range(counts[topic])]
            starts = self._offsets.starts(held)
            with self._lock:
                self._counts = counts
                self._records.forget(starts)
            self._counted_at = time.monotonic()
        return [TopicPartition(topic, at) for topic, count in self._counts.items() for at in range(count)]
