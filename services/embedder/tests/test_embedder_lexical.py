"""Lexical vectors of documents in the embedder."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from headrace.envelope import Change, Context, Operation, Trace
from headrace.lexical import weights
from headrace.lexical.analyzer import Analyzer
from headrace.payloads import Chunk, ChunkedDocument, DocumentFacts
from headrace_embedder.lexical import LexicalVectors

pytestmark = pytest.mark.unit


def document(tenant: str, title: str, *texts: str) -> Context[ChunkedDocument]:
    """A document with one section."""
    chunks = tuple(Chunk(bytes(16), ("Locks",), 0, len(text), text, text.encode().ljust(16)) for text in texts)
    change = Change(tenant, "d", 1, Operation.UPSERT)
    facts = DocumentFacts(title, "text/plain", b"h")
    return Context(Trace("r", "p", 1, datetime.now(UTC)), change, ChunkedDocument(facts, chunks))


def test_a_chunk_has_the_terms_of_title_section_and_text() -> None:
    """Broken: a question that names the title or the section finds none of its chunks."""
    ((first, second),) = LexicalVectors("words-1/english").of([document("acme", "Canals", "gates", "Tore")])
    assert set(weights.unpack(first)) == set(weights.query(Analyzer(), "acme", "canal lock gate"))
    assert set(weights.unpack(second)) == set(weights.query(Analyzer(), "acme", "canal lock Tore"))


def test_what_is_cached_is_of_the_same_tenant_title_and_section(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: an edit analyzes a whole document again, or a chunk gets the terms of another title or tenant."""
    counted: list[str] = []
    real = weights.passage

    def passage(analyzer: Analyzer, tenant: str, texts: tuple[str, ...]) -> dict[int, float]:
        counted.append(texts[-1])
        return real(analyzer, tenant, texts)

    monkeypatch.setattr(weights, "passage", passage)
    vectors = LexicalVectors("words-1/english")
    ((one, _),) = vectors.of([document("acme", "Canals", "gates", "sluices")])
    ((again, _),) = vectors.of([document("acme", "Canals", "gates", "weirs")])
    assert counted == ["gates", "sluices", "weirs"]
    assert one == again
    others = vectors.of([document("acme", "Rivers", "gates"), document("globex", "Canals", "gates")])
    assert len({one, *(vector for (vector,) in others)}) == 3
