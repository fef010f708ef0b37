"""The fence and the plan of a batch: pure, against a fold written down a second time."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.store.fence import Decision, Fence, advance, decide
from headrace.store.plan import Plan, Stored, Vectors, by_document, carried_vectors, plan_tenant
from headrace.store.rows import Generation, IndexChunk, IndexDocument, IndexResult, Outcome

pytestmark = pytest.mark.unit

GENERATION = Generation("first", "toy", 2)
HERE = frozenset({"first"})


def fence(version: int, content: str = "", *, deleted: bool = False) -> Fence:
    """A fence whose hash is its content; each version of a source has one content."""
    return Fence(version, (content or f"v{version}").encode(), deleted, HERE)


def digest(text: str) -> bytes:
    """A stand-in for the chunker's hashes."""
    return hashlib.sha256(text.encode()).digest()[:16]


def document(version: int, texts: tuple[str, ...], *, vectors: bool = True, name: str = "d") -> IndexDocument:
    """A document of these texts; without texts it is a deletion."""
    chunks = tuple(
        IndexChunk(digest(name + text), (), n, n + 1, text, digest(text), b"\0" * 8 if vectors else None)
        for n, text in enumerate(texts)
    )
    return IndexDocument("acme", name, version, digest("".join(texts)), deleted=not texts, chunks=chunks)


versions = st.lists(st.integers(0, 8), min_size=1, max_size=20)


@given(versions, st.sets(st.integers(0, 8)))
def test_any_order_ends_in_the_highest_version(arrivals: list[int], deletions: set[int]) -> None:
    """A late or repeated version would overwrite a newer one, or bring a deleted document back."""
    stored: Fence | None = None
    for version in arrivals:
        incoming = fence(version, deleted=version in deletions)
        decision = decide(stored, incoming)
        before = stored
        if decision in {Decision.NEW, Decision.ADVANCE}:
            stored = advance(stored, incoming)
        assert before is None or stored is None or stored.version >= before.version
        assert (decision is Decision.UNCHANGED) == (before == incoming)
    assert stored == fence(max(arrivals), deleted=max(arrivals) in deletions)


def test_an_older_upsert_after_a_deletion_stays_out() -> None:
    """A deleted document would rise again from a retry topic."""
    assert decide(fence(5, deleted=True), fence(4)) is Decision.SUPERSEDED
    assert decide(fence(5, deleted=True), fence(6)) is Decision.ADVANCE


@pytest.mark.parametrize("incoming", [fence(5, "other"), fence(5, deleted=True)])
def test_same_version_of_another_content_is_a_conflict(incoming: Fence) -> None:
    """A source that gives two contents one version would go unnoticed."""
    assert decide(fence(5), incoming) is Decision.CONFLICT


def test_another_generation_reindexes_the_same_version() -> None:
    """A rebuild into a new generation would be taken for a replay and stay empty."""
    elsewhere = Fence(5, b"v5", deleted=False, generations=frozenset({"second"}))
    assert decide(elsewhere, fence(5)) is Decision.REINDEX
    assert advance(elsewhere, fence(5)).generations == {"first", "second"}
    assert advance(elsewhere, fence(6)).generations == {"first"}
    gone = Fence(5, b"v5", deleted=True, generations=frozenset({"second"}))
    assert decide(gone, fence(5, deleted=True)) is Decision.UNCHANGED


class Table:
    """A store in memory that carries plans out, as the SQL does."""

    def __init__(self) -> None:
        self.stored: dict[str, Stored] = {}
        self.embedded: dict[bytes, bytes] = {}

    def run(self, batch: list[IndexDocument]) -> Plan:
        """Plan a batch and carry it out, checking that rows come and go once."""
        groups = by_document(list(enumerate(batch)))
        vectors = Vectors(dict(self.embedded), carried_vectors(enumerate(batch)))
        plan = plan_tenant(groups, self.stored, GENERATION, vectors)
        for write in plan.writes:
            name = write.document.document_id
            before = self.stored[name].chunk_ids if name in self.stored else frozenset()
            inserted = {chunk.chunk_id for chunk in write.inserted}
            assert set(write.gone) <= before
            assert not inserted & before
            assert self.embedded.keys() >= set(write.outdated)
            for chunk_id in (*write.gone, *write.outdated):
                self.embedded.pop(chunk_id, None)
            assert not self.embedded.keys() & {chunk.chunk_id for chunk in write.embedded}
            self.embedded |= {chunk.chunk_id: chunk.key for chunk in write.embedded}
            self.stored[name] = Stored(write.fence, before - set(write.gone) | inserted)
        return plan


documents = st.tuples(st.sampled_from("abc"), st.integers(0, 12))


@given(st.lists(documents, min_size=1, max_size=40), st.integers(1, 10), st.integers(0, 2**32))
def test_batches_in_any_order_equal_the_fold(events: list[tuple[str, int]], size: int, seed: int) -> None:
    """The store would depend on how the stream was cut into batches, leave orphans, or lack a vector."""

    def event(name: str, version: int) -> IndexDocument:
        generator = random.Random(f"{seed}/{name}/{version}")
        texts = tuple(str(generator.randrange(6)) for _ in range(generator.randrange(4)))
        return document(version, texts, name=name)

    table = Table()
    batch = [event(name, version) for name, version in events]
    for n in range(0, len(batch), size):
        plan = table.run(batch[n : n + size])
        assert plan.results.keys() == set(range(len(batch[n : n + size])))
    newest = {name: max(version for other, version in events if other == name) for name, _ in events}
    expected = {name: {c.chunk_id for c in event(name, version).chunks} for name, version in newest.items()}
    assert {name: set(stored.chunk_ids) for name, stored in table.stored.items()} == expected
    assert {name: stored.fence.version for name, stored in table.stored.items()} == newest
    assert table.embedded.keys() == set().union(*expected.values())
    assert not table.run(batch).writes, "a replay would write"


def test_a_version_without_vectors_gives_way_to_the_one_before_it() -> None:
    """One document that lacks a vector would hold back, or be counted as, its writable predecessor."""
    table = Table()
    plan = table.run([document(1, ("a",)), document(2, ("a", "b"), vectors=False), document(2, ("b",), vectors=False)])
    missing = IndexResult(Outcome.MISSING_VECTORS, missing=(digest("b"),))
    assert [plan.results[n] for n in range(3)] == [IndexResult(Outcome.INDEXED, inserted=1), missing, missing]
    assert table.stored["d"].fence.version == 1


def test_repeated_text_is_one_row_at_two_places() -> None:
    """A text that stands twice in a section would break the key of its chunk."""
    plan = Table().run([document(1, ("a", "a", "b"))])
    assert plan.results[0] == IndexResult(Outcome.INDEXED, inserted=2)
    assert len(plan.writes[0].embedded) == 2
