"""What a replay is asked to send: where it begins, what takes part, and what is refused before anything moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, Self, cast

import pytest
from confluent_kafka import KafkaError, KafkaException, murmur2

from headrace.codec.codec import Codec
from headrace.codec.schema_registry import FixedIds
from headrace.config.settings import KafkaSettings
from headrace.errors import DependencyDown
from headrace.kafka import headers
from headrace.kafka.broker_contract import Record, TopicPartition
from headrace.kafka.offsets import Range
from headrace.payloads import ReplayPosition, ReplayRun
from headrace_operations.replay import copier
from headrace_operations.replay import lanes as lanes_module
from headrace_operations.replay.lanes import SideLanes, lanes
from headrace_operations.replay.runs import RUNNING
from headrace_operations.replay.selection import (
    RefusedReplay,
    Selection,
    checked,
    cut_off,
    partition_of,
    positions,
    wanted,
)
from headrace_operations.transactions import TooLarge, Transactions

pytestmark = pytest.mark.unit

NOW = datetime(2026, 11, 21, tzinfo=UTC)
RUN = ReplayRun("r1", "ingest", "all", None, None, None, (), 0, RUNNING, "olga", NOW, NOW, "changes")
BOUNDS = {0: Range(5, 20), 1: Range(0, 9)}


def where(selection: Selection, since: dict[int, int] | None = None) -> list[tuple[int, int, int]]:
    """Partition, start and end of what takes part."""
    found = positions(checked(selection, NOW), "chunks", BOUNDS, since or {})
    assert all(at == ReplayPosition(at.partition, at.start, at.start, at.end) for at in found)
    return [(at.partition, at.start, at.end) for at in found]


def test_everything_is_the_whole_log() -> None:
    """Broken: a replay of everything leaves partitions or records out."""
    assert where(Selection("embedder", everything=True)) == [(0, 5, 20), (1, 0, 9)]


def test_an_offset_names_the_only_partitions_that_take_part() -> None:
    """Broken: a replay from one place sends the other partitions whole."""
    assert where(Selection("embedder", offsets={1: 4})) == [(1, 4, 9)]


def test_a_time_leaves_out_partitions_without_anything_newer() -> None:
    """Broken: a partition without newer records is read from its end, or whole."""
    assert where(Selection("embedder", since=NOW - timedelta(hours=1)), {0: 7, 1: -1}) == [(0, 7, 20)]


def test_a_document_is_looked_for_in_the_partition_of_its_key() -> None:
    """Broken: a document's replay scans everything, or misses the document."""
    number = murmur2(b"acme/a.md", 2)
    assert partition_of("acme", "a.md", 2) == number
    assert [at[0] for at in where(Selection("embedder", tenant="acme", document_id="a.md"))] == [number]


@pytest.mark.parametrize(
    ("selection", "says"),
    [
        (Selection("planet", everything=True), "ingest, chunker"),
        (Selection("embedder"), "--all"),
        (Selection("embedder", everything=True, tenant="acme"), "--all cannot be combined"),
        (Selection("embedder", document_id="a"), "--all"),
        (Selection("embedder", everything=False, offsets={0: 6}, since=NOW), "--from-offset"),
        (Selection("embedder", since=NOW + timedelta(seconds=1)), "future"),
        (Selection("embedder", offsets={0: 6}, tenant="acme", document_id="a"), "--document"),
        (Selection("embedder", offsets={7: 0}), "partition from 0 to 1"),
        (Selection("embedder", offsets={0: 21}), "an offset up to 20"),
        (Selection("embedder", offsets={0: 4}), "chunks:0:5"),
    ],
)
def test_what_does_not_exist_is_refused_naming_what_does(selection: Selection, says: str) -> None:
    """Broken: a replay of nothing looks done, or one from an offset that is gone skips records in silence."""
    with pytest.raises(RefusedReplay) as refused:
        where(selection)
    assert says in str(refused.value)


def test_a_log_that_lost_its_beginning_is_told() -> None:
    """Broken: a replay of everything leaves out what aged out, and nobody hears of it."""
    everything = Selection("embedder", everything=True)
    assert cut_off(positions(everything, "chunks", BOUNDS, {}), everything, BOUNDS) == {0: 5}
    since = Selection("embedder", since=NOW)
    assert cut_off(positions(since, "chunks", BOUNDS, {0: 6, 1: 0}), since, BOUNDS) == {}
    named = Selection("embedder", offsets={0: 5})
    assert cut_off(positions(named, "chunks", BOUNDS, {}), named, BOUNDS) == {}


class Ranges:
    """A log with one partition of the stage's replay topic: offsets before the lane, of them records."""

    def __init__(self, offsets: int, records: int) -> None:
        self.offsets = offsets
        self.records = records

    def partitions(self, topics: Any, *, needed: bool) -> list[TopicPartition]:
        return [TopicPartition(topic, 0) for topic in topics if topic == "replay.indexer"]

    def committed(self, _: str, places: Any, *, side: bool) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, 100)

    def bounds(self, places: Any, *, open_too: bool) -> dict[TopicPartition, Range]:
        assert open_too, "a run would be done while a record of it is being committed"
        return {place: Range(0, 100 + self.offsets) for place in places}

    def read(self, gaps: Any, take: Any) -> None:
        assert gaps == ({("replay.indexer", 0): Range(100, 100 + self.offsets)} if self.offsets else {})
        for number in range(self.records):
            take(Record("replay.indexer", 0, number, b"k", b"v", (("replay", b"mine" if number else b"other"),)))


@pytest.fixture
def side(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What makes the side lanes over a planted log, at most ten records outstanding; each look is a new one."""
    monkeypatch.setattr(lanes_module, "LOOK_S", -1.0)

    def make(offsets: int, records: int) -> SideLanes:
        monkeypatch.setattr(lanes_module, "LogReader", lambda *_: Ranges(offsets, records))
        return SideLanes(KafkaSettings(), 10)

    return make


def test_a_full_lane_holds_the_run_up(side: Any) -> None:
    """Broken: a replay floods the side lanes, and neither a pause nor a cancel has an effect for long."""
    lane = side(12, 11)
    assert lane.full("indexer")
    assert lane.full("indexer")
    assert not side(9, 9).full("indexer")


def test_markers_alone_hold_no_run_up_for_good(side: Any) -> None:
    """Broken: markers of transactions, which no lane takes up, stop a replay for ever."""
    lane = side(12, 3)
    assert lane.full("indexer")
    assert not lane.full("indexer")
    assert lane.room == 7


def test_a_run_waits_for_its_own_records_only(side: Any) -> None:
    """Broken: a replay is done before its records are, or never, while another one goes on."""
    assert side(5, 3).left(lanes("indexer")[0], "mine") == 2
    assert side(5, 1).left(lanes("indexer")[0], "mine") == 0
    assert side(0, 0).left(lanes("indexer")[0], "mine") == 0


@pytest.mark.parametrize(
    ("tenant", "document", "key", "expected"),
    [
        (None, None, b"acme/a", True), (None, None, None, True), ("acme", None, b"acme/a", True),
        ("acme", None, b"acmee/a", False), ("acme", "a", b"acme/a", True), ("acme", "a", b"acme/ab", False),
        ("acme", None, None, False),
    ],
)  # fmt: skip
def test_only_what_was_asked_for_takes_part(tenant: Any, document: Any, key: Any, expected: bool) -> None:
    """Broken: a tenant's or a document's replay sends another's records."""
    assert wanted(tenant, document, key) is expected


def test_a_replayed_record_says_where_it_comes_from_and_forgets_its_retries() -> None:
    """Broken: a version that follows from the offset changes with the replay, or attempts are used up before."""
    own = (("request-id", b"r"), ("retry-attempt", b"7"), ("replay", b"older"))
    said = dict(headers.for_replay(own, headers.Origin("changes", 3, 9), "run-1"))
    assert said == {
        "request-id": b"r", "origin-topic": b"changes", "origin-partition": b"3", "origin-offset": b"9",
        "replay": b"run-1",
    }  # fmt: skip


def test_a_replay_is_done_when_every_stage_that_follows_is() -> None:
    """Broken: a replay looks done while its records wait for a later stage."""
    assert [flow.name for flow in lanes("chunker")] == ["chunker", "embedder", "indexer"]
    assert [flow.name for flow in lanes("generator")] == ["generator"]


class Written:
    """Transactions that keep what was written."""

    def __init__(self) -> None:
        self.records: list[tuple[str, dict[str, Any]]] = []

    @contextmanager
    def one(self) -> Iterator[Callable[..., None]]:
        """A transaction."""
        yield lambda topic, **said: self.records.append((topic, said))


def test_a_replayed_record_has_the_value_that_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: an update without a value, refused once, empties its document's text when it is replayed."""
    monkeypatch.setattr(copier, "SideLanes", lambda *_: None)
    written = Written()
    found = [Record("changes", 0, offset, b"acme/a.md", value) for offset, value in enumerate((None, b"", b"x"))]
    copier.Copier(KafkaSettings(), Codec(FixedIds()))._commit(cast("Transactions", written), RUN, found)
    assert [said["value"] for topic, said in written.records if topic == "replay.ingest"] == [None, b"", b"x"]


class Failing:
    """Transactions of which each fails with this code."""

    def __init__(self, code: int) -> None:
        self.code = code

    @contextmanager
    def one(self) -> Iterator[Callable[..., None]]:
        """A transaction that fails at its commit."""
        yield lambda *_, **__: None
        raise KafkaException(KafkaError(self.code))


@pytest.mark.parametrize(
    ("code", "expected", "says"),
    [
        (KafkaError._TIMED_OUT, DependencyDown, "headrace replay list"),
        (KafkaError._FENCED, RefusedReplay, "took over the replay r1"),
    ],
)
def test_a_beginning_that_fails_is_told(
    monkeypatch: pytest.MonkeyPatch, code: int, expected: type[Exception], says: str
) -> None:
    """Broken: the operator reads "unexpected error: KafkaException" and does not know what to do."""
    monkeypatch.setattr(copier, "SideLanes", lambda *_: None)
    monkeypatch.setattr(copier, "Transactions", lambda *_: Failing(code))
    with pytest.raises(expected) as told:
        copier.Copier(KafkaSettings(), Codec(FixedIds())).begin(RUN)
    assert says in str(told.value)


class Refusing:
    """Transactions that refuse every record of a replay as too large."""

    @contextmanager
    def one(self) -> Iterator[Callable[..., None]]:
        """A transaction."""

        def produce(topic: str, **_: Any) -> None:
            if topic == "replay.ingest":
                raise TooLarge("9 bytes; 8 are allowed")

        yield produce


class Follower:
    """Orders that were all read."""

    def start(self) -> None:
        """Start to read."""

    wait_until_read = close = start


class Reader:
    """A log of one record."""

    unread = True

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def open(self, _ranges: object) -> None:
        """Read these next."""

    def next(self, _most: int, _seconds: float) -> list[Record]:
        """Return the record."""
        return [Record("changes", 3, 9, b"acme/a.md", b"123456789")]


def test_a_record_that_is_too_large_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: the replay says "resume when Kafka answers" for ever."""
    lanes_of_nothing = SimpleNamespace(full=lambda _: False, room=10, waiting=0)
    monkeypatch.setattr(copier, "SideLanes", lambda *_: lanes_of_nothing)
    monkeypatch.setattr(copier, "Transactions", lambda *_: Refusing())
    monkeypatch.setattr(copier, "RangeReader", Reader)
    monkeypatch.setattr(copier, "follow", lambda *_: Follower())
    made = copier.Copier(KafkaSettings(), Codec(FixedIds()))
    made.begin(RUN)
    with pytest.raises(RefusedReplay) as told:
        made.carry_out("r1")
    assert told.value.where == "changes/3/9"
    assert "9 bytes; 8 are allowed" in told.value.message
    assert "replay resume r1" in told.value.remedy
