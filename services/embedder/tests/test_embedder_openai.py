"""The OpenAI-compatible provider against answers of a pretended server."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from pydantic import SecretStr
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from headrace.codec.retry_after import retry_after
from headrace.embeddings.models import PROVIDERS, SERVED
from headrace.embeddings.preparation import OverLong, Preparation
from headrace.errors import ConfigurationError, DependencyDown, InvalidRecord
from headrace_embedder.hashing import HashingProvider
from headrace_embedder.local_model import SentenceTransformersProvider
from headrace_embedder.model2vec_model import Model2VecProvider
from headrace_embedder.openai_compatible import OpenAICompatibleProvider
from headrace_embedder.over_long import embed_passages, left_out
from headrace_embedder.provider import EmbedResult
from headrace_embedder.settings import EmbedderSettings
from headrace_embedder.types import Kind, Vectors

pytestmark = pytest.mark.unit

KEY = "sk-very-secret"
Answer = Callable[[httpx.Request], httpx.Response]


def vector(text: str) -> list[float]:
    """Return the vector that the pretended server has for a text."""
    return [float(len(text)), 1.0]


def answered(request: httpx.Request, change: Callable[[list[Any]], list[Any]] = lambda data: data) -> httpx.Response:
    """Answer as a good server does, after a change of the data."""
    texts = json.loads(request.content)["input"]
    data = [{"index": index, "embedding": vector(text)} for index, text in enumerate(texts)]
    return httpx.Response(200, json={"data": change(data), "usage": {"prompt_tokens": 3 * len(texts)}})


async def embed(answer: Answer, texts: list[str], kind: Kind = Kind.PASSAGE, **settings: Any) -> EmbedResult:
    """Embed the texts with a server that answers so."""
    chosen = EmbedderSettings(
        provider="openai-compatible", base_url="http://127.0.0.1:9/v1", model="m", dimensions=2,
        api_key=SecretStr(KEY), **settings,
    )  # fmt: skip
    provider = OpenAICompatibleProvider(chosen, httpx.MockTransport(answer))
    try:
        return await provider.embed(texts, kind)
    finally:
        await provider.aclose()


def ratios(vectors: Vectors) -> list[float]:
    """Return the length of each text, as its vector carries it."""
    return [round(float(row[0] / row[1])) for row in vectors]


async def test_requests_are_bounded_and_vectors_keep_their_texts() -> None:
    """A server would refuse large requests, or vectors would change places."""
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return answered(request, lambda data: data[::-1])

    texts = ["a", "bb", "ccc", "dddd", "eeeee" * 4]
    result = await embed(answer, texts, request_texts=2, request_characters=6, passage_prompt="p:")
    assert ratios(result.vectors) == [len(text) + 2 for text in texts]
    bodies = [json.loads(request.content) for request in requests]
    assert [body["input"] for body in bodies] == [["p:a"], ["p:bb"], ["p:ccc"], ["p:dddd"], ["p:" + texts[-1]]]
    assert result.tokens == 15
    assert {request.url.path for request in requests} == {"/v1/embeddings"}
    assert requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert bodies[0]["model"] == "m"
    assert bodies[0]["encoding_format"] == "base64"


async def test_base64_is_read_as_little_endian_floats() -> None:
    """Servers that follow OpenAI's default would give garbage vectors."""

    def packed(data: list[Any]) -> list[Any]:
        return [
            {**item, "embedding": base64.b64encode(np.array(item["embedding"], "<f4").tobytes()).decode()}
            for item in data
        ]

    result = await embed(lambda request: answered(request, packed), ["a", "bbb"])
    assert ratios(result.vectors) == [1, 3]


@pytest.mark.parametrize(
    ("embedding", "reason"),
    [
        ([float("nan"), 1.0], "NaN"),
        ([1.0, 2.0, 3.0], "3 dimensions instead of 2"),
        ("%%%", "not a vector"),
        (base64.b64encode(b"12345678abcd").decode(), "3 dimensions instead of 2"),
        (base64.b64encode(b"12345").decode(), "not a vector"),
        ({"a": 1}, "not a vector"),
    ],
)
async def test_a_wrong_vector_fails_its_text_and_the_rest_goes_on(embedding: Any, reason: str) -> None:
    """One broken vector would pause the stage or take its neighbours along."""

    def answer(request: httpx.Request) -> httpx.Response:
        texts = json.loads(request.content)["input"]
        data = [{"index": index, "embedding": vector(text)} for index, text in enumerate(texts)]
        data[1]["embedding"] = embedding
        return httpx.Response(200, content=json.dumps({"data": data}))

    result = await embed(answer, ["a", "bb", "ccc"])
    assert list(result.errors) == [1]
    error = result.errors[1]
    assert isinstance(error, InvalidRecord)
    assert error.field == "vector"
    assert reason in error.reason
    assert ratios(result.vectors[[0, 2]]) == [1, 3]


async def test_fewer_vectors_are_used_for_no_text_and_the_text_at_fault_is_found() -> None:
    """Vectors would be stored with the wrong texts, or an odd text would hold the stage for ever."""

    def drops_empty(request: httpx.Request) -> httpx.Response:
        texts = [text for text in json.loads(request.content)["input"] if text]
        data = [{"index": index, "embedding": vector(text)} for index, text in enumerate(texts)]
        return httpx.Response(200, json={"data": data})

    result = await embed(drops_empty, ["a", "bb", "", "cccc", "ddddd"])
    assert list(result.errors) == [2]
    assert "0 vectors for 1 texts" in str(result.errors[2])
    result.vectors[2] = [0, 1]
    assert ratios(result.vectors) == [1, 2, 0, 4, 5]


async def test_a_repeated_index_is_not_taken_for_a_vector_of_each_text() -> None:
    """Two texts would share one vector."""
    result = await embed(
        lambda request: answered(request, lambda data: [{**item, "index": 0} for item in data]), ["a", "bb"]
    )
    assert ratios(result.vectors) == [1, 2]
    assert not result.errors


async def test_a_refused_text_is_found_by_halves() -> None:
    """One text too long for the server would send its whole request to the dead letters."""

    def answer(request: httpx.Request) -> httpx.Response:
        if any(len(text) > 9 for text in json.loads(request.content)["input"]):
            return httpx.Response(400, text="maximum context length")
        return answered(request)

    result = await embed(answer, ["a", "b" * 20, "ccc", "dddd"])
    assert list(result.errors) == [1]
    assert "maximum context length" in str(result.errors[1])


@pytest.mark.parametrize(
    ("response", "delay"),
    [
        (httpx.Response(429, headers={"Retry-After": "7"}), 7.0),
        (httpx.Response(503), None),
        (httpx.Response(500, text="<html>"), None),
        (httpx.Response(401, text=KEY), None),
        (httpx.Response(404), None),
        (httpx.Response(302, headers={"Location": "/elsewhere"}), None),
        (httpx.Response(200, text="<html>a proxy's page</html>"), None),
        (httpx.Response(200, content=b'{"data": [{"index": 0, "emb'), None),
        (httpx.Response(200, json={"result": []}), None),
        (httpx.Response(200, json=[]), None),
        (httpx.Response(200, json={"data": [{"embedding": [1, 2]}]}), None),
        (httpx.Response(200, content=b"\xff\xfe"), None),
    ],
)
async def test_a_server_that_is_down_or_wrong_pauses_the_stage(response: httpx.Response, delay: float | None) -> None:
    """Documents would be dead-lettered for the server's failure, or the wait that it asks for be ignored."""
    calls = []

    def answer(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        return response

    with pytest.raises(DependencyDown) as caught:
        await embed(answer, ["a", "b"])
    assert caught.value.delay == delay
    assert KEY not in str(caught.value)
    assert len(calls) == 1


@pytest.mark.parametrize("error", [httpx.ConnectError, httpx.ReadTimeout, httpx.RemoteProtocolError])
async def test_no_answer_pauses_the_stage_without_a_retry_here(
    error: type[httpx.TransportError], caplog: pytest.LogCaptureFixture
) -> None:
    """Retries would multiply with the runtime's; or the key would stand in the log."""
    calls = []

    def answer(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        raise error("gone", request=request)

    with caplog.at_level(logging.DEBUG), pytest.raises(DependencyDown, match=error.__name__):
        await embed(answer, ["a"])
    assert len(calls) == 1
    assert KEY not in caplog.text


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("3", 3.0),
        (" 120 ", 120.0),
        ("-5", None),
        ("²", None),
        ("soon", None),
        ("Thu, 01 Jan 1970 00:02:00 GMT", 20.0),
        ("Thu, 01 Jan 1970 00:00:01 GMT", 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    """The stage would hammer a server that asked for patience, or crash on an odd header."""
    assert retry_after(header, now=lambda: 100.0) == seconds


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"data": [], "usage": {"prompt_tokens": 1e400}}'])
async def test_an_answer_that_cannot_be_read_is_the_server_s_fault(body: bytes) -> None:
    """A server that is out of order would cost documents."""
    with pytest.raises(DependencyDown):
        await embed(lambda _: httpx.Response(200, content=body), ["a"])


def refusing(status: int) -> Answer:
    """A server that answers nothing else."""
    return lambda _: httpx.Response(status, text="no")


async def test_a_server_that_refuses_everything_pauses_the_stage() -> None:
    """A server that is out of order would have every document dead-lettered."""
    for status in (400, 422):
        with pytest.raises(DependencyDown, match="fails for every text"):
            await embed(refusing(status), ["a", "b"])
    with pytest.raises(DependencyDown, match="fails for every text"):
        await embed(lambda request: answered(request, lambda data: data[:0]), ["a"])


async def test_one_refused_text_is_dead_lettered_where_the_server_answers_others() -> None:
    """A text that the model cannot take would stop the stage."""

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(400) if "bad" in json.loads(request.content)["input"] else answered(request)

    result = await embed(answer, ["bad"])
    assert isinstance(result.errors[0], InvalidRecord)


async def test_requests_and_tokens_wait_for_their_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider's limits would be met by errors instead of by waiting."""
    taken: list[float] = []

    class Limiter:
        def __init__(self, rate: float) -> None:
            self.max_rate = rate

        async def acquire(self, amount: float = 1) -> None:
            taken.append(amount)

    monkeypatch.setattr("headrace_embedder.limits.AsyncLimiter", Limiter)
    await embed(answered, ["a" * 30, "b" * 3000], request_texts=1, requests_per_minute=7, tokens_per_minute=100)
    assert taken == [1, 10.0, 1, 100]


def test_a_date_beyond_all_dates_asks_for_no_wait() -> None:
    """A header of nonsense would give documents up."""
    assert retry_after("Fri, 01 Jan 99999999999 00:00:00 GMT") is None


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """A folder with a tokenizer of words."""
    found = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    found.pre_tokenizer = Whitespace()
    found.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


async def test_a_server_is_asked_for_its_format_and_for_shorter_vectors() -> None:
    """Broken: a server without base64 refuses every request, or a long model's vectors do not fit the index."""
    bodies: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        return answered(request)

    await embed(answer, ["a"], encoding_format="float", send_dimensions=True)
    await embed(answer, ["a"])
    assert (bodies[0]["encoding_format"], bodies[0]["dimensions"], bodies[0]["model"]) == ("float", 2, "m")
    assert bodies[1]["encoding_format"] == "base64"
    assert "dimensions" not in bodies[1]
    shorter = EmbedderSettings(provider="openai-compatible", model="m", dimensions=2, send_dimensions=True)
    assert OpenAICompatibleProvider(shorter).model == "m@2", "its vectors are not those of m in the cache"


async def test_a_request_has_no_more_tokens_than_allowed(tokenizer: Path) -> None:
    """Broken: a server that caps the tokens of a request refuses it, and halves are sent again and again."""
    sent: list[list[str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content)["input"])
        return answered(request)

    texts = ["a b", "c", "d e f", "g h i j k", "l"]
    result = await embed(answer, texts, request_tokens=4, tokenizer=tokenizer)
    assert sent == [["a b", "c"], ["d e f"], ["g h i j k"], ["l"]]
    assert ratios(result.vectors) == [len(text) for text in texts]
    sent.clear()
    await embed(answer, ["x" * 6, "y" * 6, "z" * 6], request_tokens=4)
    assert sent == [["x" * 6, "y" * 6], ["z" * 6]], "a token for three characters, where no tokenizer is set"


@pytest.mark.parametrize("policy", list(OverLong))
async def test_what_the_server_would_refuse_as_too_long_is_not_sent(tokenizer: Path, policy: OverLong) -> None:
    """Broken: a text beyond the model's limit becomes a dead letter, whatever the setting says."""
    sent: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.extend(json.loads(request.content)["input"])
        return answered(request)

    settings = EmbedderSettings(
        provider="openai-compatible", base_url="http://127.0.0.1:9/v1", model="m", dimensions=2, tokenizer=tokenizer,
        max_tokens=8, over_long=policy,
    )  # fmt: skip
    provider = OpenAICompatibleProvider(settings, httpx.MockTransport(answer))
    long = " ".join("abcdefghijkl")
    texts, preparation = ["x y", long, "z"], Preparation(over_long=policy)
    skipped = await left_out(provider, texts, preparation)
    going = [text for position, text in enumerate(texts) if position not in skipped]
    result = await embed_passages(provider, going, preparation)
    assert not result.errors
    assert all(len(text.split()) <= 8 for text in sent)
    assert (result.cut, result.split, skipped) == {
        OverLong.CUT: ((1,), (), {}),
        OverLong.SPLIT: ((), (1,), {}),
        OverLong.SKIP: ((), (), {1: "12 tokens exceed the model's limit of 8"}),
    }[policy]
    assert ("a b c d e f g h " in sent) == (policy is OverLong.CUT)
    assert len(sent) == {OverLong.CUT: 3, OverLong.SPLIT: 4, OverLong.SKIP: 2}[policy]
    assert (await provider.embed([long], Kind.QUERY)).cut == (0,), "a question is always answered"
    await provider.aclose()


def test_a_limit_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    """Broken: the limit is set, and silently ignored."""
    with pytest.raises(ConfigurationError, match="HEADRACE_EMBEDDER_TOKENIZER"):
        OpenAICompatibleProvider(EmbedderSettings(max_tokens=100))
    with pytest.raises(ConfigurationError, match="cannot read the tokenizer"):
        OpenAICompatibleProvider(EmbedderSettings(tokenizer=tmp_path))


def test_the_one_table_of_providers_says_which_run_here() -> None:
    """Broken: a command takes a paid provider for local, or a local one for paid, where the ledger does not."""
    built = (SentenceTransformersProvider, Model2VecProvider, OpenAICompatibleProvider, HashingProvider)
    assert {one.name: one.local for one in built} == {name: name != SERVED for name in PROVIDERS}
