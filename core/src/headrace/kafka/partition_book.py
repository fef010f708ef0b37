"""What a worker knows of its partitions: where each one is, what the group has committed, what the next poll tells.

Pure: no client, no clock, no randomness. :class:`headrace.kafka.broker.KafkaBroker` asks Kafka and enters the answers
here, most of them from librdkafka's callbacks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from headrace.kafka.broker_contract import BrokerError, Mark, OffsetsLost, Polled, Record, TopicPartition


class Standing(StrEnum):
    """Where the client is in a partition; :class:`PartitionBook` draws the transitions."""

    UNKNOWN = "unknown"
    """The committed offset is not known yet. The partition is paused until it is, and gets no mark."""
    PLACED = "placed"
    """At the committed offset, and nothing was read. The client cannot seek while it starts to fetch, nor need it."""
    MOVED = "moved"
    """Records were read, or the client was sent to the committed offset. Going back takes a seek."""


class Committed(NamedTuple):
    """What the group has for a partition: the next offset to read (None: never committed), and the mark beside it."""

    offset: int | None
    mark: Mark | None = None


class WayBack(NamedTuple):
    """Where a rewind seeks: to the offsets in ``known`` (None: the beginning), and to those that Kafka must tell."""

    known: Mapping[TopicPartition, int | None]
    to_ask: Sequence[TopicPartition]


@dataclass(slots=True)
class _Partition:
    standing: Standing = Standing.UNKNOWN
    committed: int | None = None
    stepped: int = 0
    """The offset after the last record that was stepped over since the last rewind."""
    mark: Mark | None = None
    """Made by this worker, and not taken away by a commit."""


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
        """Whether fetching is paused: the worker wants no records for now."""
        self._partitions: dict[TopicPartition, _Partition] = {}
        self._certain = True
        self._changed = False
        self._put_off: BrokerError | None = None
        self._found_marks: dict[TopicPartition, Mark] = {}
        """Marks of partitions that came since the last poll told of a change."""

    @property
    def unsettled(self) -> bool:
        """Whether the committed offset of a partition is not known yet: a rewind must come before the next fetch."""
        return any(one.standing is Standing.UNKNOWN for one in self._partitions.values())

    def standing(self, place: TopicPartition) -> Standing | None:
        """Return where the client is in the partition, or None for one that is not ours."""
        found = self._partitions.get(place)
        return None if found is None else found.standing

    def fetches(self, place: TopicPartition) -> bool:
        """Whether the client may fetch from the partition; otherwise it is paused."""
        return not self.paused and self.standing(place) in (Standing.PLACED, Standing.MOVED)

    # The group's coordinator gives and takes partitions.

    def come(self, places: Iterable[TopicPartition]) -> None:
        """These partitions are ours from now on; where to read them is not known yet."""
        self._changed = True
        for place in places:
            known = self._partitions.get(place)
            self._partitions[place] = _Partition(mark=None if known is None else known.mark)
        self.assigned = frozenset(self._partitions)

    def placed(self, found: Mapping[TopicPartition, Committed]) -> None:
        """The client took these partitions up at their committed offsets. Raises ValueError unless they just came."""
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
        """These partitions are another worker's from now on."""
        self._changed = True
        for place in places:
            self._partitions.pop(place, None)
            self._found_marks.pop(place, None)
        self.assigned = frozenset(self._partitions)

    # A poll reads.

    def put_off(self, error: BrokerError) -> None:
        """Keep the error until a poll has no records to return. The first one counts."""
        self._put_off = self._put_off or error

    def next_unreadable(self, place: TopicPartition, reported: int) -> int | None:
        """Return the offset of the record that cannot be unpacked, or None for a partition that is not ours.

        ``reported`` is the first offset of the record's batch: the client names that one, whatever was asked for.
        """
        partition = self._partitions.get(place)
        return None if partition is None else max(reported, partition.committed or 0, partition.stepped)

    def stepped_over(self, place: TopicPartition, offset: int) -> None:
        """The client reads on behind this offset. Raises ValueError for a partition that is not ours."""
        partition = self._partitions.get(place)
        if partition is None:
            raise ValueError(f"{place} is not assigned to this worker; only an assigned partition can be stepped over")
        partition.stepped = offset + 1

    def outcome(self, records: Sequence[Record]) -> Polled:
        """Return what the poll tells, see the table above. Raises the error that was put off where that is told."""
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

    # A transaction ends, or the worker goes back.

    def committed(self, offsets: Mapping[TopicPartition, int]) -> None:
        """The group has these offsets now, and the marks beside the older ones are gone."""
        for place, offset in offsets.items():
            partition = self._partitions.get(place)
            if partition is not None:
                partition.committed, partition.mark = offset, None

    def uncertain(self) -> None:
        """Whether the last transaction was committed is not known."""
        self._certain = False

    def go_back(self) -> WayBack:
        """Begin a rewind: forget what was stepped over and return where to seek; :meth:`went_back` ends it.

        While all is certain nobody else commits for partitions that are ours, so only unknown offsets are asked for:
        Kafka's answer may wait for a rebalance under way.
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
        """The client is back everywhere; these are Kafka's answers for what :meth:`go_back` asked for."""
        for place, committed in answers.items():
            partition = self._partitions.get(place)
            if partition is not None:
                partition.standing, partition.committed = Standing.MOVED, committed.offset
        self._certain = True

    # Marks beside the committed offsets.

    def offsets_to_mark(self, marks: Mapping[TopicPartition, Mark]) -> dict[TopicPartition, int]:
        """Return the committed offsets to write the marks beside; where nothing was committed, the mark's own.

        Writing a mark writes the offset again. A partition whose committed offset is not known is left out, and so is
        one that is not ours: the group would go back, and other records be done twice.
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
        """Forget this worker's own marks in these partitions; return the offsets beside which they are to be wiped."""
        own: dict[TopicPartition, Mark] = {}
        for place in places:
            partition = self._partitions.get(place)
            if partition is not None and partition.mark is not None:
                own[place], partition.mark = partition.mark, None
        return self.offsets_to_mark(own)

    def _knows(self, partition: _Partition) -> bool:
        """Whether ``committed`` is what the group has."""
        return partition.standing is Standing.PLACED or (partition.standing is Standing.MOVED and self._certain)
