"""Generations: what a new one is made of, who may make and switch them, and that only a complete one is searched."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from headrace.embeddings.preparation import OverLong
from headrace.errors import ConfigurationError, DependencyDown
from headrace.payloads import ReplayRun
from headrace.store.dense_index import DenseIndex
from headrace.store.pool import StoreSettings
from headrace.store.reindex import Coverage, Lacking, Life
from headrace.store.rows import Generation
from headrace_operations.errors import Refused
from headrace_operations.generations import create as creating
from headrace_operations.generations.create import CreateGeneration
from headrace_operations.generations.listing import NoSuchGeneration, generations, require_generation
from headrace_operations.reindex import switch as switching
from headrace_operations.reindex.switch import Incomplete
from headrace_testing.cluster import FakeCluster

pytestmark = pytest.mark.unit

STORE = StoreSettings(dsn="postgresql://h/d")
NOW = datetime(2026, 1, 2, tzinfo=UTC)
FILLED = ReplayRun("r1", "embedder", "all", None, None, None, (), 5, "DONE", "ada", NOW, NOW, "chunks", "g3")


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
    monkeypatch.setattr(switching, "activate", switch)
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
        await switching.rollback(STORE, None)
    assert index.done == []


def no_kafka() -> FakeCluster:
    """Stand for Kafka in a switch that must not ask for it."""
    raise AssertionError("Kafka was asked")


@pytest.fixture
def two(index: Index, monkeypatch: pytest.MonkeyPatch) -> Index:
    """An index with a retired, an active and a new generation."""
    states = {"g0": "retired", "g1": "retired", "g2": "active", "g3": "building"}
    index.known = [Generation(name, "m", 8, state=state) for name, state in states.items()]
    lives = [
        Life(name, state, None, NOW + timedelta(seconds=number), NOW, 60.0)
        for number, (name, state) in enumerate(states.items())
    ]
    by_name = {one.name: one for one in index.known}

    async def get(_: Index, name: str) -> Generation | None:
        return by_name.get(name)

    async def listed(index: Index) -> list[Generation]:
        return index.known

    async def lived(_: Index) -> list[Life]:
        return lives

    async def covered(*_: Any) -> list[Coverage]:
        return [Coverage("acme", 3, 2, 9, 8)]

    async def lacks(*_: Any) -> list[Lacking]:
        return [Lacking("acme", "a.md", 7)]

    async def indexed(*_: Any) -> list[DenseIndex]:
        return [DenseIndex("vector_g3_nearest", "hnsw", valid=True, bytes=1)]

    for name, instead in {
        "get_generation": get, "list_generations": listed, "lives": lived, "coverage": covered, "lacking": lacks,
        "dense_indexes": indexed, "fill_run": lambda *_: FILLED,
    }.items():  # fmt: skip
        monkeypatch.setattr(switching, name, instead)
    return index


async def test_a_switch_back_needs_no_kafka(two: Index) -> None:
    """Broken: while Kafka is down, search cannot be switched back."""
    back = await switching.rollback(STORE, None)
    assert (back.active, back.before, back.document()["missing"]) == ("g1", "g2", 1)
    await switching.switch(STORE, no_kafka, "g3", None, force=True)
    await switching.switch(STORE, no_kafka, "g2", None)  # it is active
    assert two.done == [("switch", "g1"), ("switch", "g3"), ("switch", "g2")]


async def test_an_embedder_that_does_not_answer_stops_a_switch_and_a_rollback(two: Index) -> None:
    """Broken: search is switched to a generation that no question can be embedded for."""

    async def ping(generation: Generation) -> None:
        raise DependencyDown("embedder", f"{generation.name} is silent")

    with pytest.raises(DependencyDown, match="g1 is silent"):
        await switching.rollback(STORE, ping)
    await switching.rollback(STORE, ping, force=True)
    assert two.done == [("switch", "g1")]


async def test_a_switch_is_refused_with_the_counts(two: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: search misses documents after a switch, and nobody is told which."""

    async def tried() -> str:
        with pytest.raises(Incomplete) as refused:
            await switching.switch(STORE, lambda: FakeCluster(store=STORE), "g3", None, settle_s=0.0)
        return refused.value.message

    said = await tried()
    assert "generation g3 has 2 of 3 documents (acme: 2 of 3); 1 are missing" in said
    assert "first acme/a.md version 7" in said

    async def nothing(*_: Any) -> list[Any]:
        return []

    monkeypatch.setattr(switching, "lacking", nothing)
    monkeypatch.setattr(switching, "dense_indexes", nothing)
    assert "has no index of its vectors" in await tried()
    monkeypatch.setattr(switching, "fill_run", lambda *_: replace(FILLED, state="RUNNING"))
    assert "is not filled: its replay is running" in await tried()
    monkeypatch.setattr(switching, "fill_run", lambda *_: None)
    monkeypatch.setattr(switching, "is_empty", lambda *_: False)
    assert "its replay has not begun" in await tried()
    assert two.done == []


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
