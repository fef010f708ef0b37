"""Many readers ask every route at once, on few connections, and give up at any moment: each sees what he may see."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import httpx
import numpy as np
import pytest

from headrace.access.readers import Reader
from headrace.codec.codec import Codec
from headrace.codec.schema_registry import FixedIds
from headrace.config.settings import KafkaSettings
from headrace.documents.status import DeadLetterEntry
from headrace.envelope import Change, Operation
from headrace.payloads import DocumentFacts
from headrace.retrieval.mode import Mode
from headrace.retrieval.questions import Questions, SearchSettings
from headrace.retrieval.rerank import Reranker, RerankSettings
from headrace.store import artifacts, legs, neighbours, queries, statistics, transactions
from headrace.store import search as searching
from headrace.store.conditions import compile_filter
from headrace.store.generations import activate, create_generation
from headrace.store.index import index_batch
from headrace.store.keys import create_api_key
from headrace.store.pool import create_pool
from headrace.store.rows import Generation, IndexChunk, IndexDocument, IndexResult
from headrace.store.search import Question
from headrace_gateway.app import create_app
from headrace_gateway.dependencies import Dependencies
from headrace_gateway.flow import FlowState
from headrace_gateway.settings import GatewaySettings
from headrace_gateway.store import PostgresStore
from headrace_testing.access import ranking
from headrace_testing.access.routes import Answered, Play
from headrace_testing.access.world import Known, World, acl, world
from headrace_testing.postgres import StoreSchema

if TYPE_CHECKING:
    from headrace.store.pool import Pool

    Owner = asyncpg.Connection[asyncpg.Record]

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
pytest_plugins = ("headrace_testing.postgres_fixtures",)

TENANT, DIMENSIONS = "acme", 8
OPEN = {
    "document": "tenant = current_tenant()",
    "chunk": "tenant = current_tenant()",
    "artifact": "tenant = current_tenant()",
}
"""The policies without the reader: the second wall is down."""
READS_ALL = "CREATE OR REPLACE FUNCTION may_read(acl text[]) RETURNS boolean LANGUAGE sql STABLE RETURN true"
"""The conditions of the queries without the reader: the first wall is down."""


class Toy:
    """An embedder whose vectors depend on the text alone."""

    async def embed(self, text: str, generation: Generation) -> bytes:
        """Return the vector."""
        return vector_of(text)

    async def ping(self, generation: Generation) -> None:
        """Be there."""


class WithoutPhrases(Questions):
    """Its questions have no phrases: of passages that score alike, an index may choose others to be compared."""

    async def ask(self, *given: Any, **asked: Any) -> Question:
        """Return the question."""
        return replace(await super().ask(*given, **asked), sequence=())


@dataclass(frozen=True)
class Letters:
    """No record waits; some documents have a dead letter of a later version."""

    by_key: Mapping[bytes, Sequence[DeadLetterEntry]]

    async def waiting(self, key: bytes) -> FlowState:
        """Return nothing."""
        return FlowState()

    async def refresh(self) -> None:
        """Know everything already."""

    def pending(self, key: bytes) -> FlowState:
        """Return nothing."""
        return FlowState()

    def dead_letters(self, key: bytes) -> Sequence[DeadLetterEntry]:
        """Return the dead letter of the document."""
        return self.by_key.get(key, ())


@dataclass
class Ground:
    """A tenant's documents in the store, and the gateway over it."""

    owner: Owner
    pool: Pool
    generation: Generation
    world: World
    play: Play

    async def index(self, names: Sequence[str]) -> list[IndexResult]:
        """Write these documents as they should be."""
        documents = [document(name, self.world.documents[name]) for name in names]
        return await index_batch(self.pool, self.generation, documents)


def vector_of(text: str) -> bytes:
    """A vector that depends on the text."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).normal(size=DIMENSIONS).astype("<f4").tobytes()


def document(name: str, known: Known) -> IndexDocument:
    """The document as the indexer gets it: one chunk; the same text has the same vector."""
    key = hashlib.sha256(known.text.encode()).digest()[:16]
    chunk_id = hashlib.sha256(f"{name} {known.text}".encode()).digest()[:16]
    kind = "even" if int(name[-1]) % 2 == 0 else "odd"
    said = f"{known.text} {known.acl}".encode()
    facts = DocumentFacts(name, "", hashlib.sha256(said).digest(), attributes={"kind": kind}, acl=known.acl)
    chunk = IndexChunk(chunk_id, (), 0, len(known.text), known.text, key, vector_of(known.text))
    return IndexDocument(TENANT, name, known.version, facts, request_id="r", chunks=(chunk,))


def letter(acl: tuple[str, ...] | None) -> DeadLetterEntry:
    """A dead letter of a version that the store does not have."""
    return DeadLetterEntry(
        "chunker", "invalid-record", "canary", "", 1000, None, 0, 1, 1_900_000_000_000, "UPSERT", acl
    )


@asynccontextmanager
async def ground(store_schema: StoreSchema, owner: Owner, chance: Random, documents: int = 90) -> AsyncIterator[Ground]:
    """Fill the store and open the gateway, with three connections for all readers."""
    generation = await create_generation(owner, Generation("first", "toy", DIMENSIONS))
    await activate(owner, "first")
    drawn = world(chance, readers=16, documents=documents)
    letters = {
        name: chance.choice((None, acl(chance, drawn.readers)))
        for name in chance.sample(sorted(drawn.documents), documents // 5)
    }
    by_key = {Change(TENANT, name, 0, Operation.UPSERT).key: (letter(known),) for name, known in letters.items()}
    settings = store_schema.settings(pool_maximum=3)
    pool, store = await create_pool(settings), PostgresStore(settings)
    questions = WithoutPhrases(Toy(), SearchSettings())
    app = create_app(
        Dependencies(
            settings=GatewaySettings(), kafka=KafkaSettings(), codec=Codec(FixedIds()), store=store,
            publisher=None, questions=questions, reranker=Reranker(RerankSettings()),  # type: ignore[arg-type]
            flow=Letters(by_key), pipeline_version=lambda _: 1,
        )
    )  # fmt: skip
    bound = [await create_api_key(owner, TENANT, "bound", reader) for reader in drawn.readers]
    acting = await create_api_key(owner, TENANT, "acting", None)

    async def ask(text: str, mode: Mode) -> Question:
        return await questions.ask(generation, TENANT, text, mode)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway", timeout=60) as http:
        empty = ranking.Passages([], [], [], [], ranking.NO_VECTORS, [], 0, 0.0, {})
        play = Play(http, drawn, empty, ask, bound, acting, chance, letters=letters)
        made = Ground(owner, pool, replace(generation, state="active"), drawn, play)
        await made.index(sorted(drawn.documents))
        await statistics.refresh(pool, TENANT, generation)
        play.passages = await ranking.read_passages(owner, TENANT, generation)
        await answer(made, chance)
        yield made
    await store.close()
    await pool.close()


async def answer(made: Ground, chance: Random) -> None:
    """Store an artifact for some readers, made from documents that they may read."""
    for number, reader in enumerate(made.world.readers[:10]):
        readable = sorted(made.world.readable(reader))
        sources = chance.sample(readable, min(2, len(readable)))
        row = artifacts.Artifact(
            TENANT, UUID(int=number + 1), 1, f"r{number}", "answer", "T", "text/plain", "canary", (),
            reader=reader.names, sources=sources,
        )  # fmt: skip
        await artifacts.put(made.pool, row)
        made.play.artifacts[row.artifact_id] = Answered(reader, frozenset(sources))


async def bystanders(made: Ground, times: int) -> None:
    """Use the gateway's own connections without naming a reader: only documents without an acl may be seen."""
    store = made.play.http._transport.app.state.dependencies.store  # type: ignore[attr-defined]
    public = made.world.readable(Reader())
    for _ in range(times):
        async with (await store._opened()).acquire() as connection, connection.transaction():
            await connection.execute("SELECT set_config('headrace.tenant', $1, true)", TENANT)
            rows = await connection.fetch("SELECT document_id FROM document UNION SELECT document_id FROM chunk")
        if extra := {row["document_id"] for row in rows} - public:
            made.play.problems.append(f"nobody saw {sorted(extra)[:5]}")
        await asyncio.sleep(0.01)


async def change_acls(made: Ground, chance: Random, share: float = 0.2) -> None:
    """Give some documents another acl, in a new version without any other change."""
    names = chance.sample(sorted(made.world.documents), int(len(made.world.documents) * share))
    for name in names:
        known = made.world.documents[name]
        made.world.documents[name] = replace(known, acl=acl(chance, made.world.readers), version=known.version + 1)
    await made.index(names)


async def storm(made: Ground, requests: int, cancel: float = 0.3) -> list[str]:
    """Ask, with bystanders on the same connections; return what was wrong."""
    await asyncio.gather(made.play.run(requests, at_once=12, cancel=cancel, searches=0.5), bystanders(made, 20))
    return made.play.problems


@pytest.mark.parametrize("exact_documents", [500, 5], ids=["exactly", "by the index"])
@pytest.mark.parametrize("seed", [1, 2])
async def test_every_route_shows_what_the_reader_may_see(
    store_schema: StoreSchema, owner: Owner, monkeypatch: pytest.MonkeyPatch, seed: int, exact_documents: int
) -> None:
    """Broken: a reader sees a passage, a document or an answer that is not for him, or misses one that is."""
    monkeypatch.setattr(legs, "EXACT_DOCUMENTS", exact_documents)
    chance = Random(seed)
    async with ground(store_schema, owner, chance) as made:
        for _ in range(3):
            assert await storm(made, 150) == [], f"seed {seed}"
            await change_acls(made, chance)
        assert await storm(made, 100, cancel=0.0) == [], f"seed {seed}"
        done = made.play.done
        assert done["cancelled"] > 30
        assert all(done[kind] > 10 for kind in ("searches", "status", "lookup", "listing", "artifacts")), done


async def open_policies(owner: Owner) -> None:
    """Take the second wall down."""
    for table, condition in OPEN.items():
        await owner.execute(f"ALTER POLICY readable ON {table} USING ({condition})")


@pytest.mark.parametrize("exact_documents", [500, 5], ids=["exactly", "by the index"])
async def test_the_queries_alone_keep_readers_apart(
    store_schema: StoreSchema, owner: Owner, monkeypatch: pytest.MonkeyPatch, exact_documents: int
) -> None:
    """Broken: a query relies on the policies, and a role that is exempt from them would see everything."""
    monkeypatch.setattr(legs, "EXACT_DOCUMENTS", exact_documents)
    async with ground(store_schema, owner, Random(3)) as made:
        await open_policies(owner)
        await made.play.run(250, at_once=8, searches=0.5)
        assert made.play.problems == []


async def test_the_policies_alone_keep_readers_apart(store_schema: StoreSchema, owner: Owner) -> None:
    """Broken: a query that forgets to ask may_read shows what is not for the reader."""
    async with ground(store_schema, owner, Random(4)) as made:
        await owner.execute(READS_ALL)
        await owner.execute(
            "CREATE OR REPLACE FUNCTION may_read_artifact(one artifact) RETURNS boolean LANGUAGE sql STABLE RETURN true"
        )
        assert await storm(made, 250) == []


MUTANTS = [
    ("legs", "nearest", "AND may_read(d.acl)", 5),
    ("legs", "nearest_exact", "AND may_read(d.acl)", 500),
    ("legs", "legs", "AND may_read(d.acl)", 5),
    ("documents", "get", "AND may_read(acl)", 500),
    ("documents", "states", "AND may_read(acl)", 500),
    ("artifacts", "get", "AND may_read_artifact(a)", 500),
]


@pytest.mark.parametrize(("file", "name", "condition", "exact_documents"), MUTANTS, ids=[one[1] for one in MUTANTS])
async def test_a_query_that_forgets_the_reader_is_seen(
    store_schema: StoreSchema,
    owner: Owner,
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    name: str,
    condition: str,
    exact_documents: int,
) -> None:
    """Broken: the comparison is green whatever one query shows, once no policy stands behind it."""
    load = queries.load
    assert condition in load(file)[name]
    mutant = {**load(file), name: load(file)[name].replace(condition, "")}
    for module in (searching, legs, neighbours, artifacts, __import__("headrace.store.documents", fromlist=["load"])):
        monkeypatch.setattr(module, "load", lambda wanted: mutant if wanted == file else load(wanted))
    monkeypatch.setattr(legs, "EXACT_DOCUMENTS", exact_documents)
    if name == "nearest_exact":  # the documents that it gets are chosen by the reader, too
        monkeypatch.setattr(searching, "scope_of", all_documents)
    async with ground(store_schema, owner, Random(5)) as made:
        await open_policies(owner)
        await made.play.run(250, at_once=8, searches=0.5)
        assert made.play.problems


async def all_documents(connection: Any, *_: object, **__: object) -> Any:
    """A scope of all documents, whoever reads."""
    rows = await connection.fetch("SELECT document_id FROM document")
    return legs.Scope(compile_filter(None), [row[0] for row in rows])


async def test_a_list_that_forgets_the_reader_is_seen(store_schema: StoreSchema, owner: Owner) -> None:
    """Broken: the comparison is green if both functions behind the list and the filters show everything."""
    async with ground(store_schema, owner, Random(6)) as made:
        await open_policies(owner)
        await owner.execute(READS_ALL)
        await made.play.run(100, at_once=8, searches=0.0)
        assert any("list differs" in problem for problem in made.play.problems)


async def test_open_policies_and_open_conditions_are_seen(
    store_schema: StoreSchema, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: the comparison is green with both walls down."""
    monkeypatch.setattr(legs, "EXACT_DOCUMENTS", 5)
    async with ground(store_schema, owner, Random(7)) as made:
        await open_policies(owner)
        await owner.execute(READS_ALL)
        await made.play.run(100, at_once=8, searches=1.0)
        assert any("shows" in problem for problem in made.play.problems)


SETTINGS: list[tuple[str, str, Callable[[str], str]]] = [
    ("a reader that stays on its connection", "nobody saw", lambda text: text.replace("$2, true", "$2, false")),
    ("a reader that is not passed on", "", lambda text: text.replace("headrace.reader", "headrace.other")),
    ("every reader reads everything", "shows", lambda text: text.replace("$2, true", "'{*}' || left($2, 0), true")),
]


@pytest.mark.parametrize(("expected", "mutate"), [one[1:] for one in SETTINGS], ids=[one[0] for one in SETTINGS])
async def test_a_wrong_setting_is_seen(
    store_schema: StoreSchema,
    owner: Owner,
    monkeypatch: pytest.MonkeyPatch,
    expected: str,
    mutate: Callable[[str], str],
) -> None:
    """Broken: the comparison is green if the setting leaks to the next user of a connection, or says someone else."""
    async with ground(store_schema, owner, Random(8)) as made:
        monkeypatch.setattr(transactions, "_SEE", mutate(transactions._SEE))
        problems = await storm(made, 150, cancel=0.0)
        assert any(expected in problem for problem in problems)
