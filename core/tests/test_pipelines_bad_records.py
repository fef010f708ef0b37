"""A bad record in the topic ``pipelines``: refused, seen, and nothing that was in force before is touched."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from prometheus_client import REGISTRY

from headrace.codec.codec import Codec
from headrace.codec.schema_registry import FixedIds
from headrace.config.settings import KafkaSettings
from headrace.envelope import Change, Context, Operation, Trace
from headrace.errors import UnknownPipeline
from headrace.handler import Handler
from headrace.handlers.chains import PipelineChains
from headrace.handlers.pipelines_log import PipelineCatalogue, PipelineFollower
from headrace.handlers.registry import HandlerRegistry
from headrace.kafka.broker_contract import Message, Record
from headrace.orders.control import OrderBook, Scope, follow
from headrace.payloads import Control, DeadLetter, DocumentFacts, PipelineVersion, SourceDocument
from headrace.pipeline import canonical, digest, parse
from headrace.runtime.contract import Lane, Time
from headrace.runtime.loop.limits import Limits
from headrace.runtime.outcomes import Wiring
from headrace.runtime.process import StageProcessor
from headrace.runtime.worker import Worker
from headrace.topology.stages import StageFlow
from headrace_testing.fakes import FakeClock, InlineComputer, run_inline
from headrace_testing.memory_broker import MemoryBroker
from headrace_testing.memory_cluster import MemoryCluster

pytestmark = pytest.mark.unit

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CODEC = Codec(FixedIds())
FLOW = StageFlow("chunker", "documents", "chunks", SourceDocument, SourceDocument)
TOPICS = ("documents", "chunks", "dead-letters.chunker", "retry.chunker", "replay.chunker", "held.chunker")


class Copy(Handler[SourceDocument, SourceDocument]):
    """Changes nothing."""

    name = "copy"
    stage = "chunker"

    async def process(self, context: Context[SourceDocument]) -> Context[SourceDocument]:
        return context


def version(number: int, pipeline: str = "default", template: str | None = None) -> PipelineVersion:
    """A version that runs the handler, or one with that template."""
    good = parse(f"id: {pipeline}\nstages:\n  - stage: chunker\n    handlers: [copy]\n", "test")
    text = canonical(good) if template is None else template
    return PipelineVersion(pipeline, number, text, digest(good), "ann", NOW)


FOREIGN = '{"id": "default", "stages": [{"stage": "chunker", "handlers": ["copy"]}], "planets": []}'
BAD: dict[str, bytes | None] = {
    "tombstone": None,
    "no Avro": b"default version 2",
    "an unknown schema": b"\x00\x7f\x7f\x7f\x7fx",
    "a template of another release": CODEC.encode_plain(version(2, template=FOREIGN)),
    "no template": CODEC.encode_plain(version(2, template="{}")),
    "no text of a template": CODEC.encode_plain(version(2, template="{[" + "[" * 5000)),
    "a template of another pipeline": CODEC.encode_plain(replace(version(2, "other"), pipeline_id="default")),
    "no version": CODEC.encode_plain(version(0)),
}


class Stage:
    """The chunker with one worker on a cluster in memory; the topic ``pipelines`` is what the test hands in."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = FakeClock()
        self.cluster = MemoryCluster(clock=self.clock, wait=self.clock.advance)
        for name in TOPICS:
            self.cluster.create_topic(name, 1)
        self.follower = PipelineFollower(KafkaSettings(), CODEC, PipelineCatalogue())
        monkeypatch.setattr(self.follower, "refresh", lambda: None)
        chains = PipelineChains("chunker", self.follower.catalogue, HandlerRegistry([Copy]), self.follower.refresh)
        wiring = Wiring(
            FLOW, "chunks", "dead-letters.chunker", "retry.chunker", "replay.chunker", "replay.embedder",
            "held.chunker", "chunker-0", 100_000,
        )  # fmt: skip
        processor = StageProcessor(wiring, CODEC, chains)
        broker = MemoryBroker(self.cluster, group="g", transactional_id="g-0")
        computer = InlineComputer(run_inline(processor.process), self.clock)
        self.worker = Worker(Lane("chunker", ["documents"], Limits()), broker, computer, time=Time(self.clock))
        broker.subscribe(["documents"])
        self.read = 0

    def learn(self, value: bytes | None) -> None:
        """Have the stage read the next record of ``pipelines``."""
        self.follower.deliver(Record("pipelines", 0, self.read, None, value))
        self.read += 1

    def send(self, document: str, pipeline: str, number: int) -> None:
        """Have a document come that is bound to the version."""
        payload = SourceDocument(DocumentFacts(document, "text/plain", bytes(16)), document)
        change = Change("t", document, 1, Operation.UPSERT)
        found = Context(Trace(document, pipeline, number, NOW), change, payload)
        self.cluster.append(Message("documents", found.change.key, CODEC.encode(found, SourceDocument)))

    def outcomes(self) -> dict[str, list[str]]:
        """Let the worker work; return the documents by what they came to."""
        for _ in range(30):
            if self.worker.state.exit is None:
                self.worker.step()
        done = [CODEC.decode(one.value, SourceDocument) for one in self.cluster.read_committed("chunks")]
        dead = [CODEC.decode_plain(one.value, DeadLetter) for one in self.cluster.read_committed(TOPICS[2])]
        return {
            "done": [context.change.document_id for context in done],
            **(
                {"dead": [f"{letter.document_id} {letter.reason}: {letter.message}" for letter in dead]} if dead else {}
            ),
        }


def refused() -> float:
    """What the metric says of the topic."""
    return REGISTRY.get_sample_value("headrace_refused_entries_total", {"topic": "pipelines"}) or 0.0


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_bad_record_ends_no_stage_and_the_version_before_stays_in_force(
    bad: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: one bad record in the topic ends every stage, hides other pipelines, or sends changes into nowhere."""
    stage = Stage(monkeypatch)
    before = refused()
    stage.learn(CODEC.encode_plain(version(1)))
    stage.learn(bad)
    stage.learn(CODEC.encode_plain(version(1, "later")))
    assert stage.follower.latest("default") == ("default", 1)
    assert stage.follower.latest("later") == ("later", 1)
    stage.send("a", "default", 1)
    stage.send("b", "later", 1)
    assert stage.outcomes() == {"done": ["a", "b"]}
    assert stage.worker.state.exit is None
    assert refused() == before + 1


def test_a_document_bound_to_a_refused_version_is_dead_lettered_with_the_reason_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Broken: a stage of an older release ends at what a newer one bound, or says that nobody ever applied it."""
    stage = Stage(monkeypatch)
    stage.learn(CODEC.encode_plain(version(1)))
    stage.learn(BAD["a template of another release"])
    stage.send("a", "default", 2)
    stage.send("b", "default", 1)
    found = stage.outcomes()
    assert stage.worker.state.exit is None
    assert found["done"] == ["b"]
    (dead,) = found["dead"]
    assert dead.startswith("a unknown-pipeline: pipeline 'default' version 2 does not work with this release: ")
    assert "planets" in dead


def test_a_good_record_in_place_of_a_refused_one_comes_into_force(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a pipeline stays refused after it was applied again under the same number, until a restart."""
    stage = Stage(monkeypatch)
    stage.learn(BAD["no template"])
    with pytest.raises(UnknownPipeline):
        stage.follower.latest("default")
    stage.learn(CODEC.encode_plain(version(2)))
    stage.send("a", "default", 2)
    assert stage.outcomes() == {"done": ["a"]}


def test_the_number_of_a_refused_version_is_not_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: an older release's `pipeline apply` writes over a version that a newer release has in flight."""
    stage = Stage(monkeypatch)
    catalogue = stage.follower.catalogue
    assert catalogue.next_number("default") == 1
    stage.learn(CODEC.encode_plain(version(1)))
    assert catalogue.next_number("default") == 2
    stage.learn(BAD["a template of another release"])
    assert (catalogue.next_number("default"), catalogue.next_number("later")) == (3, 1)


def test_a_record_that_is_no_order_counts_and_leaves_the_orders_as_they_were() -> None:
    """Broken: a bad order ends the thread that reads orders, and no pause is obeyed any more."""
    book = OrderBook()
    follower = follow(KafkaSettings(), CODEC, book)
    before = REGISTRY.get_sample_value("headrace_refused_entries_total", {"topic": "control"}) or 0.0
    for offset, order in enumerate(("PAUSE", "STOP", "RESUME")):
        value = CODEC.encode_plain(Control(order, "stage", "chunker", "", "ann", NOW))
        follower.deliver(Record("control", 0, offset, None, value))
    newest = book.newest(Scope.STAGE, "chunker")
    assert newest is not None
    assert newest.action == "RESUME"
    assert REGISTRY.get_sample_value("headrace_refused_entries_total", {"topic": "control"}) == before + 1
