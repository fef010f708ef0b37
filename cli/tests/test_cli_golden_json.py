"""The shape of what every command prints with ``--json``, frozen: keys and types, over fakes of what it reaches.

After a change that is meant: `make golden`.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import typer
from typer.testing import CliRunner

from headrace.embeddings.costs import Spent
from headrace.handlers.pipelines_log import Applied, PipelineCatalogue
from headrace.kafka import lag
from headrace.kafka.broker_contract import Record, TopicPartition
from headrace.kafka.offsets import LogOffsets
from headrace.payloads import Control, DeadLetter, HeaderPart, PipelineVersion, ReplayPosition, ReplayRun
from headrace.pipeline import canonical, load
from headrace.store.dense_index import DenseIndex
from headrace.store.index_health import Health, IndexSize, Recall, TableHealth
from headrace.store.keys import ListedKey
from headrace.store.reindex import Coverage, Lacking, Life
from headrace.store.rows import Generation
from headrace.store.usage import DayUsage
from headrace_cli import state
from headrace_cli.app import app
from headrace_cli.stack.launch import Launched, Launcher
from headrace_cli.stack.observe import ProcessView, StackView
from headrace_local.model import Endpoints
from headrace_operations.alerts.alerter import Alerter
from headrace_operations.audit.model import Finding, Kind, Pending, Report
from headrace_operations.audit.reset import Reset
from headrace_operations.capture.connector import Connect, Status, configuration
from headrace_operations.capture.database import Database
from headrace_operations.capture.reconcile import Reconciled
from headrace_operations.dead_letters.act import Actor
from headrace_operations.dead_letters.log import DeadLetterLog, Found
from headrace_operations.dead_letters.model import Entry, Id
from headrace_operations.embeddings.estimate import Lengths
from headrace_operations.held.act import Done, HeldActor
from headrace_operations.held.log import FoundHeld, HeldLog
from headrace_operations.held.model import HeldEntry, HeldId
from headrace_operations.objects.garbage import Amount, Collector, Garbage
from headrace_operations.reindex.drop import Dropped
from headrace_operations.reindex.progress import Filling, Progress
from headrace_operations.reindex.quality import Quality
from headrace_operations.reindex.switch import Switched
from headrace_operations.reindex.verify import Verified
from headrace_operations.replay.copier import Copier
from headrace_operations.replay.plan import Estimate, Planned
from headrace_operations.runs.fold import Failed, Item, Run, SentChange
from headrace_operations.runs.reader import RunsReader
from headrace_operations.trace.log import Cost
from headrace_operations.trace.model import Copy, DocumentTrace, Held, Letter, Place, Step, Traces, VersionTrace
from headrace_operations.trace.request import RequestTrace
from headrace_operations.trace.tracer import Tracer

pytestmark = pytest.mark.unit

GOLDEN = Path(__file__).parent / "golden" / "json.json"
ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 1, 2, tzinfo=UTC)
RUN = ReplayRun(
    "r1", "chunker", "all", None, None, None, (ReplayPosition(0, 0, 5, 10),), 5, "RUNNING", "ada", NOW, NOW, "documents"
)  # fmt: skip
HIT = {"document_id": "a.md", "score": 0.5}
STATUS = {"id": "a.md", "state": "indexed", "version": 4, "stored": None, "in_flight": []}
PAGE = [{"id": "a.md", "version": 1, "attributes": {}, "title": "A", "indexed_at": "2026-01-01T00:00:00Z"}]


def everywhere(monkeypatch: pytest.MonkeyPatch, place: str, instead: object) -> None:
    """Put the fake in the place of ``module:name``, wherever that was imported."""
    home, _, name = place.partition(":")
    original = getattr(importlib.import_module(home), name)
    for module in [one for key, one in sys.modules.items() if key.startswith("headrace")]:
        for own, value in list(vars(module).items()):
            if value is original:
                monkeypatch.setattr(module, own, instead)


def leaves(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield every command with its words, which loads it."""
    members = getattr(command, "commands", None)
    if members is None:
        yield " ".join(words), command
        return
    for name in members:
        yield from leaves(members[name], (*words, name))


def answering(value: object) -> Callable[..., Any]:
    """Return a coroutine function with this answer."""

    async def answer(*_: object, **__: object) -> Any:
        return value

    return answer


class Connection:
    """A connection of the owner that answers nothing; whoever asks it is faked."""


class Pool:
    """Gives the connection."""

    @asynccontextmanager
    async def acquire(self) -> Any:
        yield Connection()

    async def close(self) -> None:
        pass


def dead_letter(offset: int) -> Entry:
    """An open dead letter; only the first can be sent again."""
    whole = None if offset == 1 else "the record was cut"
    return Entry(Id("ingest", 0, offset), "invalid-record", None, "title: is bad", "Mend it.", "acme", "a.md", None,
                 None, 1, NOW, "changes/0/1", None, 2, whole, None)  # fmt: skip


def found_letter() -> Found:
    """A dead letter with its record."""
    letter = DeadLetter("ingest", "invalid-record", "m", "r", None, None, 1, "changes", 0, 1, NOW, b"acme/a.md", b"{}",
                        (HeaderPart("run", b"x"),), NOW, "ingest-0")  # fmt: skip
    return Found(dead_letter(1), letter, Record("dead-letters.ingest", 0, 1, b"acme/a.md", b"v", (), 1))


def held(kind: str = "review", scope: str = "pipeline/default", stage: str = "ingest") -> HeldEntry:
    """A record that waits."""
    return HeldEntry(HeldId(stage, 0, 1), kind, scope, "why", NOW, None, "acme", "a.md", 1, None, "t/0/1", 5)


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Options that name what a fake stands for; something listens where Kafka would."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield ["--kafka", f"127.0.0.1:{server.getsockname()[1]}", "--registry", "http://127.0.0.1:1"]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gateway: Any) -> None:
    """Everything that commands reach, as fakes."""
    list(leaves(typer.main.get_command(app)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.sleep", lambda _: None)
    set_store(monkeypatch)
    set_reindex(monkeypatch)
    set_log(monkeypatch)
    set_replay(monkeypatch)
    set_traces(monkeypatch)
    set_capture(monkeypatch, tmp_path)
    set_objects(monkeypatch, tmp_path)
    set_stack(monkeypatch, tmp_path)
    gateway.reply = lambda request: {
        "/v1/search": (200, {}, {"hits": [HIT], "fits": True, "fit": 0.5, "timings": {"embed_ms": 1, "search_ms": 2}}),
        "/v1/ask": (200, {}, {"id": "i", "text": "It flows [1]."}),
        "/v1/documents/a.md": (200, {}, STATUS),
        "/v1/documents:search": (200, {}, {"documents": PAGE, "next": None}),
    }.get(request.path)
    monkeypatch.setenv("HEADRACE_STORE_DSN", "postgresql://127.0.0.1:1/x")
    monkeypatch.setenv("HEADRACE_URL", gateway.url)
    monkeypatch.setenv("HEADRACE_API_KEY", "hr_k")
    monkeypatch.setenv("HEADRACE_ALERTS_SLACK_URL", "http://127.0.0.1:1/hook")
    monkeypatch.setattr(Alerter, "_post", lambda *_: None)
    (tmp_path / "a.md").write_text("text")


def set_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake PostgreSQL and what is read from it."""
    generations = [Generation("g1", "m", 8, state="active")]
    everywhere(monkeypatch, "headrace.store.pool:create_pool", answering(Pool()))
    everywhere(monkeypatch, "headrace.store.generations:list_generations", answering(generations))
    everywhere(monkeypatch, "headrace.store.generations:get_generation", answering(generations[0]))
    everywhere(monkeypatch, "headrace.store.generations:create_generation", answering(Generation("g2", "m", 8)))
    everywhere(monkeypatch, "headrace.store.generations:activate", answering(None))
    everywhere(monkeypatch, "headrace.store.generations:may_switch", answering(True))
    everywhere(monkeypatch, "headrace.store.keys:create_api_key", answering("hr_k"))
    listed = [ListedKey("k", ("user:ann",), False, NOW, None), ListedKey("o", (), True, NOW, NOW)]
    everywhere(monkeypatch, "headrace.store.keys:list_api_keys", answering(listed))
    everywhere(monkeypatch, "headrace.store.keys:revoke_api_keys", answering(1))
    everywhere(monkeypatch, "headrace_operations.audit.store_view:generations", answering(generations))
    everywhere(monkeypatch, "headrace.migrate:create_topics", lambda *_: ["chunks.g2"])
    finding = Finding(
        Kind.MISSING, "vector", "acme", "a.md", "e", "f", ("headrace x",), replay="embedder"
    )  # fmt: skip
    report = Report("g1", ("acme",), True, 4, 3, 9, 8, (finding,), (Pending("acme", "b", "chunks"),), (), False, 1.5)
    everywhere(monkeypatch, "headrace_operations.audit.run:audit", answering(report))
    everywhere(monkeypatch, "headrace_operations.audit.reset:reset", answering(Reset(3, 5, False, ("headrace x",))))
    day = DayUsage("acme", date(2026, 1, 1), "embedder", "m", 1, 2, 1, Decimal("0.5"), 0)
    ledger = "headrace_operations.embeddings.ledger"
    everywhere(monkeypatch, f"{ledger}:tenants", answering(["acme"]))
    everywhere(monkeypatch, f"{ledger}:read_days", answering([day]))
    everywhere(monkeypatch, f"{ledger}:spent_by", answering({"acme": Spent()}))
    everywhere(monkeypatch, f"{ledger}:spent_in_all", answering(Spent()))
    everywhere(monkeypatch, "headrace_operations.embeddings.forget:cached", answering(3))
    everywhere(monkeypatch, "headrace_operations.embeddings.forget:forget", answering(3))
    everywhere(monkeypatch, "headrace_operations.replay.plan:cached_in", lambda *_: answering(set()))


def set_reindex(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake what reindexing and the commands for indexes do."""
    one = Generation("g1", "m", 8, state="active")
    tenants = [Coverage("acme", 3, 2, 9, 8)]
    dense = DenseIndex("vector_g1_nearest", "hnsw", valid=True, bytes=8192, options={"m": 16})
    filling = Filling("r1", "RUNNING", 5, 50, 2.5, None, 3.5)
    at = Progress(one, "filling", tenants, filling, dense, {"embedder": 1, "indexer": 1})
    place = "headrace_operations.reindex"
    everywhere(monkeypatch, f"{place}.progress:progress", answering([at]))
    everywhere(monkeypatch, f"{place}.fill:estimate", answering(Estimate(5, 3, 2)))
    life = Life("g1", "active", None, NOW, NOW, 1.0)
    everywhere(monkeypatch, "headrace.store.reindex:lives", answering([life]))
    everywhere(monkeypatch, f"{place}.switch:switch", answering(Switched("g2", "g1", tenants)))
    everywhere(monkeypatch, f"{place}.switch:rollback", answering(Switched("g1", "g2", tenants)))
    everywhere(monkeypatch, f"{place}.drop:require_droppable", answering(one))
    everywhere(
        monkeypatch, f"{place}.drop:drop", answering(Dropped("g1", 3, 2, ["vectors.g1"], ["headrace-indexer.g1"]))
    )
    report = Report("g1", ("acme",), True, 4, 3, 9, 8, (), (), (), False, 1.5)
    found = Quality(0.9, 1.0, 0.8, 5.5)
    lost = [Lacking("acme", "a.md", 3)]
    verified = Verified("g2", "g1", tenants, lost, report, 5, found, found, ["g2 lacks 1 documents"])
    everywhere(monkeypatch, f"{place}.verify:verify", answering(verified))
    table = TableHealth("vector_g1", 50_000, 0, 0, 8192, NOW, None)
    recall = Recall("acme", 20, 0.9, 1.5, 2.5, 9.5, indexed=True)
    size = IndexSize("vector_g1_nearest", "vector_g1", "hnsw", True, 8192, {"m": 16}, 7)
    everywhere(
        monkeypatch, "headrace_operations.index.look:looked",
        answering([Health(one, (table,), (size,), dense, None, (recall,))]),
    )  # fmt: skip
    everywhere(monkeypatch, "headrace_operations.index.look:tune", answering(one))
    everywhere(monkeypatch, "headrace_operations.index.build:build", answering(dense))


def set_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake what is read from Kafka and written to it."""
    orders = [Control("PAUSE", "stage", "chunker", "why", "olga", NOW)]
    everywhere(
        monkeypatch, "headrace_operations.orders.log:read_orders", lambda *_: SimpleNamespace(all=lambda: orders)
    )
    template = load((ROOT / "pipelines" / "index.yaml").read_text(encoding="utf-8"), "index.yaml", None)
    version = PipelineVersion(template.id, 2, canonical(template), "d", "olga", NOW)
    catalogue = PipelineCatalogue()
    catalogue.add(version)
    everywhere(monkeypatch, "headrace.handlers.pipelines_log:read_all", lambda *_: catalogue)
    everywhere(monkeypatch, "headrace.handlers.pipelines_log:apply", lambda *_, **__: Applied(version, changed=True))
    everywhere(monkeypatch, "headrace.kafka.lag:progress", lambda *_: lag.Progress(10, 4))
    monkeypatch.setattr(LogOffsets, "partitions", lambda _, names: [TopicPartition(name, 0) for name in names])
    monkeypatch.setattr(LogOffsets, "ends", lambda *_: {TopicPartition("changes", 0): 5})
    monkeypatch.setattr(lag.LagReader, "stages", lambda _: [lag.StageLag("ingest", "changes", 1, 2, 5)])
    for kind in (DeadLetterLog, HeldLog, HeldActor, Actor):
        monkeypatch.setattr(kind, "__init__", lambda *_, **__: None)
    monkeypatch.setattr(LogOffsets, "generations", lambda *_: ["g1"])
    monkeypatch.setattr(DeadLetterLog, "select", lambda *_: [dead_letter(1), dead_letter(2)])
    monkeypatch.setattr(DeadLetterLog, "show", lambda *_: [found_letter(), found_letter()])
    monkeypatch.setattr(DeadLetterLog, "read", lambda _, __, take: take(found_letter()))
    monkeypatch.setattr(Actor, "carry_out", lambda _, chosen, *__: [one.id for one in chosen])
    waiting = [held(), held("pause", "cap/acme", "embedder"), held("pause", "tenant/acme")]
    monkeypatch.setattr(HeldLog, "select", lambda _, meant: [one for one in waiting if meant.holds(one)])
    monkeypatch.setattr(HeldLog, "one", lambda *_: FoundHeld(held(), Record("held.ingest", 0, 1, b"k", b"junk")))
    decided = Done([held()], [(HeldId("ingest", 0, 2), "was approved")])
    monkeypatch.setattr(HeldActor, "plan", lambda *_: decided)
    monkeypatch.setattr(HeldActor, "decide", lambda *_: decided)
    monkeypatch.setattr(HeldActor, "release", lambda *_: Done())
    everywhere(monkeypatch, "headrace_operations.embeddings.estimate:of_log", lambda *_: Lengths())


def set_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake replays."""
    runs = {"r1": RUN}

    def give(*_: object, action: str, scope: str, target: str, reason: str, issued_by: str) -> Control:
        if action == "CANCEL":
            runs["r1"] = replace(RUN, state="CANCELLED")
        return Control(action, scope, target, reason, issued_by, NOW)

    everywhere(monkeypatch, "headrace_operations.orders.log:give", give)
    everywhere(monkeypatch, "headrace_operations.replay.runs:read_runs", lambda *_: runs)
    everywhere(monkeypatch, "headrace_operations.replay.plan:plan", lambda *_, **__: Planned(RUN, {3: 17}))
    everywhere(monkeypatch, "headrace_operations.replay.plan:estimate", answering(Estimate(7, 5, None)))
    monkeypatch.setattr(Copier, "__init__", lambda *_, **__: None)
    monkeypatch.setattr(Copier, "begin", lambda *_: None)
    monkeypatch.setattr(Copier, "carry_out", lambda *_: replace(RUN, state="DONE"))
    monkeypatch.setattr(Copier, "cancel", lambda *_: replace(RUN, state="CANCELLED"))


def set_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake traces and runs."""
    run = Run("20260102T000000Z-ab", "acme", 1, 2, 1, 1, 0, 50.0, 1, 2, 1.0, None)
    change = SentChange(b"acme/a.md", (0, 1), None, "r", None, 1)
    letter = Failed("ingest/0/1", "ingest", "reason", "message", b"acme/a.md", None, None, 1)
    items = [Item(change, "failed", 1, letter), Item(change, "pending", None, None)]
    monkeypatch.setattr(RunsReader, "__init__", lambda self, *_, **__: setattr(self, "complete", True))
    monkeypatch.setattr(RunsReader, "read", answering(Cost()))
    monkeypatch.setattr(RunsReader, "runs", lambda *_: [run])
    monkeypatch.setattr(RunsReader, "items", lambda *_: items)
    version = VersionTrace(
        1, "indexed", "upsert", ("q",), ("r",), "applied", 1,
        (Step("ingest", ("h@1",), "w", "changes", 0, 1, 1, NOW, 5),),
        (Place("held", "ingest", "held.ingest", 0, 1, 2, 1, None, None, None, None, Held("i", "pause", "s", "w")),),
        (Letter("ingest/0/1", "ingest", "r", "m", "r", None, "w", 1, NOW, "o", 1, None),),
        (Copy("changes", 0, 1, 1),), ("do this",),
    )  # fmt: skip
    document = DocumentTrace("acme", "a.md", "indexed", 1, None, (version,), ("note",))
    monkeypatch.setattr(Tracer, "__init__", lambda *_: None)
    monkeypatch.setattr(Tracer, "documents", answering(Traces([document], Cost())))
    request = RequestTrace("q", "acme", [run], items, [document], 0, ("note",), Cost())
    everywhere(monkeypatch, "headrace_operations.trace.request:trace_request", answering(request))


def set_capture(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Fake the source database and Kafka Connect."""
    (folder / "tables.yaml").write_text('tables:\n  public.t: {tenant: acme, id: "{id}", text: "{body}"}\n')
    status = Status("shop", "RUNNING", "", ("public.t",))
    config = configuration("captured", "postgresql://a:b@h/d", {}, "changes")
    everywhere(monkeypatch, "headrace_operations.capture.database:look", answering(Database("logical", True, {})))
    everywhere(monkeypatch, "headrace_operations.capture.database:problems", lambda *_: [])
    everywhere(monkeypatch, "headrace_operations.capture.database:drop_slot", answering(None))
    reconciled = Reconciled("public.t", 2, (("acme", "a"),), (("acme", "b"),))
    everywhere(monkeypatch, "headrace_operations.capture.reconcile:reconcile", answering(reconciled))
    for name, answer in {"names": ["captured"], "configuration": config, "put": None, "wait_running": status,
                         "status": status, "delete": None}.items():  # fmt: skip
        monkeypatch.setattr(Connect, name, lambda *_, answer=answer: answer)
    everywhere(monkeypatch, "headrace_operations.capture.connector:unread", lambda *_: None)


def set_objects(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Fake the object store."""
    place = folder / "objects" / "acme" / "20260101" / ("ab" * 32)
    place.parent.mkdir(parents=True)
    place.write_bytes(bytes(10))
    begun = {"kafka_cluster": "c1", "topic_prefix": ""}
    (folder / "objects" / "_headrace-objects.json").write_text(json.dumps(begun))
    monkeypatch.setenv("HEADRACE_OBJECTS_URL", f"file://{folder}/objects")
    cluster = Mock(cluster_id="c1")
    monkeypatch.setattr("headrace.objects.store.AdminClient", lambda _: Mock(list_topics=lambda **_: cluster))
    monkeypatch.setattr(Collector, "__init__", lambda *_: None)
    monkeypatch.setattr(Collector, "find", lambda *_: Garbage(Amount(2, 20), Amount(1, 10), {"k": 10}, {}, 5))
    monkeypatch.setattr(Collector, "delete", lambda *_: Amount(1, 10))


def set_stack(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Fake the local stack."""
    endpoints = Endpoints("h:1", "http://r", "postgresql://u:p@h/d", folder)
    launched = Launched(endpoints, True, "default", "http://g", ("ingest-0",))
    monkeypatch.setattr(Launcher, "up", lambda *_: launched)
    monkeypatch.setattr(Launcher, "prepare", lambda self, _: self._report("topics created"))
    monkeypatch.setattr("headrace_local.stack.Stack.state", lambda _: SimpleNamespace(endpoints=endpoints))
    process = ProcessView("ingest-0", "running", None, 0, 1.5, True, None)
    stages, index = [{"stage": "ingest", "topic": "t", "behind": 0}], {"tenant": "default", "documents": 1}
    view = StackView(str(folder), None, "h:1", "postgresql://u@h", None, (process,), stages, index, ("note",))
    everywhere(monkeypatch, "headrace_cli.stack.observe:look", lambda _: view)
    logs = folder / ".headrace" / "logs"
    logs.mkdir(parents=True)
    (logs / "ingest.log").write_text("one\n")
    known = state.RunningServices("http://g", "h:1", "http://r", "hashing", "hashing-384", connect="http://c")
    state.write(folder / ".headrace", state.SERVICES, known)
    state.write(folder / ".headrace", state.CREDENTIALS, state.Credentials("default", "k", "l", "p", "e"))


def shape(value: object) -> Any:
    """Return keys and types of a JSON value; of a list, those of all its items."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        found = {json.dumps(shape(item)): shape(item) for item in value}
        return [found[key] for key in sorted(found)]
    return "null" if value is None else type(value).__name__


STORE = ["--postgres", "postgresql://127.0.0.1:1/x"]
PLAIN = [
    "up", "down", "status", "status a.md", "logs", "bootstrap", "ingest a.md", "ingest a.md --wait", "delete a.md",
    "delete a.md --wait", "documents", "search q", "ask q", "alerts test", "capture check tables.yaml --database x",
    "capture list", "capture stop captured --yes", "embeddings benchmark --sizes 1 --texts 1",
    "embeddings schedule batch --cron *_*_*_*_* --dry-run", "generations list",
]  # fmt: skip
IN_KAFKA = [
    "topics --no-registry", "objects stats --no-registry", "objects gc --yes --no-registry",
    "objects gc --dry-run --no-registry", "capture start tables.yaml --database postgresql://a:b@h/d --no-registry",
    "capture reconcile tables.yaml --database x --dry-run", "capture reconcile tables.yaml --database x --yes",
    "pause --stage chunker", "pause --tenant acme --dry-run", "resume --stage chunker", "resume --tenant acme",
    "resume --tenant acme --dry-run", "orders", "trace a.md --tenant acme", "trace q --request --tenant acme", "runs",
    "runs 20260102T000000Z-ab", "pipeline apply PIPELINE", "pipeline apply PIPELINE --dry-run", "pipeline list",
    "pipeline show default", "held list", "review list", "review show ingest/0/1", "review approve ingest/0/1",
    "review approve ingest/0/1 --dry-run", "review reject ingest/0/1 --why x", "dlq list", "dlq list --each",
    "dlq show ingest/0/1", "dlq redrive --all", "dlq redrive --all --dry-run", "dlq discard --all --why x --yes",
    "dlq discard --all --why x --dry-run", "dlq export file.jsonl", "dlq export -", "replay list", "replay status r1",
    "replay start --stage chunker --all --dry-run", "replay start --stage chunker --all", "replay resume r1",
    "replay pause r1", "replay cancel r1", "embeddings batch", "embeddings batch --dry-run",
]  # fmt: skip
IN_BOTH = [
    "audit", "audit --reset --tenant acme --document a.md --yes",
    "generations create g2 --model m --dimensions 8", "embeddings estimate --all", "embeddings status --sample 0",
    "embeddings incremental", "embeddings incremental --dry-run", "embeddings release", "embeddings release --dry-run",
    "reindex start --template {title}{body} --dry-run", "reindex status", "reindex verify g2", "reindex switch g2",
    "reindex rollback", "reindex drop g1 --yes",
]  # fmt: skip
IN_STORE = [
    "embeddings costs", "embeddings reset --tenant acme --model m --yes", "embeddings estimate a.md --model m",
    "embeddings reset --tenant acme --model m --dry-run", "keys create k --tenant acme --user ann",
    "keys create k --tenant acme --acts-for-readers", "keys list --tenant acme", "keys revoke k --tenant acme",
    "index status", "index advise", "index rebuild g1", "index tune g1 --probes 2",
]  # fmt: skip


def test_json_has_the_keys_and_types_that_were_frozen(
    world: None, kafka: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: a script that reads the output of a command finds no longer what it reads."""
    monkeypatch.setenv("HEADRACE_EMBEDDER_PROVIDER", "hashing")
    found: dict[str, Any] = {}
    places = {id(PLAIN): [], id(IN_KAFKA): kafka, id(IN_BOTH): [*kafka, *STORE], id(IN_STORE): STORE}
    for lines in (PLAIN, IN_KAFKA, IN_BOTH, IN_STORE):
        for line in lines:
            words = [word.replace("*_*_*_*_*", "* * * * *") for word in line.split() if word != "--no-registry"]
            words = [str(ROOT / "pipelines" / "index.yaml") if word == "PIPELINE" else word for word in words]
            place = places[id(lines)][:2] if "--no-registry" in line else places[id(lines)]
            Path("file.jsonl").unlink(missing_ok=True)
            done = CliRunner().invoke(app, [*words, *place, "--json"])
            printed = [json.loads(text) for text in done.stdout.splitlines()]
            assert printed, (line, done.output)
            found[line] = {"exit_code": done.exit_code, "stdout": [shape(one) for one in printed]}
    now = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    if os.environ.get("REWRITE_GOLDEN") == "1":
        GOLDEN.write_text(now, encoding="utf-8")
    frozen = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert sorted(found) == sorted(frozen)
    for line, said in frozen.items():
        assert found[line] == said, f"{line}; if that is meant, run `make golden`"

    for name, command in leaves(typer.main.get_command(app)):
        if any(one.name == "as_json" for one in command.params):
            assert any(line == name or line.startswith(f"{name} ") for line in found), f"{name} is not frozen"
