"""Passages for a question: the search that a request asks for."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.access.readers import UNNAMED
from headrace.filters.model import Condition, Filter, Operator
from headrace.payloads import GenerationRequest
from headrace.store.legs import Plan
from headrace.store.rows import Generation
from headrace.store.search import Found
from headrace_generator.passages import Retriever

pytestmark = pytest.mark.unit


class Embedder:
    """Returns one vector for every text."""

    async def embed(self, text: str, generation: Generation) -> bytes:
        """A vector of two dimensions."""
        return bytes(8)

    async def ping(self, generation: Generation) -> None:
        """Answers."""


NOTHING = Found((), more=False, plan=Plan(exact=True, dense=0, lexical=0, documents=None), fit=None)


@pytest.mark.parametrize(
    ("written", "meant"),
    [(None, None), ('{"field": "language", "eq": "ko"}', Condition("language", Operator.EQ, "ko"))],
)
async def test_a_question_searches_what_its_filter_allows(
    monkeypatch: pytest.MonkeyPatch, written: str | None, meant: Filter | None
) -> None:
    """Broken: an answer cites documents that the question excluded."""
    searched: list[Any] = []

    async def search(*_: object, **asked: Any) -> Found:
        searched.append(asked)
        return NOTHING

    async def active() -> Generation:
        return Generation("g1", "model", 2)

    monkeypatch.setattr("headrace_generator.passages.search", search)
    pool: Any = None
    retriever = Retriever(pool, Embedder())
    monkeypatch.setattr(retriever, "_active", active)
    assert await retriever.find("acme", GenerationRequest("How?", top_k=3, filter=written)) == NOTHING
    assert searched == [{"reader": UNNAMED, "top_k": 3, "filters": meant}]
