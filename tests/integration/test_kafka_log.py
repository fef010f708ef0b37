"""Reading and following the log of a real Kafka: transactions, compaction, retention, topics that come late."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, Producer
from confluent_kafka import TopicPartition as KafkaPlace
from confluent_kafka.admin import AdminClient, NewTopic

from headrace.config.settings import KafkaSettings
from headrace.errors import ConfigurationError, DependencyDown
from headrace.kafka.broker_contract import OffsetsLost, Record, TopicPartition
from headrace.kafka.follower import LogFollower
from headrace.kafka.lag import LagReader
from headrace.kafka.offsets import LogOffsets, Range
from headrace.kafka.ranges import LogReader, RangeReader
from headrace.migrate import make_topics
from headrace_testing.deployment import Place

pytestmark = pytest.mark.integration

TOPIC = "documents"
ONE = TopicPartition(TOPIC, 0)


@dataclass
class Log:
    """A topic of one partition, and what writes to it."""

    kafka: KafkaSettings
    admin: AdminClient
    producers: list[Producer] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.kafka.topic(TOPIC)

    def make(self, **config: str) -> None:
        """Create the topic."""
        make_topics(self.admin, [NewTopic(self.name, 1, 1, config=config)])

    def write(self, *values: str, key: bytes = b"key", producer: Producer | None = None) -> None:
        """Write records, each in a batch of its own."""
        writing = producer or Producer({**self.kafka.client(), "log_level": 0})
        for value in values:
            writing.produce(self.name, value.encode(), key)
            assert writing.flush(20) == 0

    def transaction(self, *values: str) -> Producer:
        """Begin a transaction, write the records, and leave it open."""
        name = f"{self.kafka.topic_prefix}t{len(self.producers)}"
        producer = Producer({**self.kafka.client(), "transactional.id": name, "log_level": 0})
        producer.init_transactions(20)
        producer.begin_transaction()
        self.write(*values, producer=producer)
        self.producers.append(producer)
        return producer

    def cut(self, offset: int) -> None:
        """Delete the records below the offset, as retention does."""
        for future in self.admin.delete_records([KafkaPlace(self.name, 0, offset)]).values():
            future.result(20)

    def commit(self, stage: str, offset: int) -> None:
        """Have the stage's group stand there."""
        request = ConsumerGroupTopicPartitions(self.kafka.group(stage), [KafkaPlace(self.name, 0, offset)])
        for future in self.admin.alter_consumer_group_offsets([request]).values():
            future.result(20)

    def values(self, span: Range) -> list[str]:
        """Return what a reader is handed of that range."""
        found: list[Record] = []
        LogReader(self.kafka, "test").read({ONE: span}, found.append)
        return texts(found)


@pytest.fixture
def log(place: Place) -> Iterator[Log]:
    """A log of this test alone, whose topic is not there yet."""
    kafka = place.kafka_settings()
    made = Log(kafka, AdminClient({**kafka.client(), "log_level": 0}))
    yield made
    for producer in made.producers:
        producer.purge()


def texts(records: list[Record]) -> list[str]:
    """The records' values."""
    return [(record.value or b"").decode() for record in records]


def eventually(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_open_transaction_lies_behind_the_end_and_a_reader_up_to_the_high_watermark_waits_for_it(log: Log) -> None:
    """Broken: a lag that no stage can take off, or an audit that misses what was being committed."""
    log.make()
    log.write("a", "b")
    open_one = log.transaction("c")
    offsets = LogOffsets(log.kafka)
    assert (offsets.bounds([ONE]), offsets.bounds([ONE], open_too=True)) == ({ONE: Range(0, 2)}, {ONE: Range(0, 3)})
    assert log.values(Range(0, 2)) == ["a", "b"]
    ending = threading.Timer(1.0, open_one.commit_transaction)
    ending.start()
    begun = time.monotonic()
    assert log.values(Range(0, 3)) == ["a", "b", "c"]
    assert time.monotonic() - begun > 0.5
    ending.join()
    eventually(lambda: offsets.ends([ONE]) == {ONE: 4})  # the marker has an offset of its own


def test_a_transaction_that_stays_open_is_told_in_bounded_time(log: Log) -> None:
    """Broken: an audit hangs on the transaction of a process that is gone."""
    log.make()
    log.write("a")
    log.transaction("b")
    found: list[Record] = []
    with RangeReader(log.kafka, "test", open_s=1.0) as reader, pytest.raises(DependencyDown, match="stayed open"):
        reader.read({ONE: Range(0, 2)}, found.append)
    assert texts(found) == ["a"]


def test_aborted_records_are_passed_over_and_count_as_no_lag_at_the_front(log: Log) -> None:
    """Broken: what was never committed is replayed, or a stage that has read everything looks behind."""
    log.make()
    log.write("a")
    aborted = log.transaction("b", "c")
    aborted.abort_transaction(20)
    offsets = LogOffsets(log.kafka)
    eventually(lambda: offsets.ends([ONE]) == {ONE: 4})
    assert log.values(Range(0, 4)) == ["a"]
    assert log.values(Range(1, 3)) == []
    log.commit("chunker", 1)
    (lag,) = LagReader(log.kafka).stages()
    assert (lag.behind, lag.total) == (0, 4)
    log.write("d", "e")
    (lag,) = LagReader(log.kafka).stages()
    assert lag.behind == 2


def test_an_open_transaction_is_no_lag(log: Log) -> None:
    """Broken: a stage looks behind by records that it may not read."""
    log.make()
    log.write("a")
    log.transaction("b", "c")
    log.commit("chunker", 1)
    (lag,) = LagReader(log.kafka).stages()
    assert (lag.behind, lag.total) == (0, 1)


def test_a_compacted_topic_is_read_across_its_gaps(log: Log) -> None:
    """Broken: reading stops at an offset that compaction took away, or waits for it."""
    log.make(**{
        "cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.001",
        "min.compaction.lag.ms": "0", "max.compaction.lag.ms": "100", "delete.retention.ms": "0",
    })  # fmt: skip
    for turn in range(4):
        log.write(*[f"{name}{turn}" for name in "ab"], key=b"same")
        time.sleep(0.15)  # so that the next one begins a segment
    log.write("other", key=b"other")
    end = LogOffsets(log.kafka).ends([ONE])[ONE]
    assert end == 9
    eventually(lambda: len(log.values(Range(0, end))) < 9, 60)
    left = log.values(Range(0, end))
    assert left[-1] == "other"
    assert "a0" not in left


def test_what_retention_takes_while_it_is_read_is_passed_over_or_told(log: Log) -> None:
    """Broken: a listing hangs on records that aged out, or a replay passes over them and looks complete."""
    log.make()
    log.write(*"abcdef")
    log.cut(4)
    assert LogOffsets(log.kafka).bounds([ONE]) == {ONE: Range(4, 6)}
    assert log.values(Range(0, 6)) == ["e", "f"]
    assert log.values(Range(0, 3)) == []
    with RangeReader(log.kafka, "test", lost="error") as reader, pytest.raises(OffsetsLost, match=log.name):
        reader.read({ONE: Range(0, 6)}, print)


def test_a_start_that_moves_while_it_is_read_leaves_a_gap_and_no_hang(log: Log) -> None:
    """Broken: a listing of a topic at its retention's edge never ends, or ends without the newest records."""
    log.make()
    log.write(*["x" * 900_000] * 40)  # more than the client fetches ahead
    read: list[int] = []

    def take(record: Record) -> None:
        if not read:
            log.cut(38)
        read.append(record.offset)

    with RangeReader(log.kafka, "test") as reader:
        assert reader.read({ONE: Range(0, 40)}, take)
    assert read == sorted(set(read))
    assert len(read) < 40
    assert read[-2:] == [38, 39]


def test_a_time_tells_where_to_begin(log: Log) -> None:
    """Broken: `--since` shows nothing, or everything."""
    log.make()
    log.write("a")
    offsets = LogOffsets(log.kafka)
    assert offsets.starts_at([ONE], 0) == {ONE: 0}
    assert offsets.starts_at([ONE], int(time.time() * 1000) + 3_600_000) == {ONE: -1}


def test_a_topic_that_is_created_while_it_is_followed_is_read_from_its_start(log: Log) -> None:
    """Broken: a service that started before `headrace bootstrap` never hears of a pipeline."""
    found: list[Record] = []
    following = LogFollower(log.kafka, "test", [TOPIC], found.append)
    following.start()
    try:
        with pytest.raises(DependencyDown, match=f"topic does not exist: {log.name}"):
            following.wait_until_read(1.0)
        log.make()
        log.write("a")
        eventually(lambda: texts(found) == ["a"])
        following.wait_until_read(10)
        log.write("b")
        transaction = log.transaction("c")
        transaction.commit_transaction(20)
        following.refresh()
        assert texts(found) == ["a", "b", "c"]
    finally:
        following.close()


def test_a_follower_from_near_the_end_leaves_out_what_is_older_and_outlives_retention(log: Log) -> None:
    """Broken: a gateway reads millions of old dead letters, or none that come."""
    log.make()
    log.write(*"abcd")
    found: list[Record] = []
    following = LogFollower(log.kafka, "test", [TOPIC], found.append, last=1)
    following.start()
    try:
        following.wait_until_read(20)
        assert texts(found) == ["d"]
        log.cut(4)
        log.write("e")
        following.refresh()
        assert texts(found) == ["d", "e"]
    finally:
        following.close()


def test_a_missing_topic_is_named(log: Log) -> None:
    """Broken: a misspelt prefix looks like an empty log."""
    offsets = LogOffsets(log.kafka)
    assert (offsets.partitions([TOPIC]), offsets.counts([TOPIC])) == ([], {})
    with pytest.raises(ConfigurationError, match=f"topic does not exist: {log.name}"):
        offsets.partitions([TOPIC], needed=True)
    assert offsets.committed("chunker", [ONE]) == {ONE: 0}


def test_the_generations_that_have_lanes_are_known(log: Log) -> None:
    """Broken: records that are held in another generation are never released."""
    names = [f"{log.kafka.topic_prefix}held.embedder.{name}" for name in ("g1", "g2")]
    make_topics(log.admin, [NewTopic(name, 1, 1) for name in names])
    assert LogOffsets(log.kafka).generations(["held.embedder"]) == ["g1", "g2"]


def test_a_broker_that_accepts_and_says_nothing_is_told_in_bounded_time() -> None:
    """Broken: every command that looks at the log hangs while Kafka does not answer."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        kafka = KafkaSettings(bootstrap=f"127.0.0.1:{deaf.getsockname()[1]}")
        offsets = LogOffsets(kafka, call_s=1.0)
        begun = time.monotonic()
        questions = (
            lambda: offsets.counts([TOPIC]), lambda: offsets.ends([ONE]), lambda: offsets.committed("chunker", [ONE]),
        )  # fmt: skip
        for question in questions:
            with pytest.raises(DependencyDown, match=f"Kafka at {kafka.bootstrap} does not answer") as caught:
                question()
            assert caught.value.remedy
        with (
            RangeReader(kafka, "test", silence_s=1.0) as reader,
            pytest.raises(DependencyDown, match=r"no answer for documents\[0\] in 1 s"),
        ):
            reader.read({ONE: Range(0, 1)}, print)
        following = LogFollower(kafka, "test", [TOPIC], print)
        following._offsets = offsets
        following.start()
        with pytest.raises(DependencyDown, match="does not answer"):
            following.wait_until_read(2.0)
        following.close()
        assert time.monotonic() - begun < 20
