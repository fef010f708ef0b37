"""The partitions of a worker as a state machine, apart from Kafka; the group's truth is kept beside it."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from headrace.kafka.broker_contract import BrokerUnavailable, Mark, OffsetsLost, Record, TopicPartition
from headrace.kafka.partition_book import Committed, PartitionBook, Standing, WayBack

pytestmark = pytest.mark.unit

A, B, C = (TopicPartition("changes", number) for number in range(3))
MARK = Mark(1, 10, 14, 4)


def record(place: TopicPartition, offset: int) -> Record:
    """A record of the partition."""
    return Record(*place, offset, b"k", b"v")


def book(**committed: int | None) -> PartitionBook:
    """A book whose partitions, by letter, are placed at these offsets; the change was told."""
    found = {{"a": A, "b": B, "c": C}[name]: Committed(offset) for name, offset in committed.items()}
    made = PartitionBook()
    made.come(found)
    made.placed(found)
    assert made.outcome(()).rebalanced
    return made


def test_a_partition_goes_from_unknown_to_placed_to_moved() -> None:
    """Broken: a partition is read before its committed offset is known, or sought while its fetching starts."""
    made = PartitionBook()
    assert made.standing(A) is None
    made.come([A])
    assert (made.standing(A), made.unsettled, made.fetches(A)) == (Standing.UNKNOWN, True, False)
    made.placed({A: Committed(4)})
    assert (made.standing(A), made.unsettled, made.fetches(A)) == (Standing.PLACED, False, True)
    made.outcome([record(B, 1)])
    assert made.standing(A) is Standing.PLACED
    made.outcome([record(A, 4)])
    assert made.standing(A) is Standing.MOVED
    made.leave([A])
    assert (made.standing(A), made.fetches(A), made.assigned) == (None, False, frozenset())


def test_a_partition_whose_offset_could_not_be_read_is_asked_for_at_the_way_back() -> None:
    """Broken: it is read from the beginning of the log, or stays paused for ever."""
    made = book(b=7)
    made.come([A])
    assert made.go_back() == WayBack({}, [A])
    assert made.unsettled
    made.went_back({A: Committed(3)})
    assert (made.standing(A), made.unsettled, made.go_back()) == (Standing.MOVED, False, WayBack({A: 3}, []))


def test_only_a_partition_that_just_came_is_placed() -> None:
    """Broken: a late answer overwrites where a partition is, and records are skipped or done twice."""
    made = book(a=4)
    for place in (A, B):
        with pytest.raises(ValueError, match="newly assigned partition can be placed"):
            made.placed({place: Committed(9)})
    made.outcome([record(A, 4)])
    with pytest.raises(ValueError, match="is moved"):
        made.placed({A: Committed(9)})
    assert made.go_back() == WayBack({A: 4}, [])


def test_a_partition_that_comes_once_more_begins_again() -> None:
    """Broken: it goes back to an offset from before another worker had it."""
    made = book(a=4)
    made.outcome([record(A, 4)])
    made.come([A])
    assert (made.standing(A), made.go_back()) == (Standing.UNKNOWN, WayBack({}, [A]))


def test_the_way_back_is_known_while_all_is_certain() -> None:
    """Broken: each refused batch waits for the coordinator, which a rebalance may keep busy."""
    made = book(a=4, b=None, c=2)
    made.outcome([record(A, 4), record(B, 0)])
    made.committed({A: 5})
    assert made.go_back() == WayBack({A: 5, B: None}, [])


def test_after_an_uncertain_transaction_kafka_is_asked() -> None:
    """Broken: a transaction that was committed all the same is done twice."""
    made = book(a=4, b=None, c=2)
    made.outcome([record(A, 4), record(B, 0)])
    made.uncertain()
    assert made.go_back() == WayBack({}, [A, B])
    assert made.go_back() == WayBack({}, [A, B]), "a rewind that failed is begun once more"
    made.went_back({A: Committed(9), B: Committed(None)})
    assert made.go_back() == WayBack({A: 9, B: None}, [])


@pytest.mark.parametrize("ended", ["uncertain", "unknown", "left"])
def test_no_mark_is_written_beside_an_offset_that_may_be_old(ended: str) -> None:
    """Broken: a worker that stops, or gives a partition up, sends the group back: records are done twice."""
    made = book(a=4, b=7)
    made.outcome([record(A, 4)])
    made.marked({A: MARK, B: MARK})
    if ended == "uncertain":
        made.uncertain()
    elif ended == "unknown":
        made.come([A])
    else:
        made.leave([A])
    assert made.offsets_to_mark({A: MARK, B: MARK}) == {B: 7}
    assert made.take_marks([A, B]) == {B: 7}


def test_a_mark_is_taken_away_once_and_by_its_own_worker() -> None:
    """Broken: a death that counted is forgotten, or a worker that left alive leaves one behind."""
    made = book(a=4, b=None, c=2)
    assert made.take_marks([A, B, C]) == {}, "another worker's marks stay"
    made.marked({A: MARK, B: MARK, C: MARK})
    made.outcome([record(A, 4)])
    made.committed({A: 5})
    assert made.take_marks([A, B]) == {B: MARK.offset}
    assert made.take_marks([A, B, C]) == {C: 2}


def test_a_change_is_told_once_with_the_marks_and_drops_the_records() -> None:
    """Broken: a worker does records that belong to another one, or forgets whom a partition killed."""
    made = PartitionBook()
    made.come([A, B])
    made.placed({A: Committed(4, MARK), B: Committed(None, MARK)})
    made.leave([B])
    told = made.outcome([record(A, 4)])
    assert (told.records, told.rebalanced, told.assigned, told.marks) == ((), True, frozenset({A}), {A: MARK})
    assert made.go_back() == WayBack({A: 4}, []), "what the poll dropped is read again"
    told = made.outcome([record(A, 4)])
    assert (told.records, told.rebalanced, told.marks) == ([record(A, 4)], False, {})


def test_an_error_waits_for_a_poll_without_records() -> None:
    """Broken: records that were read beside an error are skipped, or the error is never told."""
    made = book(a=4)
    made.put_off(BrokerUnavailable("first"))
    made.put_off(BrokerUnavailable("second"))
    assert made.outcome([record(A, 4)]).records == [record(A, 4)]
    with pytest.raises(BrokerUnavailable, match="first"):
        made.outcome(())
    assert made.outcome(()).records == ()


def test_of_errors_before_a_change_only_lost_offsets_are_told_after_it() -> None:
    """Broken: a partition that is gone stops its old worker, or records that retention took away stop nobody."""
    made = book(a=4)
    made.put_off(BrokerUnavailable("gone"))
    made.come([B])
    assert made.outcome(()).rebalanced
    assert not made.outcome(()).rebalanced
    made.put_off(OffsetsLost("lost"))
    made.leave([B])
    assert made.outcome(()).rebalanced
    with pytest.raises(OffsetsLost):
        made.outcome(())


def test_steps_go_on_from_the_last_one_until_the_way_back() -> None:
    """Broken: a record that cannot be unpacked is fetched for ever, dead-lettered twice, or not at all."""
    made = book(a=6)
    assert made.next_unreadable(A, 4) == 6
    made.stepped_over(A, 6)
    assert made.next_unreadable(A, 4) == 7
    assert made.next_unreadable(A, 20) == 20
    made.go_back()
    assert made.next_unreadable(A, 4) == 6
    assert made.next_unreadable(B, 4) is None
    with pytest.raises(ValueError, match="is not assigned to this worker"):
        made.stepped_over(B, 4)


def test_a_paused_worker_fetches_nothing() -> None:
    """Broken: a partition that comes while the buffer is full floods it."""
    made = book(a=4)
    made.paused = True
    assert not made.fetches(A)
    made.paused = False
    assert made.fetches(A)


@dataclass
class _Group:
    """What Kafka has: the committed offset by partition, and where a live client reads next."""

    committed: dict[TopicPartition, int] = field(default_factory=dict)
    position: dict[TopicPartition, int] = field(default_factory=dict)


PLACES = st.lists(st.sampled_from([A, B, C]), unique=True, min_size=1)


class AnyOrder(RuleBasedStateMachine):
    """Events in any order that a client can bring them in, beside the group's truth.

    Hypothesis prints the seed and the steps of a failure; ``--hypothesis-seed`` runs it again.
    """

    @initialize()
    def begin(self) -> None:
        self.book = PartitionBook()
        self.group = _Group()
        self.changed = False

    def _start(self, place: TopicPartition) -> int:
        return self.group.committed.get(place, 0)

    @rule(places=PLACES, answered=st.booleans())
    def come(self, places: list[TopicPartition], answered: bool) -> None:
        places = [place for place in places if place not in self.book.assigned]
        self.book.come(places)
        self.changed = True
        if answered:
            self.book.placed({place: Committed(self.group.committed.get(place)) for place in places})
        self.group.position.update({place: self._start(place) if answered else 0 for place in places})

    @rule(places=PLACES, moved=st.integers(0, 3))
    def leave(self, places: list[TopicPartition], moved: int) -> None:
        """Marks are wiped, the partitions go, and another worker commits there."""
        self._write(self.book.take_marks(places))
        self.book.leave(places)
        self.changed = True
        for place in places:
            self.group.position.pop(place, None)
            self.group.committed[place] = self._start(place) + moved

    @rule(numbers=st.dictionaries(st.sampled_from([A, B, C]), st.integers(1, 3)))
    def poll(self, numbers: dict[TopicPartition, int]) -> None:
        records = []
        for place, number in numbers.items():
            if self.book.fetches(place) and not self.book.unsettled:
                at = self.group.position[place]
                records += [record(place, at + step) for step in range(number)]
                self.group.position[place] = at + number
        told = self.book.outcome(records)
        assert told.rebalanced is self.changed
        assert told.assigned == self.book.assigned
        assert list(told.records) == ([] if self.changed else records)
        self.changed = False

    @rule(reached=st.booleans())
    def rewind(self, reached: bool) -> None:
        """Seek; an unreachable coordinator answers nothing, and the client stays where it is."""
        back = self.book.go_back()
        if back.to_ask and not reached:
            return
        for place, offset in back.known.items():
            self.group.position[place] = offset or 0
        self.group.position.update({place: self._start(place) for place in back.to_ask})
        self.book.went_back({place: Committed(self.group.committed.get(place)) for place in back.to_ask})
        assert self.group.position == {place: self._start(place) for place in self.book.assigned}

    @rule(
        numbers=st.dictionaries(st.sampled_from([A, B, C]), st.integers(1, 3), min_size=1),
        end=st.sampled_from(["committed", "aborted", "unknown-committed", "unknown-aborted"]),
    )
    def batch(self, numbers: dict[TopicPartition, int], end: str) -> None:
        """What a worker does in a quiet hour: go back where it must, read, end a transaction."""
        self.poll({})
        self.rewind(reached=True)
        self.poll(numbers)
        offsets = {place: at for place, at in self.group.position.items() if at > self._start(place)}
        if end.endswith("committed"):
            self.group.committed.update(offsets)
        if end == "committed":
            self.book.committed(offsets)
        elif end.startswith("unknown"):
            self.book.uncertain()

    @rule(places=PLACES)
    def mark(self, places: list[TopicPartition]) -> None:
        marks = {place: Mark(1, 1, 9, self._start(place)) for place in places}
        written = self.book.offsets_to_mark(marks)
        self._write(written)
        self.book.marked({place: marks[place] for place in written})

    @rule()
    def close(self) -> None:
        """What a worker writes when it stops, at any point."""
        self._write(self.book.take_marks(self.book.assigned))

    def _write(self, offsets: dict[TopicPartition, int]) -> None:
        for place, offset in offsets.items():
            assert offset == self._start(place), "the group was sent back"

    @invariant()
    def nothing_is_skipped(self) -> None:
        """A partition that was placed is where the group is, and one of unknown offset is not read."""
        for place in self.book.assigned:
            if self.book.standing(place) is Standing.PLACED:
                assert self.group.position[place] == self._start(place)
            if self.book.standing(place) is Standing.UNKNOWN:
                assert not self.book.fetches(place)


AnyOrder.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestAnyOrder = AnyOrder.TestCase
