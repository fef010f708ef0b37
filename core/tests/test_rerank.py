"""What a reranker may and may not do to the hits of a search."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from headrace.retrieval.rerank import Reranker, RerankSettings, in_new_order
from headrace.store.search import Hit

pytestmark = pytest.mark.unit

URL = "http://ranker/v1"


def hits(count: int) -> list[Hit]:
    """So many hits in the order of their numbers."""
    return [
        Hit(f"d{n}", "Title", 1, bytes([n] * 16), ("One", "Two"), 0, 1, 0, f"text {n}", 1 / (n + 1), "", {})
        for n in range(count)
    ]


def names(found: Any) -> list[str]:
    """The documents in order."""
    return [hit.document_id for hit in found.hits]


def reranker(answer: Callable[[dict[str, Any]], Any], **settings: Any) -> Reranker:
    """A reranker whose server answers each request so: a body, a response, or an exception."""

    async def handle(request: httpx.Request) -> httpx.Response:
        found = answer(json.loads(request.content) | {"headers": dict(request.headers), "url": str(request.url)})
        found = await found if asyncio.iscoroutine(found) else found
        if isinstance(found, Exception):
            raise found
        return found if isinstance(found, httpx.Response) else httpx.Response(200, json=found)

    return Reranker(RerankSettings(url=URL, **settings), httpx.MockTransport(handle))


def backwards(body: dict[str, Any]) -> dict[str, Any]:
    """The higher the number of the text, the better."""
    scores = [float(text.rpartition(" ")[2]) for text in body["documents"]]
    return {"results": [{"index": place, "relevance_score": score} for place, score in enumerate(scores)]}


async def test_the_best_hits_are_ranked_and_the_others_stay() -> None:
    """Broken: the model's order is not taken, or hits behind the best are lost."""
    asked: list[dict[str, Any]] = []

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        asked.append(body)
        return backwards(body)

    step = reranker(answer, hits=4, slice_hits=3, api_key=SecretStr("secret"), model="m")
    found = await step.rerank("query", hits(6))
    assert names(found) == ["d3", "d2", "d1", "d0", "d4", "d5"]
    assert (found.ranked, found.wanted, found.missing) == (4, 4, "")
    assert [hit.relevance for hit in found.hits] == [3.0, 2.0, 1.0, 0.0, None, None]
    assert [len(body["documents"]) for body in asked] == [3, 1]
    assert asked[0]["documents"][0] == "Title > One > Two\ntext 0"
    assert (asked[0]["url"], asked[0]["query"], asked[0]["model"]) == (f"{URL}/rerank", "query", "m")
    assert asked[0]["headers"]["authorization"] == "Bearer secret"
    await step.close()


async def test_what_is_not_ranked_in_time_keeps_its_place() -> None:
    """Broken: a slow model makes searches slow, or throws away what it had ranked."""
    calls = 0

    async def answer(body: dict[str, Any]) -> dict[str, Any]:
        nonlocal calls
        calls += 1
        if calls > 1:
            await asyncio.sleep(30)
        return backwards(body)

    found = await reranker(answer, timeout_s=0.2, hits=6, slice_hits=3).rerank("query", hits(6))
    assert names(found) == ["d2", "d1", "d0", "d3", "d4", "d5"]
    assert (found.ranked, found.wanted) == (3, 6)
    assert "in time" in found.missing


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(503, text="busy"),
        httpx.Response(200, text="not JSON"),
        httpx.ConnectError("refused"),
        {"results": [{"index": 7, "relevance_score": 1.0}]},
        {"results": [{"index": -1, "relevance_score": 1.0}]},
        {"results": [{"index": 0, "relevance_score": "nan"}]},
        {"results": [{"index": 0}]},
        {"results": None},
        [],
    ],
)
async def test_a_reranker_that_fails_costs_no_hit(answer: Any) -> None:
    """Broken: a search fails, or loses or repeats hits, because of an optional step."""
    found = await reranker(lambda _: answer).rerank("query", hits(3))
    assert names(found) == ["d0", "d1", "d2"]
    assert (found.ranked, found.wanted) == (0, 3)
    assert "failed" in found.missing


@given(st.integers(0, 12), st.dictionaries(st.integers(0, 11), st.floats(-10, 10)))
def test_every_hit_stays_and_those_without_a_score_keep_their_places(count: int, scores: dict[int, float]) -> None:
    """Broken: reranking loses, repeats or moves a hit that it did not rank."""
    before = hits(count)
    scores = {place: score for place, score in scores.items() if place < count}
    after = in_new_order(before, scores)
    assert sorted(hit.document_id for hit in after) == sorted(hit.document_id for hit in before)
    for place, hit in enumerate(before):
        if place not in scores:
            assert after[place] == hit
    ranked = [hit.relevance for hit in after if hit.relevance is not None]
    assert ranked == sorted(scores.values(), reverse=True)


def test_it_is_off_by_default_and_its_settings_are_bounded() -> None:
    """Broken: a search asks a server that nobody named, or one search sends it everything."""
    assert not Reranker(RerankSettings()).enabled
    assert Reranker(RerankSettings()).depth(5) == 5
    assert Reranker(RerankSettings(url=URL)).depth(5) == 20
    assert not Reranker(RerankSettings(url=URL)).for_answers
    assert Reranker(RerankSettings(url=URL, answers=True)).for_answers
    for wrong in ({"hits": 101}, {"timeout_s": 0}, {"timeout_s": 31}, {"slice_hits": 0}):
        with pytest.raises(ValidationError):
            RerankSettings.model_validate(wrong)
