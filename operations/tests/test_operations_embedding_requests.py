"""What operators ask about embedding: estimates, what is missing, releases, resets, spending and status."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from headrace.embeddings.costs import CostSettings, Spent, parse_book
from headrace.embeddings.models import SERVED
from headrace.embeddings.preparation import Preparation
from headrace.errors import ConfigurationError
from headrace.kafka.lag import Progress
from headrace.payloads import ReplayRun
from headrace.store.pool import StoreSettings
from headrace.store.rows import Generation
from headrace.store.usage import DayUsage, DocumentUsage
from headrace_operations.audit.model import Finding, Kind, Pending, Report
from headrace_operations.dead_letters.act import REDRIVEN
from headrace_operations.dead_letters.model import Entry, Id
from headrace_operations.embeddings import (
    estimating,
    forget,
    incremental,
    ledger,
    release,
    reset,
    spending,
    status,
)
from headrace_operations.embeddings.estimate import Lengths
from headrace_operations.embeddings.estimating import EstimateRequest
from headrace_operations.embeddings.incremental import Lacking
from headrace_operations.embeddings.progress import measured
from headrace_operations.embeddings.reset import ResetRequest
from headrace_operations.embeddings.spending import CostsRequest
from headrace_operations.embeddings.status import StatusRequest
from headrace_operations.held.model import HeldEntry, HeldId
from headrace_operations.replay import start
from headrace_operations.replay.plan import Known, Planned
from headrace_operations.replay.start import ReplayRequest
from headrace_testing.cluster import FakeCluster

pytestmark = pytest.mark.unit

NOW = datetime(2026, 5, 4, tzinfo=UTC)
BOOK = parse_book("models: {m: {usd_per_million_tokens: 2}}\ncaps: {each_tenant: {usd_per_day: 1}}", "costs.yaml")
STORE = StoreSettings(dsn="postgresql://h/d")
GENERATION = Generation("g1", "m", 8, state="active", template="{title}: {body}", passage_prompt="old: ")
RUN = ReplayRun("r1", "embedder", "all", None, None, None, (), 0, "RUNNING", "olga", NOW, NOW, "chunks")


def answering(value: object) -> Callable[..., Any]:
    """Return a coroutine function with this answer."""

    async def answer(*_: object, **__: object) -> Any:
        return value

    return answer


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    """A cluster with a store that has one generation."""

    @asynccontextmanager
    async def opened(_: StoreSettings) -> AsyncIterator[None]:
        yield None

    for module in (estimating, reset, spending):
        monkeypatch.setattr(module, "opened_pool", opened)
    monkeypatch.setattr("headrace_operations.cluster.opened_pool", opened)
    for module in (estimating, reset):
        monkeypatch.setattr(module, "generations", answering([GENERATION]))
    return FakeCluster(store=STORE)


async def test_texts_are_estimated_with_the_named_model_or_the_generations(cluster: FakeCluster) -> None:
    """Broken: files are priced with another model than the one that will embed them."""
    lengths = estimating.lengths_of("acme", ["x" * 300])
    own = await estimating.estimate_texts(EstimateRequest(BOOK), lengths, "m")
    assert (own.model, own.estimate.usd, own.estimate.exact) == ("m", Decimal("0.0002"), False)
    other = await estimating.estimate_texts(EstimateRequest(BOOK, model="owner/n"), lengths, "m")
    assert (other.model, other.estimate.usd) == ("n", None)
    local = await estimating.estimate_texts(EstimateRequest(BOOK, "n", provider="sentence-transformers"), lengths)
    assert local.estimate.usd == 0
    with pytest.raises(ConfigurationError, match="no text found"):
        estimating.lengths_of("acme", [])


async def test_the_log_is_estimated_as_the_model_would_see_it(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: cached texts are charged again, or another model's prompt is left out of its texts."""
    prepared: list[Preparation] = []
    asked: list[str] = []

    def of_log(_kafka: object, _codec: object, run: ReplayRun, preparation: Preparation, _progress: object) -> Lengths:
        assert run is RUN
        prepared.append(preparation)
        found = Lengths()
        found.add("acme", b"one", 30)
        found.add("acme", b"two", 30)
        return found

    def cached_in(_pool: object, model: str) -> Known:
        asked.append(model)

        async def known(_: str, keys: set[bytes]) -> set[bytes]:
            return keys & {b"one"}

        return known

    monkeypatch.setattr(estimating, "plan", lambda *_: Planned(RUN, {}))
    monkeypatch.setattr(estimating, "of_log", of_log)
    monkeypatch.setattr(estimating, "cached_in", cached_in)
    replay = ReplayRequest("embedder", everything=True)
    own = await estimating.estimate_log(cluster, EstimateRequest(BOOK, rate=0.5), replay)
    assert (own.model, own.estimate.to_embed, own.estimate.usd, own.estimate.seconds, own.estimate.exact) == (
        "m", 1, Decimal("0.00002"), 2.0, True,
    )  # fmt: skip
    other = await estimating.estimate_log(cluster, EstimateRequest(BOOK, "intfloat/multilingual-e5-small"), replay)
    assert [own.model, other.model] == asked == ["m", "multilingual-e5-small"]
    assert [(one.template, one.passage_prompt) for one in prepared] == [
        ("{title}: {body}", "old: "), ("{title}: {body}", "passage: "),
    ]  # fmt: skip


async def test_an_estimate_needs_a_store_and_a_generation(cluster: FakeCluster) -> None:
    """Broken: an estimate of the log passes for exact without knowledge of the cache."""
    replay = ReplayRequest("embedder", everything=True)
    with pytest.raises(ConfigurationError, match="no PostgreSQL is configured"):
        await estimating.estimate_log(replace(cluster, store=None), EstimateRequest(BOOK), replay)
    with pytest.raises(ConfigurationError, match="unknown generation g9"):
        await estimating.estimate_log(cluster.of("g9"), EstimateRequest(BOOK), replay)
    assert (await estimating.generation_of(STORE, None)).name == "g1"


def letter(offset: int, *, tenant: str = "acme", whole: str | None = None, stage: str = "embedder") -> Entry:
    """An open dead letter; with ``whole``, one that cannot be redriven."""
    return Entry(Id(stage, 0, offset), "unforeseen", None, "boom", "", tenant, "a.md", None, None, 1, NOW,
                 "chunks/0/1", None, 2, whole, None)  # fmt: skip


async def test_what_lacks_vectors_is_redriven_or_replayed(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: another stage's or tenant's dead letters are redriven, or a tenant without vectors is left out."""

    def finding(tenant: str, replay: str | None) -> Finding:
        return Finding(Kind.MISSING, "document", tenant, "d", "", "", (), replay=replay)

    findings = (finding("b", "embedder"), finding("a", "embedder"), finding("a", "chunker"))
    report = Report("g1", (), True, 0, 0, 0, 0, findings, (Pending("acme", "b", "chunks"),), (), False, 0.0)
    scopes: list[Any] = []

    async def audited(_kafka: object, _codec: object, _store: object, scope: object, _told: object) -> Report:
        scopes.append(scope)
        return report

    monkeypatch.setattr(incremental, "audit", audited)
    cluster.contents.letters += [letter(1), letter(2, whole="it was cut"), letter(3, tenant="b"),
                                 letter(4, stage="chunker")]  # fmt: skip
    found = await incremental.find_lacking(cluster, "acme")
    assert (found.letters, found.tenants, found.pending, found.to_repair) == (1, ["a", "b"], 1, 1)
    assert (scopes[0].tenant, scopes[0].generation) == ("acme", "g1")
    assert found.redrive is not None
    assert (found.redrive.action, found.redrive.selection.stage, found.redrive.selection.tenant) == (
        REDRIVEN, "embedder", "acme",
    )  # fmt: skip
    assert [(str(one.id), why) for one, why in found.refused] == [("embedder/0/2", "it was cut")]
    assert found.replays == [ReplayRequest("embedder", tenant="a"), ReplayRequest("embedder", tenant="b")]
    assert cluster.contents.events == []
    cluster.contents.letters.clear()
    assert (await incremental.find_lacking(cluster, None)).redrive is None


@pytest.mark.parametrize(("cancelled", "replayed"), [(None, ["a", "b", "c"]), ("b", ["a", "b"])])
def test_dead_letters_are_redriven_before_tenants_are_replayed(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, cancelled: str | None, replayed: list[str]
) -> None:
    """Broken: a cancelled replay is followed by the next one, or a dead letter that stays is not told."""
    cluster.contents.letters += [letter(1), letter(2, whole="it was cut")]
    events = cluster.contents.events

    class CopierOf:
        """Carries out one replay."""

        def __init__(self, run: ReplayRun) -> None:
            self._run = run

        def carry_out(self, run_id: str, _progress: object) -> ReplayRun:
            """Note the replay and return its last state."""
            assert run_id == self._run.run_id
            events.append(("replay", self._run.tenant))
            return replace(self._run, state="CANCELLED" if self._run.tenant == cancelled else "DONE")

    def plan(_: object, request: ReplayRequest) -> Planned:
        return Planned(replace(RUN, tenant=request.tenant), {})

    monkeypatch.setattr(start, "plan", plan)
    monkeypatch.setattr(start, "begin", lambda _, planned: CopierOf(planned.run))
    lacking = Lacking("g1", 1, ["a", "b", "c"], 0, 0, "acme")
    filled = incremental.carry_out(cluster, lacking)
    assert events == [
        ("REDRIVEN", ("embedder/0/1",), "embeddings incremental"), *[("replay", tenant) for tenant in replayed],
    ]  # fmt: skip
    assert [run.tenant for run in filled.replays] == replayed
    assert filled.cancelled == (cancelled is not None)
    assert [str(entry.id) for entry, _ in filled.refused] == ["embedder/0/2"]


def held(generation_offset: int, scope: str, stage: str = "embedder") -> HeldEntry:
    """A record that waits."""
    tenant = scope.partition("/")[2]
    return HeldEntry(HeldId(stage, 0, generation_offset), "pause", scope, "w", NOW, None, tenant, "a", 1, None, "t/0/1",
                     5)  # fmt: skip


async def test_only_records_of_caps_with_room_are_released(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: a tenant's pause ends with its cap, or a record goes to a full cap and comes straight back."""
    cluster.contents.held |= {
        "g1": [held(1, "cap/free"), held(2, "cap/full"), held(3, "tenant/free")],
        "g2": [held(1, "cap/free")],
    }
    spent = {"free": Spent(), "full": Spent(Decimal(1), Decimal(1))}
    monkeypatch.setattr(ledger, "spent_by", answering(spent))
    monkeypatch.setattr(ledger, "spent_in_all", answering(Spent()))
    counts = release.waiting_for_caps(cluster, None)
    assert counts == {"cap/free": 2, "cap/full": 1}
    assert release.waiting_for_caps(cluster, "full") == {"cap/full": 1}
    planned = await release.plan_release(cluster, BOOK, counts)
    assert (planned.ready, planned.full) == ({"cap/free": 2}, {"cap/full": 1})
    assert cluster.contents.events == []
    assert release.release_capped(cluster, planned.ready) == {"cap/free": 2}
    assert [entry.scope for entry in cluster.contents.held["g1"]] == ["cap/full", "tenant/free"]
    assert {why for _, _, why in cluster.contents.happened("RELEASED")} == {"the cap has room"}


async def test_without_waiting_records_no_store_is_needed(cluster: FakeCluster) -> None:
    """Broken: a schedule fails at night though there is nothing to release."""
    planned = await release.plan_release(replace(cluster, store=None), BOOK, {})
    assert (planned.ready, planned.full) == ({}, {})


async def test_a_reset_is_planned_and_names_who_asked(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a model's name with its owner finds no vectors, or the log does not tell who deleted them."""
    forgotten: list[tuple[object, ...]] = []

    async def forgets(_pool: object, tenant: str, model: str, *, asked_by: str) -> int:
        forgotten.append((tenant, model, asked_by))
        return 4

    monkeypatch.setattr(forget, "cached", answering(3))
    monkeypatch.setattr(forget, "forget", forgets)
    request = ResetRequest("acme", "owner/m")
    planned = await reset.plan_reset(STORE, request)
    assert (planned.model, planned.vectors, forgotten) == ("m", 3, [])
    assert (await reset.reset(STORE, request, planned, by="olga")).vectors == 4
    assert forgotten == [("acme", "m", "olga")]


async def test_a_login_that_sees_one_tenant_is_asked_for_those_that_matter(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: `embeddings status` fails with a service's login, or leaves out a tenant whose records are held."""
    asked: list[Collection[str]] = []

    async def spent_by(_: object, names: Sequence[str], __: object) -> dict[str, Spent]:
        asked.append(names)
        return {name: Spent(Decimal(1), Decimal(1)) for name in names}

    async def one_at_a_time(*_: object) -> list[str]:
        raise ConfigurationError("this login sees only one tenant at a time")

    book = parse_book("caps: {tenants: {acme: {usd_per_day: 1}}}", "costs.yaml")
    monkeypatch.setattr(ledger, "spent_by", spent_by)
    monkeypatch.setattr(ledger, "spent_in_all", answering(Spent()))
    monkeypatch.setattr(ledger, "tenants", one_at_a_time)
    found = await spending.spending(STORE, book, None, ["cap/held"])
    assert [one.whose for one in found.reached] == ["tenant acme"]
    monkeypatch.setattr(ledger, "tenants", answering(["all", "of", "them"]))
    await spending.spending(STORE, book, None, ["cap/held"])
    assert asked == [["acme", "held"], ["all", "of", "them"]]


async def test_costs_are_summed_as_asked(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a report has more lines than were asked for, or mixes days and documents."""
    may = date(2026, 5, 1)
    days = [DayUsage("a", may, "embedder", model, 1, 10, 1, Decimal("0.1"), 0) for model in ("m", "n")]
    documents = [DocumentUsage("a", name, "embedder", "m", 1, 1, Decimal(usd), 0, may, may)
                 for name, usd in (("cheap", "0.1"), ("dear", "0.9"))]  # fmt: skip
    monkeypatch.setattr(ledger, "tenants", answering(["a"]))
    monkeypatch.setattr(ledger, "read_days", answering(days))
    monkeypatch.setattr(ledger, "read_documents", answering(documents))
    assert [line.tokens for line in await spending.costs(STORE, CostsRequest())] == [20]
    assert [line.names for line in await spending.costs(STORE, CostsRequest("model"))] == [("m",), ("n",)]
    assert [line.names for line in await spending.costs(STORE, CostsRequest("document", limit=1))] == [("a", "dear")]


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (CostsRequest("moon"), "cannot sum by 'moon'"),
        (CostsRequest("document", first=date(2026, 1, 1)), "cannot be limited to a time range"),
        (CostsRequest("document", last=date(2026, 1, 1)), "cannot be limited to a time range"),
    ],
)
async def test_sums_that_do_not_exist_are_refused_before_the_store_is_reached(
    request_: CostsRequest, says: str
) -> None:
    """Broken: a slip of the pen shows a report of something else."""
    with pytest.raises(ConfigurationError, match=says):
        await spending.costs(STORE, request_)


async def test_status_tells_progress_failures_and_caps_that_are_refused(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Broken: an embedder that waits for a cap or refuses the file of caps looks healthy."""
    monkeypatch.setattr(status, "measured", lambda *_: (Progress(10, 4), 2.5))
    monkeypatch.setattr(status, "generation_of", answering(replace(GENERATION, model="unpriced")))
    for name in ("spent_by", "spent_in_all", "tenants"):
        monkeypatch.setattr(ledger, name, answering({} if name == "spent_by" else Spent()))
    cluster.contents.letters += [letter(1), letter(2, tenant="b"), letter(3, stage="chunker")]
    cluster.contents.held["g1"] = [held(1, "cap/acme"), held(2, "cap/acme"), held(3, "tenant/acme")]
    settings = CostSettings(file=tmp_path / "costs.yaml")
    found = await status.status(cluster, StatusRequest("acme", provider=SERVED), BOOK, settings)
    assert (found.generation, found.progress.percent, found.rate) == ("g1", 60.0, 2.5)
    assert ([str(one.id) for one in found.errors], found.held) == (["embedder/0/1"], {"cap/acme": 2})
    assert "price of unpriced is unknown" in str(found.refused)
    in_tokens = parse_book("caps: {all: {tokens_per_day: 5}}", "costs.yaml")
    assert (await status.status(cluster, StatusRequest(provider=SERVED), in_tokens, settings)).refused is None


def test_the_rate_is_what_was_done_in_the_meantime(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: the time left is told from a rate that was not measured, or an idle embedder costs a pause."""
    readings = [Progress(10, 4), Progress(14, 4), Progress(14, 0)]
    slept: list[float] = []
    monkeypatch.setattr("headrace_operations.embeddings.progress.lag.LagReader", lambda _: None)
    monkeypatch.setattr("headrace_operations.embeddings.progress.lag.progress", lambda *_: readings.pop(0))
    times = iter((0.0, 2.0))
    monkeypatch.setattr("headrace_operations.embeddings.progress.time.monotonic", lambda: next(times))
    assert measured(cluster.kafka, 2.0, slept.append) == (Progress(14, 4), 2.0)
    assert measured(cluster.kafka, 2.0, slept.append) == (Progress(14, 0), 0.0)
    assert slept == [2.0]
