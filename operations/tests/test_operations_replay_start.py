"""Starting, pausing, resuming and cancelling replays: what is planned, counted and ordered."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from headrace.codec.codec import Codec
from headrace.codec.schema_registry import FixedIds
from headrace.config.settings import KafkaSettings
from headrace.errors import ConfigurationError
from headrace.kafka.broker_contract import Record, TopicPartition
from headrace.kafka.offsets import Range
from headrace.payloads import ReplayPosition, ReplayRun
from headrace.store.pool import StoreSettings
from headrace.store.rows import Generation
from headrace_operations.replay import plan as planning
from headrace_operations.replay import runs, start
from headrace_operations.replay.plan import Text
from headrace_operations.replay.selection import RefusedReplay
from headrace_operations.replay.start import Patience, ReplayRequest
from headrace_testing.cluster import FakeCluster

pytestmark = pytest.mark.unit

NOW = datetime(2026, 1, 2, tzinfo=UTC)
RUN = ReplayRun(
    "r1", "embedder", "all", None, None, None, (ReplayPosition(0, 0, 0, 3),), 0, runs.RUNNING, "ada", NOW, NOW,
    "chunks", "g2",
)  # fmt: skip
KEYS = (b"acme/a", b"acme/b", b"acme/a")


class Log:
    """Topics of one partition with three records: two of one document, one of another."""

    size = 3

    def __init__(self, _kafka: KafkaSettings, _role: str) -> None:
        pass

    def partitions(self, topics: Iterable[str], *, needed: bool = False) -> list[TopicPartition]:
        return [TopicPartition(name, 0) for name in topics]

    def bounds(self, places: Iterable[TopicPartition], *, open_too: bool) -> dict[TopicPartition, Range]:
        assert open_too, "records that are being committed would be left out"
        return {place: Range(0, self.size) for place in places}

    def read(self, spans: Mapping[TopicPartition, Range], take: Callable[[Record], None]) -> None:
        for place, span in spans.items():
            for offset in range(span.start, span.end):
                take(Record(*place, offset, KEYS[offset], b"text"))


class CopierOf:
    """Stands in for the copier; notes what it is told in the cluster's events."""

    def __init__(self, cluster: FakeCluster, kafka: KafkaSettings, outstanding: int) -> None:
        self.generation = kafka.generation
        self.outstanding = outstanding
        self._events = cluster.contents.events

    def begin(self, run: ReplayRun) -> None:
        self._events.append(("begin", run.run_id))

    def cancel(self, run_id: str) -> ReplayRun:
        self._events.append(("cancel", run_id))
        return replace(RUN, state=runs.CANCELLED)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    """A cluster with a log and one running replay into generation g2."""
    made = FakeCluster()
    monkeypatch.setattr(planning, "LogReader", Log)
    monkeypatch.setattr(runs, "read_runs", lambda *_: {RUN.run_id: RUN})
    monkeypatch.setattr(start, "Copier", lambda kafka, _, outstanding: CopierOf(made, kafka, outstanding))
    return made


def test_offsets_are_those_of_the_topic_that_the_stage_reads() -> None:
    """Broken: an offset of another topic, or of another generation's, is taken for one of the stage's source."""
    kafka = KafkaSettings(generation="g2")
    assert ReplayRequest("embedder", places=["chunks:0:4", "chunks:3:17"]).selection(kafka).offsets == {0: 4, 3: 17}
    for name in ("vectors", "vectors.g2"):
        assert ReplayRequest("indexer", places=[f"{name}:0:1"]).selection(kafka).offsets == {0: 1}
    for place, says in (
        ("chunks:0", "invalid offset 'chunks:0'"),
        ("documents:0:1", "embedder does not read the topic 'documents'"),
        ("vectors.g2:0:1", "does not read"),
    ):
        with pytest.raises(ConfigurationError, match=says):
            ReplayRequest("embedder", places=[place]).selection(kafka)
    with pytest.raises(ConfigurationError, match="does not read"):
        ReplayRequest("indexer", places=["vectors.g1:0:1"]).selection(kafka)


def test_only_stages_of_a_generation_fill_one() -> None:
    """Broken: a replay of the chunker passes for one into the new generation, which stays empty."""
    start.require_filled("embedder")
    with pytest.raises(ConfigurationError, match="stage chunker cannot fill a generation") as refused:
        start.require_filled("chunker")
    assert "embedder, indexer" in refused.value.remedy


def test_a_plan_covers_the_log_up_to_its_end_and_moves_nothing(cluster: FakeCluster) -> None:
    """Broken: a plan starts something, or does not say who asked for the replay and where it goes."""
    asked = ReplayRequest("embedder", everything=True, rate=5)
    run = start.plan(cluster.of("g2"), asked).run
    assert (run.asked_by, run.generation, run.source, run.state) == ("olga", "g2", "chunks", runs.RUNNING)
    assert (run.positions, run.records_per_second) == ((ReplayPosition(0, 0, 0, 3),), 5)
    assert cluster.contents.events == []


def test_a_plan_of_nothing_is_refused(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a replay of an empty topic looks done."""
    monkeypatch.setattr(Log, "size", 0)
    with pytest.raises(RefusedReplay, match="no records to replay in documents"):
        start.plan(cluster, ReplayRequest("chunker", everything=True))
    with pytest.raises(RefusedReplay, match="unknown stage 'planet'"):
        start.plan(cluster, ReplayRequest("planet", everything=True))


async def test_a_dry_run_counts_records_and_documents(cluster: FakeCluster) -> None:
    """Broken: an operator starts a replay of an unexpected size, or of a tenant that is misspelt."""
    run = start.plan(cluster, ReplayRequest("chunker", everything=True)).run
    found = await start.estimate(cluster, run)
    assert (found.records, found.documents, found.model_calls) == (3, 2, None)
    with pytest.raises(RefusedReplay, match="no record of tenant 'acm'"):
        await start.estimate(cluster, replace(run, tenant="acm"))


class Pool:
    """Gives a connection that is not used."""

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[None]:
        yield None


async def test_cached_texts_are_left_out_where_a_store_is_known(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: an estimate passes for exact without a store, or charges for texts that have a vector."""
    models: list[str] = []

    @asynccontextmanager
    async def opened(_: StoreSettings) -> AsyncIterator[Pool]:
        yield Pool()

    async def generation(_: object, name: str) -> Generation | None:
        return Generation("g2", "m2", 8) if name == "g2" else None

    def cached(_: Pool, model: str) -> planning.Known:
        models.append(model)

        async def known(_: str, keys: set[bytes]) -> set[bytes]:
            return keys & {b"one"}

        return known

    monkeypatch.setattr(planning, "texts_of", lambda *_: [Text("acme", b"one", 3), Text("acme", b"two", 3)])
    monkeypatch.setattr(start, "opened_pool", opened)
    monkeypatch.setattr(start, "get_generation", generation)
    monkeypatch.setattr(start, "cached_in", cached)
    without = await start.estimate(cluster, RUN)
    assert (without.model_calls, without.exact) == (2, False)
    stored = replace(cluster, store=StoreSettings(dsn="postgresql://h/d"))
    exact = await start.estimate(stored, RUN)
    assert (exact.model_calls, exact.exact, models) == (1, True, ["m2"])
    elsewhere = await start.estimate(stored, replace(RUN, generation="g9"))
    assert (elsewhere.model_calls, elsewhere.exact) == (2, False)


def test_a_replay_is_noted_before_it_is_carried_out(cluster: FakeCluster) -> None:
    """Broken: a replay whose command is killed cannot be taken up by its ID."""
    planned = planning.Planned(RUN, {})
    copier: Any = start.begin(cluster, planned, 7)
    assert cluster.contents.events == [("begin", "r1")]
    assert copier.outstanding == 7


def test_a_replay_of_a_tenant_without_a_record_does_not_begin(cluster: FakeCluster) -> None:
    """Broken: a replay of a misspelt tenant or document looks done, though nothing was sent."""
    for tenant, document in (("acm", None), ("acme", "c")):
        run = replace(RUN, tenant=tenant, document_id=document)
        with pytest.raises(RefusedReplay, match=f"no record of .*tenant '{tenant}' in chunks"):
            start.begin(cluster, planning.Planned(run, {}))
    assert cluster.contents.events == []
    start.begin(cluster, planning.Planned(replace(RUN, tenant="acme", document_id="b"), {}))
    assert cluster.contents.events == [("begin", "r1")]


def test_a_replay_goes_into_a_generation_that_exists(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: the records of a replay wait for ever in the lanes of a generation that nothing reads."""
    asked: list[tuple[object, ...]] = []

    async def required(*asking: object) -> None:
        asked.append(asking)

    monkeypatch.setattr(start, "require_generation", required)
    store = StoreSettings(dsn="postgresql://h/d")
    assert start.into(cluster, store, "chunker", None) is cluster
    assert start.into(cluster, store, "indexer", "g2").kafka.generation == "g2"
    with pytest.raises(ConfigurationError, match="stage chunker cannot fill a generation"):
        start.into(cluster, store, "chunker", "g2")
    assert asked == [(store, "g2", "--into")]


def test_a_pause_and_a_resume_are_orders_for_the_replay(cluster: FakeCluster) -> None:
    """Broken: another command cannot pause a replay, or it resumes through the lanes of another generation."""
    assert start.pause(cluster, "r1", "too fast") == RUN
    copier: Any = start.take_up(cluster, "r1", "enough room")
    assert cluster.contents.happened("order") == [
        ("PAUSE", "run", "r1", "too fast"), ("RESUME", "run", "r1", "enough room"),
    ]  # fmt: skip
    assert copier.generation == "g2"


def test_a_finished_or_unknown_replay_gets_no_order(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: an order stays in force for a replay that no longer exists."""
    with pytest.raises(RefusedReplay, match="unknown replay 'r9'"):
        start.pause(cluster, "r9", "")
    monkeypatch.setattr(runs, "read_runs", lambda *_: {"r1": replace(RUN, state=runs.DONE)})
    for ask in (start.pause, start.take_up, start.cancel):
        with pytest.raises(RefusedReplay, match="already done"):
            ask(cluster, "r1", "")
    assert cluster.contents.events == []


class Time:
    """A clock that only waiting moves."""

    def __init__(self, at: Callable[[float], None] = lambda _: None) -> None:
        self.time = 0.0
        self._at = at

    def sleep(self, seconds: float) -> None:
        self.time += seconds
        self._at(self.time)

    @property
    def patience(self) -> Patience:
        return Patience(2.0, lambda: self.time, self.sleep)


def test_a_cancel_ends_a_replay_that_nobody_carries_out(cluster: FakeCluster) -> None:
    """Broken: a replay whose command died stays open for ever."""
    time = Time()
    assert start.cancel(cluster, "r1", "wrong", time.patience).state == runs.CANCELLED
    assert cluster.contents.events == [("order", "CANCEL", "run", "r1", "wrong"), ("cancel", "r1")]
    assert time.time == 2.0


def test_a_cancel_leaves_the_end_to_the_command_that_carries_it_out(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: two commands write the end of one replay."""

    def obeyed(at: float) -> None:
        if at >= 1.0:
            monkeypatch.setattr(runs, "read_runs", lambda *_: {"r1": replace(RUN, state=runs.CANCELLED, sent=9)})

    found = start.cancel(cluster, "r1", "wrong", Time(obeyed).patience)
    assert (found.state, found.sent) == (runs.CANCELLED, 9)
    assert cluster.contents.happened("cancel") == []


class Runs(Log):
    """The topic of replays: a state, a record that does not decode, and another state."""

    def read(self, spans: Mapping[TopicPartition, Range], take: Callable[[Record], None]) -> None:
        codec = Codec(FixedIds())
        states = [codec.encode_plain(RUN), b"not Avro", codec.encode_plain(replace(RUN, run_id="r2"))]
        for offset, state in enumerate(states):
            take(Record(runs.TOPIC, 0, offset, b"key", state))


def test_a_state_that_does_not_decode_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: one bad record in the topic of replays makes every command about replays fail."""
    monkeypatch.setattr(runs, "LogReader", Runs)
    assert list(runs.read_runs(KafkaSettings(), Codec(FixedIds()))) == ["r1", "r2"]
