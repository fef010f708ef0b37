"""Collecting garbage from the object store: whatever a record still names stays, wherever that record is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from headrace.config.settings import KafkaSettings, ObjectSettings
from headrace.errors import ConfigurationError, DependencyDown
from headrace.kafka.broker_contract import Record, TopicPartition
from headrace.kafka.offsets import Range
from headrace.objects.places import Place, reference_to
from headrace.objects.store import MARKER, ObjectStore
from headrace.topology.topics import concrete
from headrace_operations.objects import garbage as objects
from headrace_operations.objects.collect import GcRequest, collect, plan_gc
from headrace_operations.objects.garbage import Amount, Collector, carriers, holdings

pytestmark = pytest.mark.unit

NOW = datetime(2026, 1, 10, 12, tzinfo=UTC)
BEFORE = NOW - timedelta(hours=24)
OWNER = {"kafka_cluster": "c1", "topic_prefix": "p-"}


class Log:
    """A log in memory, by full topic."""

    def __init__(self) -> None:
        self.topics: dict[str, list[bytes | None]] = {}

    def write(self, topic: str, value: bytes | None) -> None:
        self.topics.setdefault(topic, []).append(value)

    def ranges(self, kafka: KafkaSettings, _role: str) -> Ranges:
        """What reads it."""
        return Ranges(self, kafka)


class Ranges:
    """Reads the log as the generation's :class:`LogReader` does; there are two generations."""

    def __init__(self, log: Log, kafka: KafkaSettings) -> None:
        self._log = log
        self._kafka = kafka

    def generations(self, own: Iterable[str]) -> list[str]:
        assert "vectors" in own
        return ["g1", "g2"]

    def partitions(self, topics: Iterable[str]) -> list[TopicPartition]:
        return [TopicPartition(name, 0) for name in topics if self._kafka.topic(name) in self._log.topics]

    def bounds(self, partitions: Iterable[TopicPartition], *, open_too: bool) -> dict[TopicPartition, Range]:
        assert open_too, "an object would be deleted whose record is being committed"
        return {one: Range(0, len(self._log.topics[self._kafka.topic(one.topic)])) for one in partitions}

    def read(self, ranges: Mapping[TopicPartition, Range], take: Callable[[Record], None]) -> None:
        for one, (start, end) in ranges.items():
            for offset in range(start, end):
                value = self._log.topics[self._kafka.topic(one.topic)][offset]
                take(Record(one.topic, one.partition, offset, b"k", value))


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    """A log with every topic that can carry references, all empty."""
    made = Log()
    for generation in ("g1", "g2"):
        for topic in concrete():
            made.topics.setdefault(KafkaSettings(topic_prefix="p-", generation=generation).topic(topic.name), [])
    monkeypatch.setattr(objects, "LogReader", made.ranges)
    return made


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    """A store in a folder that is its owner's."""
    made = ObjectStore(ObjectSettings(url=f"file://{tmp_path}"), lambda: OWNER)
    made.begin()
    return made


def put(folder: Path, name: str, day: date = date(2026, 1, 1), tenant: str = "acme") -> str:
    """Put an object there, and return its key."""
    place = Place(tenant, day, hashlib.sha256(name.encode()).digest())
    path = folder / place.key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name)
    return place.key


def naming(key: str) -> bytes:
    """A record's value that names the object."""
    folder, day, digest = key.split("/")
    place = Place(folder, date(int(day[:4]), int(day[4:6]), int(day[6:])), bytes.fromhex(digest))
    return b"\x00\x01\xff" + reference_to(place, 3, "headrace.SourceDocument").uri.encode() + b"\x02"


def collector(store: ObjectStore) -> Collector:
    """A collector for the prefix."""
    return Collector(store, KafkaSettings(topic_prefix="p-"))


def left(folder: Path) -> set[str]:
    """The files in the store."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {MARKER}


TOPICS = [
    "documents", "chunks", "vectors.g1", "vectors.g2", "indexed.g2", "generation-requests", "artifacts",
    "retry.chunker", "retry.embedder.g2", "replay.indexer.g1", "held.chunker", "held.embedder.g1",
    "dead-letters.chunker", "dead-letters.indexer.g2",
]  # fmt: skip


@pytest.mark.parametrize("topic", TOPICS)
def test_what_any_record_names_stays(topic: str, log: Log, store: ObjectStore, tmp_path: Path) -> None:
    """Broken: a document is lost that waits in a lane, in a dead letter, or in another generation."""
    kept, gone = put(tmp_path, "kept"), put(tmp_path, "gone")
    log.write(f"p-{topic}", None)
    log.write(f"p-{topic}", naming(kept))
    found = collector(store).find(BEFORE, NOW)
    assert set(found.keys) == {gone}
    assert (found.held, found.found, found.records) == (Amount(2, 8), Amount(1, 4), 2)
    assert collector(store).delete(found) == Amount(1, 4)
    assert left(tmp_path) == {kept}


def test_every_topic_is_read_but_those_that_carry_no_envelope() -> None:
    """Broken: a new topic is left out of the scan, and what it refers to is deleted."""
    without = {"changes", "control", "dead-letter-actions", "held-actions", "pipelines", "replay-runs"}
    assert {topic.name for topic in concrete()} - set(carriers()) == without


def test_what_is_young_is_left_alone(log: Log, store: ObjectStore, tmp_path: Path) -> None:
    """Broken: an object is deleted whose record is about to be committed."""
    young = [put(tmp_path, "today", NOW.date()), put(tmp_path, "yesterday", date(2026, 1, 9)),
             put(tmp_path, "by a clock that is ahead", date(2027, 1, 1))]  # fmt: skip
    old = put(tmp_path, "old", date(2026, 1, 8))
    found = collector(store).find(BEFORE, NOW)
    assert set(found.keys) == {old}
    assert found.young.objects == len(young)
    assert collector(store).find(BEFORE - timedelta(days=1), NOW).keys == {}


def test_what_a_record_names_that_comes_meanwhile_stays(log: Log, store: ObjectStore, tmp_path: Path) -> None:
    """Broken: a dead letter that is sent again while garbage is collected loses its payload."""
    kept, gone = put(tmp_path, "kept"), put(tmp_path, "gone")
    one = collector(store)
    found = one.find(BEFORE, NOW)
    assert set(found.keys) == {kept, gone}
    log.write("p-retry.chunker", naming(kept))
    assert one.delete(found) == Amount(1, 4)
    assert left(tmp_path) == {kept}


def test_a_grace_below_a_day_is_refused(log: Log, store: ObjectStore) -> None:
    """Broken: a batch that a slow model keeps for hours commits records whose first objects were deleted."""
    with pytest.raises(ConfigurationError, match="24h"):
        collector(store).find(NOW - timedelta(hours=23, minutes=59), NOW)


def test_another_deployments_store_is_left_alone(log: Log, store: ObjectStore, tmp_path: Path) -> None:
    """Broken: a command that reaches one Kafka deletes what the log of another one refers to."""
    put(tmp_path, "theirs")
    other = ObjectStore(ObjectSettings(url=f"file://{tmp_path}"), lambda: {**OWNER, "kafka_cluster": "c2"})
    with pytest.raises(ConfigurationError, match="another deployment"):
        collector(other).find(BEFORE, NOW)
    (tmp_path / MARKER).unlink()
    with pytest.raises(DependencyDown, match=MARKER):
        collector(store).find(BEFORE, NOW)


def test_half_written_files_go_and_others_stay(log: Log, store: ObjectStore, tmp_path: Path) -> None:
    """Broken: workers that were killed fill the disk, or the collector deletes what is not ours."""
    half = tmp_path / f"{put(tmp_path, 'gone')}#1"
    half.write_text("half")
    (tmp_path / "acme" / "notes").write_text("not ours")
    found = collector(store).find(datetime.now(UTC) + timedelta(days=1), datetime.now(UTC) + timedelta(days=2))
    assert found.found == Amount(2, 8)
    assert collector(store).delete(found) == Amount(2, 8)
    assert left(tmp_path) == {"acme/notes"}


def test_a_plan_deletes_nothing_and_keeps_its_count(log: Log, store: ObjectStore, tmp_path: Path) -> None:
    """Broken: a dry run deletes, or the question before a deletion names another amount than was found."""
    kept, gone = put(tmp_path, "kept"), put(tmp_path, "gone")
    read: list[int] = []
    log.write("p-chunks", None)
    kafka = KafkaSettings(topic_prefix="p-")
    planned = plan_gc(store, kafka, GcRequest(datetime.now(UTC) - timedelta(days=1)), read.append)
    assert (planned.found, planned.garbage.held, sum(read)) == (Amount(2, 8), Amount(2, 8), 1)
    assert left(tmp_path) == {kept, gone}
    log.write("p-retry.chunker", naming(kept))
    deleted: list[int] = []
    assert collect(planned, deleted.append) == Amount(1, 4)
    assert (planned.found, planned.garbage.records, sum(deleted)) == (Amount(2, 8), 2, 1)
    assert left(tmp_path) == {kept}


def test_a_plan_with_too_short_an_age_is_refused(log: Log, store: ObjectStore, tmp_path: Path) -> None:
    """Broken: the age is checked by the command alone, and any other caller deletes what is in use."""
    put(tmp_path, "young")
    with pytest.raises(ConfigurationError, match="24h"):
        plan_gc(store, KafkaSettings(topic_prefix="p-"), GcRequest(datetime.now(UTC) - timedelta(hours=23)))


def test_holdings_are_told_by_tenant(store: ObjectStore, tmp_path: Path) -> None:
    """Broken: nobody can tell which tenant fills the store."""
    put(tmp_path, "a", date(2026, 1, 3))
    put(tmp_path, "bb", date(2026, 1, 1))
    put(tmp_path, "large", tenant="other")
    assert [(one.folder, one.held, one.oldest.day, one.newest.day) for one in holdings(store)] == [
        ("other", Amount(1, 5), 1, 1), ("acme", Amount(2, 3), 1, 3),
    ]  # fmt: skip
