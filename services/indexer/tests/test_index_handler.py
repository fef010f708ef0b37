"""Between the envelope and the store: what the indexer hands over, and what it says afterwards."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

from headrace.envelope import Change, Context, Metadata, Operation, StageRun, Trace
from headrace.errors import DependencyDown, InvalidRecord, PermanentError
from headrace.payloads import Chunk, DocumentFacts, EmbeddedDocument, IndexedDocument
from headrace.store.rows import Generation, IndexResult, Outcome
from headrace_indexer.handler import IndexHandler, index_document, outcome_of

pytestmark = pytest.mark.unit

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GENERATION = Generation("g1", "model", 4)
VECTOR = bytes(16)


def context(operation: Operation = Operation.UPSERT, **changed: Any) -> Context[EmbeddedDocument | None]:
    """An embedded document of two chunks, of which one brings its vector."""
    run = StageRun("embedder", ("embed@1",), "embedder-0", "chunks", 3, 7, 1, NOW, 1500)
    chunks = (
        Chunk(b"a" * 16, ("A",), 0, 3, "one", b"1" * 16),
        Chunk(b"b" * 16, ("A",), 4, 7, "two", b"2" * 16),
    )
    fields: dict[str, Any] = {
        "generation": "g1",
        "model": "model",
        "dimensions": 4,
        "vectors": {(b"1" * 16).hex(): VECTOR},
    } | changed
    payload = EmbeddedDocument(
        DocumentFacts("T", "text/plain", b"h" * 16, attributes={"team": "core"}, acl=("ann",)), chunks, **fields
    )
    return Context(
        Trace("request", "default", 3, NOW, None, (run,)),
        Change("acme", "doc", 9, operation),
        payload if operation is Operation.UPSERT else None,
        Metadata({"chunker.chunks": 2}),
    )


def test_document_carries_vectors_history_and_lineage() -> None:
    """A vector at the wrong chunk, or a lost history, would make the index lie about where it comes from."""
    document = index_document(context(), GENERATION)
    assert [chunk.vector for chunk in document.chunks] == [VECTOR, None]
    assert (document.tenant, document.document_id, document.version, document.deleted) == ("acme", "doc", 9, False)
    assert (document.pipeline_id, document.pipeline_version, document.request_id) == ("default", "3", "request")
    assert document.history[0]["stage"] == "embedder"
    assert document.history[0]["started_at"] == NOW.isoformat()
    assert document.metadata == {"chunker.chunks": 2}


def test_delete_has_no_chunks() -> None:
    """A delete that kept chunks would leave a removed document searchable."""
    document = index_document(context(Operation.DELETE), GENERATION)
    assert document.deleted
    assert document.chunks == ()


@pytest.mark.parametrize("changed", [{"model": "other"}, {"dimensions": 5}, {"generation": "g2"}])
def test_vectors_of_another_model_are_refused(changed: dict[str, Any]) -> None:
    """Vectors of two models in one index would make every distance meaningless."""
    with pytest.raises(InvalidRecord, match="model:"):
        index_document(context(**changed), GENERATION)


def test_upsert_without_a_document_is_refused() -> None:
    """An upsert without a payload would be written as an empty document."""
    broken = context().with_payload(None)
    with pytest.raises(InvalidRecord, match="payload"):
        index_document(broken, GENERATION)


@pytest.mark.parametrize("outcome", [Outcome.INDEXED, Outcome.UNCHANGED, Outcome.SUPERSEDED, Outcome.CONFLICT])
def test_outcome_is_told_with_its_counts(outcome: Outcome) -> None:
    """Whoever reads the topic indexed learns what became of the version."""
    result = outcome_of(context(), IndexResult(outcome, 1, 2, 3), "g1")
    assert isinstance(result, Context)
    assert result.payload == IndexedDocument(outcome.name, "g1", 1, 2, 3)


async def test_a_store_that_goes_away_during_the_start_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A restart of PostgreSQL at the wrong moment would end the indexer instead of pausing it."""
    pool = Mock(acquire=Mock(side_effect=ConnectionRefusedError("refused")))
    monkeypatch.setenv("HEADRACE_STORE_DSN", "postgresql://127.0.0.1/none")
    monkeypatch.setattr("headrace_indexer.handler.create_pool", AsyncMock(return_value=pool))
    with pytest.raises(DependencyDown, match="refused"):
        await IndexHandler().start()


def test_missing_vectors_are_dead_lettered_with_a_remedy() -> None:
    """A document whose vectors are nowhere must not count as indexed."""
    result = outcome_of(context(), IndexResult(Outcome.MISSING_VECTORS, missing=(b"2" * 16,)), "g1")
    assert isinstance(result, PermanentError)
    assert (b"2" * 16).hex() in str(result)
    assert result.remedy
