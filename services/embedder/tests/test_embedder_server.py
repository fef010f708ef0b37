"""The internal endpoint for queries, over the hashing provider."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
import pytest
from pydantic import SecretStr

from headrace.errors import DependencyDown, InvalidRecord
from headrace_embedder import server
from headrace_embedder.hashing import HashingProvider
from headrace_embedder.provider import EmbedResult
from headrace_embedder.server import QueryEmbedder, create_app
from headrace_embedder.types import Kind

pytestmark = pytest.mark.unit


class Recording(HashingProvider):
    """Notes what is embedded, and fails when told to."""

    def __init__(self) -> None:
        super().__init__(8)
        self.calls: list[tuple[list[str], Kind]] = []

    async def embed(self, texts: Sequence[str], kind: Kind, lengths: Sequence[int] | None = None) -> EmbedResult:
        self.calls.append((list(texts), kind))
        if "down" in texts:
            raise DependencyDown("embedding provider", "it is down", delay=2.5)
        result = await super().embed(texts, kind, lengths)
        errors = {index: InvalidRecord("vector", "bad") for index, text in enumerate(texts) if text == "bad"}
        return EmbedResult(result.vectors, errors, result.tokens)


async def ask(
    provider: HashingProvider,
    body: Any = None,
    *,
    token: str | None = None,
    path: str = "/v1/embeddings",
    **request: Any,
) -> httpx.Response:
    """Send a request to a fresh application."""
    app = create_app(provider, token=SecretStr(token) if token else None)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://embedder") as client:
        if body is None and not request:
            return await client.get(path)
        return await client.post(path, json=body, **request) if body is not None else await client.post(path, **request)


async def test_vectors_come_in_order_as_numbers_and_as_base64() -> None:
    """Queries would be compared by another text's vector, or by garbage."""
    texts = ["one text", "another", "one text"]
    expected = (await HashingProvider(8).embed(texts, Kind.QUERY)).vectors
    provider = Recording()
    floats = (await ask(provider, {"input": texts, "model": "hashing-8"})).json()
    assert [item["index"] for item in floats["data"]] == [0, 1, 2]
    np.testing.assert_array_equal(np.array([item["embedding"] for item in floats["data"]], np.float32), expected)
    assert floats["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    packed = (await ask(provider, {"input": texts, "encoding_format": "base64"})).json()
    for item, row in zip(packed["data"], expected, strict=True):
        np.testing.assert_array_equal(np.frombuffer(base64.b64decode(item["embedding"]), "<f4"), row)
    assert provider.calls[0] == (["one text", "another"], Kind.QUERY)


async def test_one_text_and_the_kind_of_a_passage_are_taken() -> None:
    """A client of OpenAI's sends a string; a model with prompts needs the kind."""
    provider = Recording()
    answer = await ask(provider, {"input": "text", "kind": "passage", "model": "default"})
    assert len(answer.json()["data"]) == 1
    assert provider.calls == [(["text"], Kind.PASSAGE)]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"input": []}, 400, "input"),
        ({"input": ["x"] * 257}, 400, "256"),
        ({"input": "x" * 32_769}, 400, "32768"),
        ({"input": [1, 2]}, 400, "input"),
        ({"input": "x", "encoding_format": "int8"}, 400, "encoding_format"),
        ({"input": "x", "kind": "poem"}, 400, "kind"),
        ({}, 400, "input"),
        ({"input": "x", "model": "gpt"}, 404, "gpt"),
        ({"input": ["good", "bad"]}, 422, "bad"),
        ({"input": "down"}, 503, "it is down"),
    ],
)
async def test_what_is_refused_says_why_in_the_form_of_openai(body: Any, status: int, words: str) -> None:
    """A client could not show what is wrong, or unbounded input would fill the memory."""
    answer = await ask(Recording(), body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert words in error["message"]
    assert error["type"] == ("server_error" if status == 503 else "invalid_request_error")
    assert answer.headers.get("retry-after") == ("3" if status == 503 else None)


async def test_broken_json_and_lone_surrogates_are_refused() -> None:
    """An odd body would end in a 500 without a reason."""
    for content in (b"{", b'{"input": "\\ud800"}', b"\xff"):
        answer = await ask(Recording(), content=content, headers={"content-type": "application/json"})
        assert answer.status_code == 400, content
        assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_without_the_token_nothing_is_read_and_nothing_embedded() -> None:
    """Anyone in the network could use the model."""
    provider = Recording()
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Bearer"}):
        answer = await ask(provider, {"input": "x"}, token="right", headers=headers)
        assert answer.status_code == 401
        assert "token" in answer.json()["error"]["message"]
    assert (await ask(provider, token="right", path="/v1/models")).status_code == 401
    assert not provider.calls
    good = await ask(provider, {"input": "x"}, token="right", headers={"authorization": "Bearer right"})
    assert good.status_code == 200


async def test_a_body_of_any_size_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """One request could fill the memory of the process that embeds the stream."""
    monkeypatch.setattr(server, "MOST_BYTES", 100)
    assert (await ask(Recording(), {"input": "x" * 200})).status_code == 413

    async def endless() -> Any:
        yield b"{"

    assert (await ask(Recording(), content=endless())).status_code == 411


async def test_models_readiness_and_unknown_paths() -> None:
    """Clients that list models, the gateway's ping and a mistyped path would get what they cannot read."""
    assert (await ask(Recording(), path="/v1/models")).json()["data"][0]["id"] == "hashing-8"
    assert (await ask(Recording(), path="/readyz", token="right")).status_code == 200
    missing = await ask(Recording(), path="/v1/other")
    assert missing.status_code == 404
    assert missing.json()["error"]["message"] == "Not Found"


async def test_repeated_queries_are_computed_once_and_the_memory_of_them_is_bounded() -> None:
    """A popular query would cost a model call each time, or a stream of queries would fill the memory."""
    provider = Recording()
    queries = QueryEmbedder(provider, capacity=2)
    await queries.embed(["a"], Kind.QUERY)
    await queries.embed(["b"], Kind.QUERY)
    (again,), tokens = await queries.embed(["a"], Kind.QUERY)
    assert tokens == 0
    np.testing.assert_array_equal(again, (await HashingProvider(8).embed(["a"], Kind.QUERY)).vectors[0])
    await queries.embed(["c"], Kind.QUERY)
    await queries.embed(["a"], Kind.QUERY)
    await queries.embed(["a"], Kind.PASSAGE)
    await queries.embed(["b"], Kind.QUERY)
    assert provider.calls == [
        (["a"], Kind.QUERY), (["b"], Kind.QUERY), (["c"], Kind.QUERY), (["a"], Kind.PASSAGE), (["b"], Kind.QUERY),
    ]  # fmt: skip
