"""The embedder embeds the random questions of its generation, once."""

from __future__ import annotations

from typing import Any
from unittest.mock import AsyncMock

import numpy as np
import pytest

from headrace.embeddings.random_questions import random_questions
from headrace.errors import DependencyDown, InvalidRecord
from headrace.store.rows import Generation
from headrace_embedder import random_questions as module
from headrace_embedder.provider import EmbedResult
from headrace_embedder.random_questions import embed_random_questions
from headrace_embedder.types import Kind

pytestmark = pytest.mark.unit


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> AsyncMock:
    """What is stored; nothing is, before."""
    remember = AsyncMock()
    monkeypatch.setattr(module, "calibrated", AsyncMock(return_value=False))
    monkeypatch.setattr(module, "remember", remember)
    return remember


def provider(**result: Any) -> AsyncMock:
    """A provider whose vectors are the numbers of the texts from 1."""

    async def embed(texts: list[str], kind: Kind) -> EmbedResult:
        assert kind is Kind.QUERY
        return EmbedResult(np.arange(1, len(texts) + 1, dtype=np.float32)[:, None], **result)

    return AsyncMock(embed=AsyncMock(side_effect=embed))


@pytest.mark.parametrize(
    ("model", "languages"), [("all-MiniLM-L6-v2", {"en"}), ("multilingual-e5-small", {"en", "ko"})]
)
async def test_they_are_embedded_in_the_languages_of_the_model(
    kept: AsyncMock, model: str, languages: set[str]
) -> None:
    """Broken: a model is measured by a language that it cannot read, whose cosines mean nothing."""
    await embed_random_questions(AsyncMock(), Generation("g1", model, 1), provider(errors={1: InvalidRecord("x", "y")}))
    _, generation, vectors = kept.await_args.args  # type: ignore[union-attr]
    assert generation == "g1"
    assert {language for language, _ in vectors} == languages
    assert len(vectors) == len(random_questions(model)) - 1
    assert [np.frombuffer(vector, "<f4")[0] for _, vector in vectors[:2]] == [1.0, 3.0]


async def test_a_server_that_is_down_stops_no_start(kept: AsyncMock) -> None:
    """Broken: an embedder does not start because of an estimate, or keeps half of the questions for good."""
    down = DependencyDown("model", "gone")
    await embed_random_questions(AsyncMock(), Generation("g1", "m", 1), provider(failure=down))
    await embed_random_questions(AsyncMock(), Generation("g1", "m", 1), AsyncMock(embed=AsyncMock(side_effect=down)))
    kept.assert_not_awaited()


async def test_they_are_embedded_once(kept: AsyncMock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: each start of each embedder pays for them."""
    monkeypatch.setattr(module, "calibrated", AsyncMock(return_value=True))
    used = provider()
    await embed_random_questions(AsyncMock(), Generation("g1", "m", 1), used)
    used.embed.assert_not_awaited()
    kept.assert_not_awaited()
