"""The client of the embedder's endpoint for queries, over transports that answer as embedders do and do not."""

from __future__ import annotations

import base64
import json
import math
import struct
from dataclasses import replace
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from headrace.errors import DependencyDown, InvalidRecord
from headrace.retrieval.query_vectors import EmbedderAccess, EmbedderClient
from headrace.store.rows import Generation

pytestmark = pytest.mark.unit
GENERATION = Generation("g1", "model", 2)


def base64_of(*numbers: float) -> str:
    """A vector as the embedder writes it."""
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def embedder(answer: Any, **settings: Any) -> tuple[EmbedderClient, list[httpx.Request]]:
    """An embedder client over a transport that answers so."""
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, httpx.Response)
        return answer

    access = EmbedderAccess("http://embedder/", SecretStr("token"), 10.0, "HEADRACE_TEST_EMBEDDER_")
    return EmbedderClient(replace(access, **settings), httpx.MockTransport(handle)), seen


async def test_a_query_is_embedded_once_and_remembered() -> None:
    """If it failed, each repeat of a query would cost a call to the model, or queries be embedded as documents."""
    client, seen = embedder(httpx.Response(200, json={"data": [{"embedding": base64_of(0.5, -1.0), "id": "model"}]}))
    for _ in range(2):
        assert await client.embed("text", GENERATION) == struct.pack("<2f", 0.5, -1.0)
    assert len(seen) == 1
    assert seen[0].url.path == "/v1/embeddings"
    assert seen[0].headers["authorization"] == "Bearer token"
    body = json.loads(seen[0].content)
    assert (body["input"], body["kind"], body["model"]) == (["text"], "query", "model")
    assert body["encoding_format"] == "base64"
    await client.ping(GENERATION)
    assert seen[1].url.path == "/v1/models"
    await client.close()


async def test_each_generation_has_its_own_embedder_and_its_own_memory() -> None:
    """If it failed, a switch of the index would search one model's vectors with another's queries."""
    client, seen = embedder(
        httpx.Response(200, json={"data": [{"embedding": base64_of(1)}]}), url="http://embedder-{generation}:80/"
    )
    for generation in (GENERATION, Generation("g2", "other", 1), GENERATION):
        await client.embed("text", generation)
    assert [(one.url.host, json.loads(one.content)["model"]) for one in seen] == [
        ("embedder-g1", "model"), ("embedder-g2", "other"),
    ]  # fmt: skip
    await client.close()


@pytest.mark.parametrize(
    ("models", "says"),
    [
        ([{"id": "other"}], "the embedder runs other, but generation g1 needs model"),
        ([{}], "does not report which model"),
    ],
)
async def test_an_embedder_of_another_model_is_none(models: list[Any], says: str) -> None:
    """If it failed, a gateway would call itself ready whose every search fails after a switch."""
    client, _ = embedder(httpx.Response(200, json={"data": models}))
    with pytest.raises(DependencyDown, match=says):
        await client.ping(GENERATION)
    await client.close()


async def test_a_cache_of_nothing_keeps_nothing() -> None:
    """If it failed, turning the cache off would fail every query."""
    client, seen = embedder(httpx.Response(200, json={"data": [{"embedding": base64_of(1)}]}), cache=0)
    await client.embed("text", GENERATION)
    await client.embed("text", GENERATION)
    assert len(seen) == 2
    await client.close()


@pytest.mark.parametrize(
    "answer",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout(""),
        httpx.Response(500),
        httpx.Response(401),
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json={"data": []}),
        httpx.Response(404),
        httpx.Response(200, json={"data": [{"embedding": "AAAA"}]}),
        httpx.Response(200, json={"data": [{"embedding": ""}]}),
        httpx.Response(200, json={"data": [{"embedding": [0.5, -1.0]}]}),
        httpx.Response(200, json={"data": [{"embedding": base64_of(0.5, math.nan)}]}),
        httpx.Response(200, json={"data": [{"embedding": base64_of(-math.inf)}]}),
        httpx.Response(200, content=b"\xff\xfe"),
        httpx.Response(200, content=b"[" * 100_000),
        httpx.Response(200, json=[]),
    ],
)
async def test_an_embedder_that_fails_is_a_dependency_that_is_down(answer: Any) -> None:
    """If it failed, an outage of the embedder would be an internal error without a name."""
    client, _ = embedder(answer)
    with pytest.raises(DependencyDown) as caught:
        await client.embed("text", GENERATION)
    assert caught.value.dependency == "embedder"
    await client.close()


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_query_that_the_embedder_refuses_is_the_clients_to_change(status: int) -> None:
    """If it failed, a query that is too long would be reported as an outage, and sent again and again."""
    client, _ = embedder(httpx.Response(status, json={"error": {"message": "too long"}}))
    with pytest.raises(InvalidRecord, match="too long") as caught:
        await client.embed("text", GENERATION)
    assert caught.value.field == "query"
    await client.close()


async def test_the_embedders_retry_after_is_kept() -> None:
    """If it failed, clients would come back before the embedder wants them to."""
    client, _ = embedder(httpx.Response(429, headers={"Retry-After": "9"}))
    with pytest.raises(DependencyDown) as caught:
        await client.embed("text", GENERATION)
    assert caught.value.delay == 9
    await client.close()


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_wrong_address_or_token_names_the_settings(status: int) -> None:
    """Broken: an operator is told that the embedder is down, and not which settings to look at."""
    client, _ = embedder(httpx.Response(status))
    with pytest.raises(DependencyDown) as caught:
        await client.embed("text", GENERATION)
    assert "HEADRACE_TEST_EMBEDDER_URL and HEADRACE_TEST_EMBEDDER_TOKEN" in caught.value.remedy
    await client.close()
