"""Reading the log outside a group, over a client in memory that answers as Kafka's was seen to."""

from __future__ import annotations

import itertools
import types
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaPlace

from headrace.config.settings import KafkaSettings
from headrace.errors import ConfigurationError, DependencyDown, UndecodableRecord
from headrace.kafka import client_config, cursor, follower, offsets, ranges
from headrace.kafka.broker_contract import OffsetsLost, Record, TopicPartition
from headrace.kafka.cursor import LogCursor
from headrace.kafka.follower import LogFollower
from headrace.kafka.offsets import LogOffsets, Range
from headrace.kafka.ranges import LogReader, RangeReader
from headrace.kafka.unavailable import unavailable

pytestmark = pytest.mark.unit

KAFKA = KafkaSettings(bootstrap="127.0.0.1:1", topic_prefix="p-", generation="g2")
A, B = TopicPartition("documents", 0), TopicPartition("documents", 1)
END = KafkaError._PARTITION_EOF


@dataclass
class Message:
    """A message as the client gives it; an error in place of a record where one is set."""

    place: TopicPartition
    at: int
    problem: KafkaError | None = None
    data: bytes | None = b"value"

    def error(self) -> KafkaError | None:
        return self.problem

    def topic(self) -> str:
        return KAFKA.topic(self.place.topic)

    def partition(self) -> int:
        return self.place.partition

    def offset(self) -> int:
        return self.at

    def key(self) -> bytes:
        return b"key"

    def value(self) -> bytes | None:
        return self.data

    def headers(self) -> Any:
        return [("version", b"1")]

    def timestamp(self) -> tuple[int, int]:
        return 0, -1


def end(place: TopicPartition, offset: int) -> Message:
    """What the client says when a partition was read to its last stable offset."""
    return Message(place, offset, KafkaError(END, "at the end"))


@dataclass
class Client:
    """A consumer that hands out what was planted, one message a poll and the rest a consume."""

    messages: list[Message | None] = field(default_factory=list)
    assigned: list[list[tuple[str, int, int]]] = field(default_factory=list)
    dropped: list[tuple[str, int]] = field(default_factory=list)
    closed: bool = False
    config: dict[str, Any] = field(default_factory=dict)

    def assign(self, places: Iterable[KafkaPlace]) -> None:
        self.assigned.append([(place.topic, place.partition, place.offset) for place in places])

    def incremental_unassign(self, places: Iterable[KafkaPlace]) -> None:
        self.dropped += [(place.topic, place.partition) for place in places]

    def poll(self, _: float) -> Message | None:
        return self.messages.pop(0) if self.messages else None

    def consume(self, most: int, _: float) -> Sequence[Message]:
        ready: list[Message] = []
        while self.messages and len(ready) < most and (message := self.messages[0]) is not None:
            ready.append(message)
            del self.messages[0]
        return ready

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    """The client that every cursor of the test gets."""
    made = Client()

    def make(config: dict[str, Any]) -> Client:
        made.config = config
        return made

    monkeypatch.setattr(cursor, "Consumer", make)
    return made


class Clock:
    """Goes on by a second each time that it is asked."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1.0
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """No test waits."""
    made = Clock()
    for module in (ranges, follower, offsets):
        monkeypatch.setattr(module, "time", made)
    return made


def read(
    reader: RangeReader, spans: dict[TopicPartition, Range], **bounds: float
) -> tuple[list[tuple[int, int]], bool]:
    """Return partition and offset of all that is read, and whether the reading came to its end."""
    found: list[tuple[int, int]] = []
    done = reader.read(spans, lambda record: found.append((record.partition, record.offset)), **bounds)
    return found, done


def test_every_reader_keeps_to_the_topic_prefix_and_to_committed_records() -> None:
    """Broken: a user whose ACLs cover the prefix cannot read lag, or a reader shows what was never committed."""
    config = client_config.reader_config(KAFKA, "lag", wait_ms=20)
    assert (config["group.id"], config["isolation.level"]) == ("p-headrace-lag", "read_committed")
    assert (config["enable.auto.commit"], config["enable.auto.offset.store"]) == (False, False)


def test_a_range_is_read_from_its_start_to_its_end_and_no_further(client: Client) -> None:
    """Broken: a replay or an audit takes in what lies behind its end, or leaves out the last record before it."""
    client.messages = [Message(A, 3), Message(B, 0), Message(A, 4), Message(A, 5), end(B, 1)]
    with RangeReader(KAFKA, "test") as reader:
        assert read(reader, {A: Range(3, 5), B: Range(0, 1), TopicPartition("empty", 0): Range(4, 4)}) == (
            [(0, 3), (1, 0), (0, 4)], True,
        )  # fmt: skip
        assert (reader.records, reader.bytes) == (3, 15)
    assert client.assigned == [[("p-documents", 0, 3), ("p-documents", 1, 0)]]
    assert client.closed


@pytest.mark.parametrize("last", [Message(A, 9), end(A, 8)])
def test_offsets_without_a_record_at_the_end_hold_nothing_up(client: Client, last: Message) -> None:
    """Broken: a range that ends in markers, aborted or compacted records is waited for until the reader gives up."""
    client.messages = [Message(A, 2), last]
    with RangeReader(KAFKA, "test") as reader:
        assert read(reader, {A: Range(0, 8)}) == ([(0, 2)], True)


def test_an_open_transaction_is_waited_for_and_then_named(client: Client) -> None:
    """Broken: an audit leaves out records that are about to be committed, or hangs for ever on an abandoned one."""
    client.messages = [Message(A, 0), end(A, 1), None, None, Message(A, 1)]
    with RangeReader(KAFKA, "test") as reader:
        assert read(reader, {A: Range(0, 2)}) == ([(0, 0), (0, 1)], True)
        client.messages = [end(A, 1)]
        with pytest.raises(
            DependencyDown, match=r"documents\[0\] cannot be read to offset 2: a transaction stayed open"
        ):
            read(reader, {A: Range(0, 2)})


def test_a_silent_kafka_is_told_in_bounded_time(client: Client, clock: Clock) -> None:
    """Broken: a command hangs while Kafka does not answer."""
    with RangeReader(KAFKA, "test", silence_s=5) as reader, pytest.raises(DependencyDown) as caught:
        read(reader, {A: Range(0, 2)})
    assert "Kafka at 127.0.0.1:1 does not answer: no answer for documents[0] in 5 s" in str(caught.value)
    assert caught.value.remedy
    assert clock.now < 12
    assert client.closed


def test_a_reading_that_is_out_of_time_says_so(client: Client) -> None:
    """Broken: a trace that was cut short is shown as complete."""
    client.messages = [Message(A, 0), *[None] * 10]
    with RangeReader(KAFKA, "test") as reader:
        assert read(reader, {A: Range(0, 9)}, seconds=4) == ([(0, 0)], False)


def test_a_partition_is_fetched_again_in_a_later_range(client: Client) -> None:
    """Broken: the second window of a trace finds nothing, because the first one gave its partition up."""
    with RangeReader(KAFKA, "test") as reader:
        client.messages = [Message(A, 5), end(A, 6)]
        read(reader, {A: Range(5, 6)})
        client.messages = [Message(A, 4), Message(A, 5)]
        assert read(reader, {A: Range(4, 5)}) == ([(0, 4)], True)
    assert client.assigned == [[("p-documents", 0, 5)], [("p-documents", 0, 4)]]
    assert client.dropped == [("p-documents", 0)] * 2


def test_what_is_left_of_an_earlier_range_is_not_handed_over(client: Client) -> None:
    """Broken: a record of a partition that is no longer asked for ends up in another range's result."""
    client.messages = [Message(B, 7), Message(A, 0)]
    with RangeReader(KAFKA, "test") as reader:
        assert read(reader, {A: Range(0, 1)}) == ([(0, 0)], True)


def test_how_far_each_partition_was_read_is_known(client: Client) -> None:
    """Broken: a replay that is resumed sends records twice, or leaves some out."""
    client.messages = [Message(A, 0), end(A, 3)]
    reader = RangeReader(KAFKA, "test")
    reader.open({A: Range(0, 9), B: Range(2, 3)})
    assert [record.offset for record in reader.next(10, 0)] == [0]
    assert (reader.at(A), reader.at(B), reader.unread) == (3, 2, True)
    client.messages = [Message(A, 12), Message(B, 2)]
    assert [record.offset for record in reader.next(10, 0)] == [2]
    assert (reader.at(A), reader.at(B), reader.unread) == (None, None, False)


def test_records_that_aged_out_are_an_error_where_none_may_be_passed_over(client: Client) -> None:
    """Broken: a replay passes over what retention took away, and looks complete."""
    client.messages = [Message(A, -1, KafkaError(KafkaError._AUTO_OFFSET_RESET, "out of range"))]
    with LogCursor(KAFKA, "test", wait_ms=1, lost="error") as reading, pytest.raises(OffsetsLost, match="out of range"):
        reading.fetch(10, 0)
    assert client.config["auto.offset.reset"] == "error"


def test_the_record_is_the_one_that_was_written(client: Client) -> None:
    """Broken: a tombstone looks like an empty value, or a record without a time like one of before 1970."""
    client.messages = [Message(A, 4, data=None)]
    with LogCursor(KAFKA, "test", wait_ms=1) as reading:
        reading.assign({A: 4})
        assert reading.fetch(1, 0) == [Record("documents", 0, 4, b"key", None, (("version", b"1"),), 0)]


@pytest.mark.parametrize(
    ("code", "says", "remedy"),
    [
        (KafkaError.GROUP_AUTHORIZATION_FAILED, "Kafka at 127.0.0.1:1 denies access", "READ and DESCRIBE"),
        (KafkaError._BAD_COMPRESSION, "cannot read a record from Kafka at 127.0.0.1:1", "dead-letters it"),
        (KafkaError._TRANSPORT, "Kafka at 127.0.0.1:1 does not answer", "HEADRACE_KAFKA_BOOTSTRAP"),
    ],
)
def test_an_error_says_what_kafka_did_and_what_to_do(code: int, says: str, remedy: str, client: Client) -> None:
    """Broken: a missing permission is shown as a broker that is down."""
    client.messages = [Message(A, 0, KafkaError(code, "boom"))]
    with LogCursor(KAFKA, "test", wait_ms=1) as reading, pytest.raises(DependencyDown) as caught:
        reading.fetch(1, 0)
    assert says in caught.value.message
    assert remedy in caught.value.remedy
    assert unavailable(KAFKA, TimeoutError()).message.endswith("TimeoutError")


class Log(LogOffsets):
    """Offsets of a topic of two partitions, which may be missing."""

    exists = True

    def partitions(self, topics: Iterable[str], *, needed: bool = False) -> list[TopicPartition]:
        assert needed
        if not self.exists:
            raise ConfigurationError("there is no topic p-documents", remedy="Make it.")
        return [A, B]

    def bounds(self, places: Iterable[TopicPartition], *, open_too: bool = False) -> dict[TopicPartition, Range]:
        assert not open_too
        return {place: {A: Range(3, 10), B: Range(0, 2)}[place] for place in places}

    def high_watermarks(self, places: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return {A: 11, B: 2}


def following(client: Client, *, last: int | None = None, takes: Any = None) -> tuple[LogFollower, list[Record]]:
    """A follower of that topic, and what it handed over; it closes when the client has nothing left."""
    found: list[Record] = []
    made = LogFollower(KAFKA, "test", ["documents"], takes or found.append, last=last)
    made._offsets = Log(KAFKA)

    def closing(_: float) -> Message | None:
        if not client.messages:
            made._closed.set()
            return None
        return client.messages.pop(0)

    client.poll = closing  # type: ignore[method-assign]
    return made, found


@pytest.mark.parametrize(("last", "starts"), [(None, (3, 0)), (5, (5, 0)), (0, (10, 2))])
def test_a_topic_is_followed_from_its_start_or_from_near_its_end(
    client: Client, last: int | None, starts: tuple[int, int]
) -> None:
    """Broken: a gateway reads every dead letter at each start, or a stage misses pipelines."""
    made, _ = following(client, last=last)
    made._run()
    assert client.assigned == [[("p-documents", 0, starts[0]), ("p-documents", 1, starts[1])]]
    assert not made.caught_up


def test_a_follower_has_caught_up_when_every_partition_was_read_to_its_end(client: Client) -> None:
    """Broken: a service takes its first record before it knows the pipelines, or never begins."""
    made, found = following(client)
    client.messages = [Message(A, 3), end(A, 10), Message(B, 1), end(B, 2)]
    made._run()
    assert made.caught_up
    made.wait_until_read(0)
    assert [(record.partition, record.offset) for record in found] == [(0, 3), (1, 1)]


def test_a_follower_resumes_where_an_outage_stopped_it(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: after an outage an order is obeyed twice, or one is never seen."""
    monkeypatch.setattr(follower, "_RETRY_S", 0.0)
    made, found = following(client)
    client.messages = [
        Message(A, 3), end(B, 2), None, Message(A, 4, KafkaError(KafkaError._TRANSPORT, "gone")), None,
        Message(A, 4),
    ]  # fmt: skip
    made._run()
    assert client.assigned[1] == [("p-documents", 0, 4), ("p-documents", 1, 2)]
    assert [record.offset for record in found] == [3, 4]


def test_a_follower_outlives_an_error_of_the_client(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: one failure to create a consumer ends the thread silently, and later pauses are never obeyed."""
    monkeypatch.setattr(follower, "_RETRY_S", 0.0)
    made, found = following(client)
    answers: list[Exception] = [
        KafkaException(KafkaError(KafkaError._FAIL, "too many open files")),
        OSError("no space"),
    ]
    waits: list[str] = []

    def make(_config: dict[str, Any]) -> Client:
        if answers:
            raise answers.pop(0)
        return client

    def wait(error: DependencyDown) -> None:
        waits.append(error.message)

    monkeypatch.setattr(cursor, "Consumer", make)
    monkeypatch.setattr(made, "_wait", wait)
    client.messages = [Message(A, 3)]
    made._run()
    assert [record.offset for record in found] == [3]
    assert len(waits) == 2
    assert "too many open files" in waits[0]


def test_a_record_is_handed_over_again_until_the_registry_answers(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: one refusal by the registry hides a dead letter or a pipeline until the process starts again."""
    monkeypatch.setattr(follower, "_RETRY_S", 0.0)
    answers: list[Exception | None] = [ConfigurationError("HTTP 401"), DependencyDown("schema registry"), None]
    offsets_seen = []

    def take(record: Record) -> None:
        offsets_seen.append(record.offset)
        if answers and (answer := answers.pop(0)) is not None:
            raise answer

    made, _ = following(client, takes=take)
    client.messages = [Message(A, 3), Message(A, 4)]
    made._run()
    assert offsets_seen == [3, 3, 3, 4]


@pytest.mark.parametrize("problem", [UndecodableRecord("stray"), KeyError("a bug")])
def test_one_bad_record_hides_no_other(client: Client, problem: Exception) -> None:
    """Broken: a stray record ends the thread, and nothing that comes after it is seen."""
    seen = []

    def take(record: Record) -> None:
        seen.append(record.offset)
        if record.offset == 3:
            raise problem

    made, _ = following(client, takes=take)
    client.messages = [Message(A, 3), Message(A, 4)]
    made._run()
    assert seen == [3, 4]


def test_the_wait_for_a_topic_that_does_not_exist_names_it(client: Client) -> None:
    """Broken: an operator whose prefix is misspelt is told that Kafka is slow."""
    made, _ = following(client)
    made._offsets.exists = False  # type: ignore[attr-defined]
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(made._closed, "wait", lambda _: made._closed.set())
        made._run()
    with pytest.raises(
        DependencyDown, match="was not read to its end within 0 s: there is no topic p-documents"
    ) as caught:
        made.wait_until_read(0)
    assert (caught.value.dependency, caught.value.remedy) == ("kafka", "Make it.")


def test_a_refresh_waits_for_what_was_written_just_before(client: Client) -> None:
    """Broken: a change that names a pipeline applied a moment ago is dead-lettered as one of an unknown pipeline."""
    made, _ = following(client)
    client.messages = [end(A, 10), end(B, 2)]
    made._run()
    with pytest.raises(DependencyDown, match="has not been read to its end"):
        made.refresh()
    made._next[A] = 11
    made.refresh()


class Asker:
    """A client that answers what was planted, the next answer at each question."""

    def __init__(self, *answers: int | Exception) -> None:
        self._answers = list(answers)

    def offsets_for_times(self, asked: list[KafkaPlace], *, timeout: float) -> list[KafkaPlace]:
        """Answer with the same offset for each partition."""
        assert timeout > 0
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return [KafkaPlace(place.topic, place.partition, answer) for place in asked]

    committed = offsets_for_times


def asking(monkeypatch: pytest.MonkeyPatch, *answers: int | Exception) -> LogOffsets:
    """Offsets that are answered so, by one client for all groups."""
    asker = Asker(*answers)
    monkeypatch.setattr(offsets, "Consumer", lambda _: asker)
    return LogOffsets(KAFKA)


def test_a_partition_that_moves_is_asked_again_and_a_refusal_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a command fails right after a broker's restart, or a missing permission takes as long as an outage."""
    moving = KafkaException(KafkaError(KafkaError.NOT_LEADER_FOR_PARTITION, "moved"))
    refused = KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED, "not allowed"))
    monkeypatch.setattr(offsets, "_PAUSE_S", 0.0)
    assert asking(monkeypatch, moving, moving, 7).ends([A]) == {A: 7}
    with pytest.raises(DependencyDown, match="denies access"):
        asking(monkeypatch, moving, refused).ends([A])
    ticks = itertools.count(0.0, 1.0)
    monkeypatch.setattr("time.monotonic", lambda: next(ticks))
    with pytest.raises(DependencyDown, match="does not answer"):
        asking(monkeypatch, *[moving] * 100).ends([A])
    assert asking(monkeypatch).ends([]) == {}


def test_an_error_for_one_partition_is_not_an_offset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a partition without a leader counts as empty, and its lag as none."""

    class OneFails(Asker):
        def offsets_for_times(self, asked: list[KafkaPlace], *, timeout: float) -> list[KafkaPlace]:
            found = super().offsets_for_times(asked, timeout=timeout)
            refused = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED, "not allowed")
            return [found[0], types.SimpleNamespace(topic=KAFKA.topic(B.topic), partition=B.partition, error=refused)]  # type: ignore[list-item]

    monkeypatch.setattr(offsets, "Consumer", lambda _: OneFails(7))
    with pytest.raises(DependencyDown, match="denies access"):
        LogOffsets(KAFKA).ends([A, B])


def test_a_group_that_never_committed_is_at_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: lag and traces fail for a stage that has not run yet, or a group's error reads as no lag."""
    groups = {"p-headrace-chunker": [A], "p-headrace-embedder": [B], "p-headrace-ingest": []}
    assert asking(monkeypatch, 5, -1001).committed_of(groups) == {A: 5, B: 0}
    loading = KafkaException(KafkaError(KafkaError.COORDINATOR_LOAD_IN_PROGRESS, "loading"))
    assert asking(monkeypatch, loading, 3).committed("chunker", [A]) == {A: 3}
    refused = KafkaException(KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED, "not allowed"))
    with pytest.raises(DependencyDown, match="denies access"):
        asking(monkeypatch, refused).committed("chunker", [A])


def test_each_group_is_asked_by_its_own_client_once_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: one group's offsets are reported as another's, or each look at the lag opens new connections."""
    made: list[tuple[str, str]] = []

    def client(config: dict[str, Any]) -> Asker:
        made.append((config["group.id"], config["isolation.level"]))
        return Asker(*[4] * 10)

    monkeypatch.setattr(offsets, "Consumer", client)
    log = LogOffsets(KAFKA)
    for _ in range(2):
        log.committed_of({"p-one": [A], "p-two": [B]})
        log.ends([A])
        log.high_watermarks([A])
    assert made == [
        ("p-one", "read_uncommitted"),
        ("p-two", "read_uncommitted"),
        ("p-headrace-offsets", "read_committed"),
        ("p-headrace-offsets", "read_uncommitted"),
    ]


def test_nothing_to_read_needs_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: an audit of empty topics opens a connection for each of them."""
    monkeypatch.setattr(cursor, "Consumer", None)
    LogReader(KAFKA, "test").read({A: Range(4, 4)}, lambda _: None)
