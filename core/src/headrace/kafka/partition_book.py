"""What a worker knows about its partitions: position, committed offset, and what the next poll reports.

Pure: no client, clock or randomness. :class:`headrace.kafka.broker.KafkaBroker` enters Kafka's answers here, most of
them from librdkafka's callbacks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from headrace.kafka.broker_contract import BrokerError, Mark, OffsetsLost, Polled, Record, TopicPartition


class Standing(StrEnum):
    """The client's position in a partition; :class:`PartitionBook` shows the transitions."""

    UNKNOWN = "unknown"
    """The committed offset is not known yet. Until it is, the partition is paused and gets no mark."""
    PLACED = "placed"
    """At the committed offset, nothing read yet. The client cannot seek while it starts to fetch, and need not."""
    MOVED = "moved"
    """Records were read, or the client was sent to the committed offset. Going back requires a seek."""


class Committed(NamedTuple):
    """What the group committed for a partition: the next offset to read (None: never), and the mark with it."""

    offset: int | None
    mark: Mark | None = None


class WayBack(NamedTuple):
    """Where a rewind seeks: to the offsets in ``known`` (None: the beginning) and those to ask Kafka for."""

    known: Mapping[TopicPartition, int | None]
    to_ask: Sequence[TopicPartition]


@dataclass(slots=True)
class _Partition:
    standing: Standing = Standing.UNKNOWN
    committed: int | None = None
    stepped: int = 0
    """The offset after the last record that was skipped since the last rewind."""
    mark: Mark | None = None
    """Written by this worker and not removed by a commit."""


class PartitionBook:
    """The partitions of one worker as a state machine; each method is one event or one question.

    A partition::

                    come               placed                read
        (not ours) ------> UNKNOWN ------------> PLACED ------------> MOVED
                             |                                        ^   |
                             +----------------------------------------+   | went_back, read, committed,
                                           went_back                  +---+ stepped_over

        leave: from any state to (not ours). come: from any state to UNKNOWN, and nothing read before counts.

    The group's offsets::

                    uncertain
        CERTAIN ----------------> UNCERTAIN: a commit may or may not have moved the offsets of MOVED partitions,
           ^                          |      so a rewind asks Kafka for them and no mark is written there
           +--------------------------+
                   went_back

    What the next poll tells (:meth:`outcome`):

    ==================  =============  =========  =====================================================
    partitions changed  error put off  records    the poll
    ==================  =============  =========  =====================================================
    yes                 any            any        tells of the change, drops records and error; only
                                                  :class:`OffsetsLost` waits for the next poll
    no                  any            some       returns the records; the error waits for the next poll
    no                  yes            none       raises the error
    no                  no             none       returns nothing
    ==================  =============  =========  =====================================================
    """

    def __init__(self) -> None:
        self.assigned: frozenset[TopicPartition] = frozenset()
        self.paused = False
        """Whether the worker paused fetching."""
        self._partitions: dict[TopicPartition, _Partition] = {}
        self._certain = True
        self._changed = False
        self._put_off: BrokerError | None = None
        self._found_marks: dict[TopicPartition, Mark] = {}
        """Marks of partitions assigned since the last poll that reported a change."""

    @property
    def unsettled(self) -> bool:
        """Whether a committed offset is still unknown, so that a rewind must come before the next fetch."""
        return any(one.standing is Standing.UNKNOWN for one in self._partitions.values())

    def standing(self, place: TopicPartition) -> Standing | None:
        """Return the client's position in the partition, or None if it is not assigned to this worker."""
        found = self._partitions.get(place)
        return None if found is None else found.standing

    def fetches(self, place: TopicPartition) -> bool:
        """Whether the client may fetch from the partition; otherwise it is paused."""
        return not self.paused and self.standing(place) in (Standing.PLACED, Standing.MOVED)

    # The group coordinator assigns and revokes partitions.

    def come(self, places: Iterable[TopicPartition]) -> None:
        """These partitions are now assigned to this worker; where to read them is not known yet."""
        self._changed = True
        for place in places:
            known = self._partitions.get(place)
            self._partitions[place] = _Partition(mark=None if known is None else known.mark)
        self.assigned = frozenset(self._partitions)

    def placed(self, found: Mapping[TopicPartition, Committed]) -> None:
        """The client starts these partitions at their committed offsets. Raises ValueError unless newly assigned."""
        for place, committed in found.items():
            if self.standing(place) is not Standing.UNKNOWN:
                raise ValueError(
                    f"{place} is {self.standing(place) or 'not assigned'}; only a newly assigned "
                    "partition can be placed"
                )
            partition = self._partitions[place]
            partition.standing, partition.committed = Standing.PLACED, committed.offset
            if committed.mark is not None:
                self._found_marks[place] = committed.mark

    def leave(self, places: Iterable[TopicPartition]) -> None:
        """These partitions are no longer assigned to this worker."""
        self._changed = True
        for place in places:
            self._partitions.pop(place, None)
            self._found_marks.pop(place, None)
        self.assigned = frozenset(self._partitions)

    # A poll reads.

    def put_off(self, error: BrokerError) -> None:
        """Keep the error until a poll has no records to return. Only the first one is kept."""
        self._put_off = self._put_off or error

    def next_unreadable(self, place: TopicPartition, reported: int) -> int | None:
        """Return the offset of the record that cannot be decompressed, or None if its partition is not assigned.

        ``reported`` is the first offset of the record's batch, which the client names whatever offset was requested.
        """
        partition = self._partitions.get(place)
        return None if partition is None else max(reported, partition.committed or 0, partition.stepped)

    def stepped_over(self, place: TopicPartition, offset: int) -> None:
        """The client continues after this offset. Raises ValueError for a partition that is not assigned."""
        partition = self._partitions.get(place)
        if partition is None:
            raise ValueError(f"{place} is not assigned to this worker; only an assigned partition can be stepped over")
        partition.stepped = offset + 1

    def outcome(self, records: Sequence[Record]) -> Polled:
        """Return what the poll reports, or raise the error that was put off; see the table above."""
        placed = [one for one in self._partitions.items() if one[1].standing is Standing.PLACED]
        if placed:
            read = {record.place for record in records}
            for place, partition in placed:
                if place in read:
                    partition.standing = Standing.MOVED
        if self._changed:
            self._changed = False
            self._put_off = self._put_off if isinstance(self._put_off, OffsetsLost) else None
            marks, self._found_marks = self._found_marks, {}
            return Polled((), True, self.assigned, marks)
        if self._put_off is not None and not records:
            error, self._put_off = self._put_off, None
            raise error
        return Polled(records, False, self.assigned)

    # A transaction ends, or the worker rewinds.

    def committed(self, offsets: Mapping[TopicPartition, int]) -> None:
        """The group committed these offsets; the marks with the older ones are gone."""
        for place, offset in offsets.items():
            partition = self._partitions.get(place)
            if partition is not None:
                partition.committed, partition.mark = offset, None

    def uncertain(self) -> None:
        """It is unknown whether the last transaction was committed."""
        self._certain = False

    def go_back(self) -> WayBack:
        """Begin a rewind: forget skipped records and return where to seek; :meth:`went_back` ends it.

        While all is certain, no other worker commits for assigned partitions, so it asks only for unknown offsets:
        Kafka's answer may have to wait for a rebalance.
        """
        known: dict[TopicPartition, int | None] = {}
        to_ask: list[TopicPartition] = []
        for place, partition in self._partitions.items():
            partition.stepped = 0
            if not self._knows(partition):
                to_ask.append(place)
            elif partition.standing is Standing.MOVED:
                known[place] = partition.committed
        return WayBack(known, to_ask)

    def went_back(self, answers: Mapping[TopicPartition, Committed]) -> None:
        """The client is back in all partitions; ``answers`` are the offsets that :meth:`go_back` asked for."""
        for place, committed in answers.items():
            partition = self._partitions.get(place)
            if partition is not None:
                partition.standing, partition.committed = Standing.MOVED, committed.offset
        self._certain = True

    # Marks with the committed offsets.

    def offsets_to_mark(self, marks: Mapping[TopicPartition, Mark]) -> dict[TopicPartition, int]:
        """Return the committed offsets to write the marks with, or the mark's own if the group never committed.

        Writing a mark commits the offset again. Partitions with an unknown committed offset and unassigned partitions
        are left out: the group would go back, and records would be processed twice.
        """
        found: dict[TopicPartition, int] = {}
        for place, mark in marks.items():
            partition = self._partitions.get(place)
            if partition is not None and self._knows(partition):
                found[place] = mark.offset if partition.committed is None else partition.committed
        return found

    def marked(self, marks: Mapping[TopicPartition, Mark]) -> None:
        """These marks are written."""
        for place, mark in marks.items():
            partition = self._partitions.get(place)
            if partition is not None:
                partition.mark = mark

    def take_marks(self, places: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """Forget this worker's own marks in these partitions; return the offsets from which to remove them."""
        own: dict[TopicPartition, Mark] = {}
        for place in places:
            partition = self._partitions.get(place)
            if partition is not None and partition.mark is not None:
                own[place], partition.mark = partition.mark, None
        return self.offsets_to_mark(own)

    def _knows(self, partition: _Partition) -> bool:
        """Whether ``committed`` is certainly the group's offset."""
        return partition.standing is Standing.PLACED or (partition.standing is Standing.MOVED and self._certain)
