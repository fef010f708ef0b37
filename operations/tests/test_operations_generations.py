"""Generations: what a new one is made of, who may make and switch them, and that only a complete one is searched."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from headrace.embeddings.preparation import OverLong
from headrace.errors import ConfigurationError
from headrace.store.pool import StoreSettings
from headrace.store.rows import Generation
from headrace_operations.audit.model import Finding, Kind, Pending, Report
from headrace_operations.audit.run import Scope
from headrace_operations.errors import Refused
from headrace_operations.generations import activate as switching
from headrace_operations.generations import create as creating
from headrace_operations.generations.activate import ActivateGeneration, Incomplete
from headrace_operations.generations.create import CreateGeneration
from headrace_operations.generations.listing import NoSuchGeneration, generations, require_generation
from headrace_testing.cluster import FakeCluster

pytestmark = pytest.mark.unit

STORE = StoreSettings(dsn="postgresql://h/d")


@dataclass
class Index:
    """PostgreSQL as operations ask it: who may switch, which generations there are, and what was done."""

    may_switch: bool = True
    known: list[Generation] = field(default_factory=lambda: [Generation("g1", "m", 8, state="active")])
    done: list[tuple[Any, ...]] = field(default_factory=list)


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Index:
    """An index behind every connection."""
    made = Index()

    class Pool:
        @asynccontextmanager
        async def acquire(self) -> Any:
            yield made

    @asynccontextmanager
    async def opened(_settings: StoreSettings) -> Any:
        yield Pool()

    async def may_switch(index: Index) -> bool:
        return index.may_switch

    async def listed(index: Index) -> list[Generation]:
        return index.known

    async def create(index: Index, wanted: Generation) -> Generation:
        index.done.append(("create", wanted))
        return wanted

    async def switch(index: Index, name: str) -> None:
        index.done.append(("switch", name))

    for module in ("rights", "listing"):
        monkeypatch.setattr(f"headrace_operations.generations.{module}.opened_pool", opened)
    monkeypatch.setattr("headrace_operations.generations.rights.may_switch", may_switch)
    monkeypatch.setattr("headrace_operations.generations.listing.list_generations", listed)
    monkeypatch.setattr(creating, "create_generation", create)
    monkeypatch.setattr(switching, "switch", switch)
    return made


def test_a_new_generation_takes_what_is_known_of_its_model() -> None:
    """Broken: `generations create` makes another index than the embedder of that model fills."""

    def made(*given: Any, **more: Any) -> tuple[int, str]:
        wanted = CreateGeneration("g2", *given, **more).wanted()
        return (wanted.dimensions, wanted.passage_prompt)

    assert made("multilingual-e5-base") == (768, "passage: ")
    assert made("multilingual-e5-base", 64, passage_prompt="") == (64, "")
    assert made("mine", 3) == (3, "")
    with pytest.raises(ConfigurationError, match="dimensions of the model mine are unknown"):
        CreateGeneration("g2", "mine", passage_prompt="passage: ").wanted()


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (CreateGeneration("G 2", "mine", 3), "invalid generation name"),
        (CreateGeneration("g2", "mine", 3, template="{nothing}"), "nothing"),
    ],
)
async def test_what_cannot_be_made_is_refused_before_anything_is(
    request_: CreateGeneration, says: str, index: Index
) -> None:
    """Broken: topics of a generation stay behind that has no table."""
    with pytest.raises(ConfigurationError, match=says):
        await creating.create(FakeCluster(store=STORE), request_)
    assert index.done == []


async def test_a_generation_has_its_table_before_its_topics(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: an embedder starts to fill what an indexer has no table for, or lanes of another generation are made."""

    def create_topics(kafka: Any, copies: int) -> list[str]:
        index.done.append(("topics", kafka.generation, copies))
        return ["chunks.g2"]

    monkeypatch.setattr(creating, "create_topics", create_topics)
    request = CreateGeneration(
        "g2", "mine", 3, "l2", "{title} {body}", "p: ", OverLong.SPLIT, "words-1/none", "halfvec", 3
    )
    made = await creating.create(FakeCluster(store=STORE), request)
    assert index.done == [
        (
            "create",
            Generation(
                "g2", "mine", 3, "l2", template="{title} {body}", passage_prompt="p: ", over_long="split",
                analyzer="words-1/none", storage="halfvec",
            ),
        ),
        ("topics", "g2", 3),
    ]  # fmt: skip
    assert (made.generation.name, made.topics) == ("g2", ["chunks.g2"])


async def test_a_service_may_neither_make_nor_switch_generations(index: Index) -> None:
    """Broken: a service's login gets half through, and the topics are there without a table."""
    index.may_switch = False
    with pytest.raises(Refused, match="may not change generations"):
        await creating.create(FakeCluster(store=STORE), CreateGeneration("g2", "mine", 3))
    with pytest.raises(Refused, match="may not change generations"):
        await switching.activate(STORE, no_audit, ActivateGeneration("g1"))
    assert index.done == []


def no_audit() -> FakeCluster:
    """Stand for Kafka in a switch that must not ask for it."""
    raise AssertionError("the audit began")


async def test_an_unchecked_switch_needs_no_kafka(index: Index) -> None:
    """Broken: while Kafka is down, search cannot be switched back."""
    await switching.activate(STORE, no_audit, ActivateGeneration("g2", unchecked=True))
    assert index.done == [("switch", "g2")]


@pytest.mark.parametrize("complete", [True, False])
async def test_a_switch_follows_its_audit(index: Index, monkeypatch: pytest.MonkeyPatch, complete: bool) -> None:
    """Broken: a caller switches to a generation that lacks documents, because it forgot the audit."""
    findings = () if complete else (Finding(Kind.MISSING, "vector", "acme", "a", "e", "f", ()),)

    async def audit(*_: Any) -> Report:
        assert index.done == []
        return Report("g2", ("acme",), True, 1, 1, 1, 1, findings, (), (), False, 1.0)

    monkeypatch.setattr(switching, "audit", audit)
    switched = switching.activate(STORE, lambda: FakeCluster(store=STORE), ActivateGeneration("g2"))
    if complete:
        await switched
    else:
        with pytest.raises(Incomplete):
            await switched
    assert index.done == ([("switch", "g2")] if complete else [])


@pytest.mark.parametrize(
    ("findings", "pending", "under_way", "complete"),
    [(0, 0, 0, True), (1, 0, 9, False), (0, 2, 1, False), (0, 2, 2, True)],
)
async def test_only_a_complete_generation_passes(
    findings: int, pending: int, under_way: int, complete: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: searches miss documents whose vectors are missing, or live changes keep a switch from ever passing."""
    finding = Finding(Kind.MISSING, "vector", "acme", "a", "e", "f", ())
    lacking, late = (finding,) * findings, (Pending("acme", "b", "chunks"),) * pending
    scopes: list[Scope] = []

    async def audit(_kafka: Any, _codec: Any, store: Any, scope: Scope, _told: Any) -> Report:
        assert store is STORE
        scopes.append(scope)
        return Report("g2", ("acme",), True, 1, 1, 1, 1, lacking, late, (), False, 1.0)

    monkeypatch.setattr(switching, "audit", audit)
    asked = switching.require_complete(FakeCluster(store=STORE), ActivateGeneration("g2", under_way))
    if complete:
        await asked
    else:
        with pytest.raises(Incomplete, match=f"{findings} findings, {pending} pending documents"):
            await asked
    assert scopes == [Scope(generation="g2")]


async def test_a_generation_that_is_not_there_is_told_with_those_that_are(index: Index) -> None:
    """Broken: a replay fills a generation that nobody made, or a machine without a store can fill none."""
    assert await generations(None) is None
    await require_generation(None, "g9", "--into")
    await require_generation(STORE, "g1", "--into")
    with pytest.raises(NoSuchGeneration, match="'g9'") as caught:
        await require_generation(STORE, "g9", "--into")
    assert "g1 (m, 8 dimensions, active)" in caught.value.remedy
    index.known.clear()
    await require_generation(STORE, "g9", "--into")
