"""Search against a real PostgreSQL: by vector, by words, under filters, against an exact scan."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

import asyncpg
import numpy as np
import pytest
import pytest_asyncio
from pydantic import SecretStr

from headrace.errors import InvalidRecord
from headrace.lexical import weights
from headrace.lexical.analyzer import Analyzer
from headrace.payloads import DocumentFacts
from headrace.store import statistics
from headrace.store.conditions import Filters
from headrace.store.generations import create_generation
from headrace.store.index import index_batch
from headrace.store.pool import create_pool
from headrace.store.rows import Generation, IndexChunk, IndexDocument
from headrace.store.search import Question, search
from headrace.store.transactions import tenant_transaction
from headrace_testing.postgres import StoreSchema

if TYPE_CHECKING:
    from headrace.store.pool import Pool

    Owner = asyncpg.Connection[asyncpg.Record]

pytestmark = pytest.mark.integration
pytest_plugins = ("headrace_testing.postgres_fixtures",)

DIMENSIONS = 4
ANALYZER = Analyzer()
MATCH = (
    "SELECT m.* FROM weigh_terms('first', $1, $2) AS w, "
    "match_terms('first', w.used, w.chosen, w.query, $2, false, NULL) AS m"
)


@pytest_asyncio.fixture
async def generation(owner: Owner) -> Generation:
    """A generation of four dimensions."""
    return await create_generation(owner, Generation("first", "toy", DIMENSIONS))


def direction(*values: float) -> bytes:
    """A query vector."""
    return np.array(values, dtype="<f4").tobytes()


def question(vector: bytes, text: str, tenant: str = "acme") -> Question:
    """A question with both legs."""
    return Question(vector, weights.query(ANALYZER, tenant, text))


def document(document_id: str, texts: dict[str, bytes], *, tenant: str = "acme", **attributes: str) -> IndexDocument:
    """A document of these texts with their vectors, one after another."""
    chunks, start = [], 0
    for text, vector in texts.items():
        identity = hashlib.sha256(f"{tenant}/{document_id}/{text}".encode()).digest()[:16]
        chunks.append(IndexChunk(identity, ("Top", "Sub"), start, start + len(text), text, identity, vector))
        start += len(text)
    return IndexDocument(
        tenant,
        document_id,
        7,
        DocumentFacts(f"Title {document_id}", "", b"h", source="here", attributes=attributes),
        chunks=tuple(chunks),
    )


async def test_a_hit_says_where_it_stands(pool: Pool, generation: Generation) -> None:
    """A citation could not be opened: wrong place, section, version or score."""
    texts = {"north": direction(1, 0, 0, 0), "한국어 east": direction(1, 1, 0, 0), "south": direction(-1, 0, 0, 0)}
    await index_batch(pool, generation, [document("d", texts, lang="en")])
    hits = await search(pool, "acme", generation, Question(direction(0, 2, 0, 0)), top_k=2)
    hit = hits[0]
    assert hit.text == "한국어 east"
    assert (hit.document_id, hit.title, hit.version, hit.source) == ("d", "Title d", 7, "here")
    assert (hit.section, hit.ordinal, hit.start, hit.end) == (("Top", "Sub"), 1, 5, 13)
    assert hit.attributes == {"lang": "en"}
    assert hit.score == pytest.approx(2**-0.5)
    assert len(hits) == 2


@pytest.mark.parametrize("exact_documents", [500, 0])
async def test_filters_do_not_cost_hits(
    pool: Pool, owner: Owner, generation: Generation, monkeypatch: pytest.MonkeyPatch, exact_documents: int
) -> None:
    """A narrow filter would silently return fewer hits than exist, since HNSW stops before it meets them."""
    monkeypatch.setattr("headrace.store.search.EXACT_DOCUMENTS", exact_documents)  # 0: always through the index
    random = np.random.default_rng(5)
    crowd = [
        document(f"d{n}", {f"text {n} {m}": random.normal(size=4).astype("<f4").tobytes() for m in range(20)}, kind="x")
        for n in range(60)
    ]
    away = {f"far {n}": direction(-1, 0.01 * n, 0, 0) for n in range(5)}
    await index_batch(pool, generation, [*crowd, document("rare", away, kind="y")])
    await owner.execute("ANALYZE")
    query = direction(1, 0, 0, 0)
    assert len(await search(pool, "acme", generation, Question(query), top_k=100)) == 100
    for filters in (Filters(attributes={"kind": "y"}), Filters(("rare",))):
        hits = await search(pool, "acme", generation, Question(query), top_k=10, filters=filters)
        assert [hit.text for hit in hits] == ["far 4", "far 3", "far 2", "far 1", "far 0"]
    both = await search(pool, "acme", generation, Question(query), filters=Filters(("rare", "d1"), {"kind": "x"}))
    assert {hit.document_id for hit in both} == {"d1"}
    assert await search(pool, "acme", generation, Question(query), filters=Filters(())) == []


async def test_a_small_tenant_beside_a_large_one_gets_all_its_hits(pool: Pool, generation: Generation) -> None:
    """The index is shared: a large tenant's nearer rows would crowd a small one's out."""
    random = np.random.default_rng(6)
    large = [
        document(
            f"d{n}",
            {f"{n} {m}": (random.normal(size=4) * 0.1 + [1, 0, 0, 0]).astype("<f4").tobytes() for m in range(50)},
        )
        for n in range(20)
    ]
    small = document("s", {f"s{n}": direction(-1, n, 0, 0) for n in range(3)}, tenant="small")
    await index_batch(pool, generation, [*large, small])
    hits = await search(pool, "small", generation, Question(direction(1, 0, 0, 0)), top_k=10)
    assert sorted(hit.text for hit in hits) == ["s0", "s1", "s2"]


async def test_an_index_that_gives_up_is_helped_out(
    store_schema: StoreSchema,
    pool: Pool,
    owner: Owner,
    generation: Generation,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """HNSW stops after hnsw.max_scan_tuples rows: what lies beyond would silently not be found."""
    random = np.random.default_rng(8)
    near = {f"near {n}": (random.normal(size=4) * 0.1 + [1, 0, 0, 0]).astype("<f4").tobytes() for n in range(2000)}
    far = {f"far {n}": direction(-1, n, 0, 0) for n in range(3)}
    await index_batch(pool, generation, [document("n", near, kind="x"), document("f", far, kind="y")])
    await owner.execute("ANALYZE")
    dsn = SecretStr(f"{store_schema.server.runtime_dsn}&hnsw.max_scan_tuples=1")
    hasty = await create_pool(store_schema.settings(dsn=dsn))
    assert await hasty.fetchval("SHOW hnsw.max_scan_tuples") == "1"
    monkeypatch.setattr("headrace.store.search.EXACT_DOCUMENTS", 0)
    hits = await search(
        hasty, "acme", generation, Question(direction(1, 0, 0, 0)), filters=Filters(attributes={"kind": "y"})
    )
    await hasty.close()
    assert sorted(hit.text for hit in hits) == ["far 0", "far 1", "far 2"]


async def test_index_finds_what_an_exact_scan_finds(pool: Pool, owner: Owner, generation: Generation) -> None:
    """Approximate search would lose more than one hit in twenty (recall at 10, averaged over 20 queries)."""
    random = np.random.default_rng(7)
    matrix = random.normal(size=(2000, DIMENSIONS)).astype("<f4")
    documents = [document(f"d{n}", {f"{n} {m}": matrix[n * 100 + m].tobytes() for m in range(100)}) for n in range(20)]
    await index_batch(pool, generation, documents)
    await owner.execute("ANALYZE")
    unit = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    found = 0
    for query in random.normal(size=(20, DIMENSIONS)).astype("<f4"):
        nearest = np.argsort(-(unit @ query))[:10]
        expected = {f"{n // 100} {n % 100}" for n in nearest}
        found += len(expected & {hit.text for hit in await search(pool, "acme", generation, Question(query.tobytes()))})
    assert found >= 190


async def test_words_lift_what_vectors_miss(pool: Pool, generation: Generation) -> None:
    """A rare name in the question would not find the only chunk that holds it."""
    texts = {f"filler number {n}": direction(1, 0.001 * n, 0, 0) for n in range(60)}
    await index_batch(pool, generation, [document("d", texts | {"About Zanzibar's harbours": direction(-1, 0, 0, 0)})])
    query = direction(1, 0, 0, 0)
    plain = await search(pool, "acme", generation, Question(query), top_k=5)
    assert all("Zanzibar" not in hit.text for hit in plain)
    hybrid = await search(pool, "acme", generation, question(query, "what is a harbour in Zanzibar?"), top_k=5)
    assert any("Zanzibar" in hit.text for hit in hybrid)
    assert [hit.score for hit in hybrid] == sorted((hit.score for hit in hybrid), reverse=True)
    filtered = await search(pool, "acme", generation, question(query, "Zanzibar"), filters=Filters(("other",)))
    assert filtered == []


@pytest.mark.parametrize(
    "text", ["", "the of", "\0", "'; DROP TABLE chunk; --", "a' | b \\ & !(", "한국어", "x" * 5000]
)
async def test_any_query_text_is_data(pool: Pool, generation: Generation, text: str) -> None:
    """A question could be read as SQL or as a search operator, or break the search."""
    await index_batch(pool, generation, [document("d", {"north": direction(1, 0, 0, 0)})])
    hits = await search(pool, "acme", generation, question(direction(1, 0, 0, 0), text))
    assert [hit.text for hit in hits] == ["north"]


async def test_search_by_terms_uses_its_index(pool: Pool, owner: Owner, generation: Generation) -> None:
    """Broken: row-level security keeps the index of terms out of use, and each search reads every chunk."""
    texts = {f"filler number {n}": direction(1, 0, 0, 0) for n in range(2000)}
    await index_batch(pool, generation, [document("d", texts | {"Zanzibar": direction(1, 0, 0, 0)})])
    await owner.execute("VACUUM ANALYZE lexical_first")
    read = "SELECT pg_stat_get_xact_tuples_returned('lexical_first'::regclass)"
    async with tenant_transaction(pool, "acme") as connection:
        before = await connection.fetchval(read)
        rows = await connection.fetch(MATCH, list(weights.query(ANALYZER, "acme", "Zanzibar")), 5000)
        returned = await connection.fetchval(read) - before
    assert len(rows) == 1
    assert returned < 100


async def test_the_rarest_terms_find_candidates_and_all_terms_rank_them(pool: Pool, generation: Generation) -> None:
    """Broken: a question of common words reads the whole index, or a rare word counts no more than a common one."""
    texts = {f"common words of text number {n}": direction(1, 0, 0, 0) for n in range(300)}
    texts |= {"common Zanzibar": direction(1, 0, 0, 0), "Zanzibar words number": direction(1, 0, 0, 0)}
    await index_batch(pool, generation, [document("d", texts)])
    assert await statistics.refresh(pool, "acme", generation) == 302
    terms = weights.query(ANALYZER, "acme", "common words number Zanzibar unknown")
    async with tenant_transaction(pool, "acme") as connection:
        found = await connection.fetch(MATCH, list(terms), 3)
        everything = await connection.fetch(MATCH, list(terms), 5000)
        chosen = await connection.fetchrow("SELECT * FROM weigh_terms('first', $1, 3)", list(terms))
    assert chosen is not None
    assert set(chosen["chosen"]) == set(weights.query(ANALYZER, "acme", "Zanzibar unknown"))
    assert (len(found), len(everything)) == (2, 302)
    hits = await search(pool, "acme", generation, Question(terms=terms), top_k=2)
    assert {hit.text for hit in hits} == {"Zanzibar words number", "common Zanzibar"}


async def test_frequencies_of_a_sample_are_those_of_all(
    pool: Pool, generation: Generation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: a tenant with more passages than the sample gets frequencies of the sample's size, or biased ones."""
    texts = {f"often{' seldom' * (n % 10 == 0)} number{n}": direction(1, 0, 0, 0) for n in range(1000)}
    await index_batch(pool, generation, [document("d", texts)])
    monkeypatch.setattr(statistics, "SAMPLED_PASSAGES", 200)
    assert await statistics.refresh(pool, "acme", generation, draw=Random(3)) == 1000
    assert await statistics.counted(pool, "acme", generation) == 1000
    often, seldom = (next(iter(weights.query(ANALYZER, "acme", word))) for word in ("often", "seldom"))
    async with tenant_transaction(pool, "acme") as connection:
        rows = await connection.fetch("SELECT term, passages FROM term_frequency")
    known = {row["term"]: row["passages"] for row in rows}
    assert known[often] == 1000
    assert 50 < known[seldom] < 150
    assert len(known) < 10  # a number that only one passage has needs no row


async def test_a_title_that_changes_is_found_and_moves_no_vector(
    pool: Pool, owner: Owner, generation: Generation
) -> None:
    """Broken: a new title is not found, the old one is, or it costs a write into the vectors' graph."""
    one = document("d", {"north": direction(1, 0, 0, 0)})
    await index_batch(pool, generation, [one])
    before = await owner.fetchval("SELECT xmin::text FROM embedding_first")
    other = replace(one, version=8, facts=replace(one.facts, title="Zanzibar", content_hash=b"i"))
    await index_batch(pool, generation, [other])
    assert await owner.fetchval("SELECT xmin::text FROM embedding_first") == before
    for word, hits in (("Zanzibar", 1), ("Title", 0), ("Sub", 1), ("north", 1)):
        terms = weights.query(ANALYZER, "acme", word)
        assert len(await search(pool, "acme", generation, Question(terms=terms))) == hits


async def test_a_terms_rarity_is_that_of_bm25(pool: Pool, generation: Generation) -> None:
    """Broken: rare and common words weigh otherwise than in the published ranking, or less than nothing."""
    texts = {f"every{' some' * (n % 4 == 0)} text {n}": direction(1, 0, 0, 0) for n in range(40)}
    await index_batch(pool, generation, [document("d", texts)])
    await statistics.refresh(pool, "acme", generation)
    terms = weights.query(ANALYZER, "acme", "every some unknown")
    async with tenant_transaction(pool, "acme") as connection:
        found = await connection.fetchval("SELECT query FROM weigh_terms('first', $1, 5000)", list(terms))
    rarities = {terms[number]: rarity for number, rarity in zip(found.indices(), found.values(), strict=True)}
    for term, passages in (("everi", 40), ("some", 10), ("unknown", 1)):
        assert rarities[term] == pytest.approx(math.log1p((40 - passages + 0.5) / (passages + 0.5)), rel=1e-5)


async def test_a_second_generation_is_counted_too(pool: Pool, owner: Owner, generation: Generation) -> None:
    """Broken: a new generation has lexical vectors, but no word is rarer than another, for its chunks exist already."""
    other = await create_generation(owner, Generation("second", "toy", DIMENSIONS))
    one = document("d", {f"text {n}": direction(1, 0, 0, 0) for n in range(5)})
    (first,) = await index_batch(pool, generation, [one])
    (second,) = await index_batch(pool, other, [one])
    (again,) = await index_batch(pool, other, [one])
    assert (first.weighed, second.weighed, again.weighed) == (5, 5, 0)
    assert second.inserted == 0


async def test_a_wide_filter_costs_no_lexical_hits(
    pool: Pool, generation: Generation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: the rarest terms choose candidates outside the filter alone, and what it lets through is not found."""
    monkeypatch.setattr("headrace.store.search.CANDIDATES", 20)
    monkeypatch.setattr("headrace.store.search.EXACT_DOCUMENTS", 0)
    away = {f"gate common {n}": direction(1, 0, 0, 0) for n in range(30)}
    inside = {f"common {n}": direction(1, 0, 0, 0) for n in range(40)}
    await index_batch(pool, generation, [document("x", away, kind="x"), document("y", inside, kind="y")])
    await statistics.refresh(pool, "acme", generation)
    asked = Question(terms=weights.query(ANALYZER, "acme", "gate common"))
    hits = await search(pool, "acme", generation, asked, filters=Filters(attributes={"kind": "y"}))
    assert len(hits) == 10
    assert {hit.document_id for hit in hits} == {"y"}


async def test_a_deletion_leaves_no_term(pool: Pool, owner: Owner, generation: Generation) -> None:
    """Broken: the terms of deleted documents stay in the index and are counted."""
    one = document("d", {"north": direction(1, 0, 0, 0), "?!": direction(0, 1, 0, 0)})
    await index_batch(pool, generation, [one])
    assert await owner.fetchval("SELECT count(*) FROM lexical_first") == 2
    await index_batch(pool, generation, [replace(one, version=8, deleted=True, chunks=())])
    assert await owner.fetchval("SELECT count(*) FROM lexical_first") == 0


async def test_the_similarity_of_unrelated_passages_is_estimated(pool: Pool, generation: Generation) -> None:
    """Broken: scores of meaning are scaled by a mean that counts each passage with itself, or by vectors' lengths."""
    texts = {"a": direction(3, 0, 0, 0), "b": direction(0, 2, 0, 0), "c": direction(1, 1, 0, 0)}
    alone = document("alone", {"x": direction(1, 0, 0, 0)}, tenant="t")
    await index_batch(pool, generation, [document("d", texts), alone])
    for tenant, expected in (("acme", 2 * 2**-0.5 / 3), ("t", 0.0), ("nobody", 0.0)):
        await statistics.refresh(pool, tenant, generation)
        async with tenant_transaction(pool, tenant) as connection:
            found = await connection.fetchval("SELECT unrelated FROM search_statistics")
        assert found == pytest.approx(expected, abs=1e-6)


async def test_a_hit_explains_its_score(pool: Pool, generation: Generation) -> None:
    """Broken: an explanation names no reason, or the shares of its terms do not add up to the score."""
    texts = {"gate of the canal": direction(1, 0, 0, 0), "weir": direction(0, 1, 0, 0)}
    await index_batch(pool, generation, [document("d", texts)])
    asked = replace(question(direction(1, 0, 0, 0), "which gates of canals?"), explain=True)
    first, second = await search(pool, "acme", generation, asked)
    for hit, dense, terms in ((first, 1.0, {"gate", "of", "canal"}), (second, 0.0, set())):
        assert hit.explanation is not None
        assert hit.explanation.dense == pytest.approx(dense)
        assert set(hit.explanation.terms) == terms
        assert (hit.explanation.lexical or 0.0) == pytest.approx(sum(hit.explanation.terms.values()), rel=1e-5)
        assert (hit.explanation.lexical is None) == (not terms)
    (unexplained, _) = await search(pool, "acme", generation, replace(asked, explain=False))
    assert unexplained.explanation is None


@pytest.mark.parametrize("top_k", [0, 101])
async def test_bad_queries_are_refused_by_field(pool: Pool, generation: Generation, top_k: int) -> None:
    """A question would fail inside PostgreSQL, or read the whole index."""
    with pytest.raises(InvalidRecord, match="top_k"):
        await search(pool, "acme", generation, Question(direction(1, 0, 0, 0)), top_k=top_k)
    with pytest.raises(InvalidRecord, match="query_vector: has 3 dimensions; the generation needs 4"):
        await search(pool, "acme", generation, Question(direction(1, 0, 0)))
    with pytest.raises(ValueError, match="tenant"):
        await search(pool, "", generation, Question(direction(1, 0, 0, 0)))


async def test_a_section_that_stands_in_1500_documents_hides_nothing(
    pool: Pool, owner: Owner, generation: Generation
) -> None:
    """Broken: equal points fill a region of the graph, and passages near it or behind it are not reached."""
    random = np.random.default_rng(11)
    shared = direction(1, 0, 0, 0)
    own = random.normal(size=(1500, DIMENSIONS)).astype("<f4")
    own[:300] = own[:300] * 0.05 + np.frombuffer(shared, "<f4")  # some close to the shared text
    documents = [document(f"d{n}", {"imprint 발행 정보": shared, f"own {n}": own[n].tobytes()}) for n in range(1500)]
    same = [replace(one.chunks[0], text_hash=b"imprint") for one in documents]
    documents = [replace(one, chunks=(imprint, one.chunks[1])) for one, imprint in zip(documents, same, strict=True)]
    for start in range(0, 1500, 100):
        await index_batch(pool, generation, documents[start : start + 100])
    await owner.execute("ANALYZE")
    async with owner.transaction():
        assert await owner.fetchval("SELECT count(*) FROM vector_first") == 1501
    lost = []
    for n in range(1500):
        hits = await search(pool, "acme", generation, Question(own[n].tobytes()), top_k=5)
        if f"own {n}" not in {hit.text for hit in hits}:
            lost.append(n)
    assert lost == []
    assert len({hit.document_id for hit in await search(pool, "acme", generation, Question(shared), top_k=100)}) == 100


@pytest.mark.parametrize("storage", ["vector", "halfvec", "binary"])
@pytest.mark.parametrize("distance", ["cosine", "l2", "inner_product"])
async def test_each_storage_finds_what_an_exact_scan_finds(
    pool: Pool, owner: Owner, storage: str, distance: str
) -> None:
    """Broken: an operator, a cast or an order is wrong for one way of keeping vectors, and its results are noise."""
    dimensions = 64
    generation = await create_generation(owner, Generation(storage, "toy", dimensions, distance, storage=storage))
    random = np.random.default_rng(12)
    matrix = random.normal(size=(1500, dimensions)).astype("<f4")
    documents = [document(f"d{n}", {f"{n} {m}": matrix[n * 50 + m].tobytes() for m in range(50)}) for n in range(30)]
    for one in documents:
        await index_batch(pool, generation, [one])
    await owner.execute("ANALYZE")
    found = 0
    for query in random.normal(size=(20, dimensions)).astype("<f4"):
        if distance == "l2":
            order = np.argsort(np.linalg.norm(matrix - query, axis=1))
        else:
            lengths = np.linalg.norm(matrix, axis=1) if distance == "cosine" else 1.0
            order = np.argsort(-(matrix @ query) / lengths)
        expected = {f"{n // 50} {n % 50}" for n in order[:10]}
        found += len(expected & {hit.text for hit in await search(pool, "acme", generation, Question(query.tobytes()))})
    assert found >= (190 if storage != "binary" else 100)  # 64 bits tell little of random directions
