"""The gateway's clients: the embedder over HTTP, answers remembered, dead letters as they are remembered."""

from __future__ import annotations

import json
import struct
from datetime import UTC, datetime
from typing import Any, NoReturn

import httpx
import pytest
from pydantic import SecretStr

from headrace.codec.codec import Codec
from headrace.codec.schema_registry import FixedIds
from headrace.config.settings import EXIT_CONFIGURATION, KafkaSettings
from headrace.documents.status import entry_of
from headrace.errors import DependencyDown, InvalidRecord
from headrace.kafka.answers import unavailable
from headrace.kafka.broker_contract import Record, TopicPartition
from headrace.kafka.offsets import Range
from headrace.payloads import DeadLetter, HeaderPart
from headrace.store.rows import Generation
from headrace_gateway.dead_letters import DeadLetterFollower
from headrace_gateway.embedding import HttpEmbedder
from headrace_gateway.flow import KafkaFlowReader
from headrace_gateway.idempotency import AnswerCache, request_id
from headrace_gateway.main import main
from headrace_gateway.problems import Problem
from headrace_gateway.settings import GatewaySettings

pytestmark = pytest.mark.unit


KAFKA = KafkaSettings(bootstrap="127.0.0.1:1")
GENERATION = Generation("g1", "model", 2)


def embedder(answer: Any, **settings: Any) -> tuple[HttpEmbedder, list[httpx.Request]]:
    """An embedder client over a transport that answers so."""
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, httpx.Response)
        return answer

    values = GatewaySettings(embedder_token=SecretStr("token"), **settings)
    return HttpEmbedder(values, httpx.MockTransport(handle)), seen


async def test_a_query_is_embedded_once_and_remembered() -> None:
    """If it failed, each repeat of a query would cost a call to the model, or queries be embedded as documents."""
    client, seen = embedder(httpx.Response(200, json={"data": [{"embedding": [0.5, -1.0], "id": "model"}]}))
    for _ in range(2):
        assert await client.embed("text", GENERATION) == struct.pack("<2f", 0.5, -1.0)
    assert len(seen) == 1
    assert seen[0].url.path == "/v1/embeddings"
    assert seen[0].headers["authorization"] == "Bearer token"
    body = json.loads(seen[0].content)
    assert (body["input"], body["kind"], body["model"]) == (["text"], "query", "model")
    await client.ping(GENERATION)
    assert seen[1].url.path == "/v1/models"
    await client.close()


async def test_each_generation_has_its_own_embedder_and_its_own_memory() -> None:
    """If it failed, a switch of the index would search one model's vectors with another's queries."""
    client, seen = embedder(
        httpx.Response(200, json={"data": [{"embedding": [1]}]}), embedder_url="http://embedder-{generation}:80/"
    )
    for generation in (GENERATION, Generation("g2", "other", 1), GENERATION):
        await client.embed("text", generation)
    assert [(one.url.host, json.loads(one.content)["model"]) for one in seen] == [
        ("embedder-g1", "model"), ("embedder-g2", "other"),
    ]  # fmt: skip
    await client.close()


@pytest.mark.parametrize(
    ("models", "says"), [([{"id": "other"}], "it runs other; g1 is of model"), ([{}], "does not say which")]
)
async def test_an_embedder_of_another_model_is_none(models: list[Any], says: str) -> None:
    """If it failed, a gateway would call itself ready whose every search fails after a switch."""
    client, _ = embedder(httpx.Response(200, json={"data": models}))
    with pytest.raises(DependencyDown, match=says):
        await client.ping(GENERATION)
    await client.close()


async def test_a_cache_of_nothing_keeps_nothing() -> None:
    """If it failed, turning the cache off would fail every query."""
    client, seen = embedder(httpx.Response(200, json={"data": [{"embedding": [1]}]}), query_cache=0)
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
        httpx.Response(200, json={"data": [{"embedding": "AAAA"}]}),
    ],
)
async def test_an_embedder_that_fails_is_a_dependency_that_is_down(answer: Any) -> None:
    """If it failed, an outage of the embedder would be an internal error without a name."""
    client, _ = embedder(answer)
    with pytest.raises(DependencyDown) as caught:
        await client.embed("text", GENERATION)
    assert caught.value.dependency == "embedder"
    await client.close()


async def test_a_query_that_the_embedder_refuses_is_the_clients_to_change() -> None:
    """If it failed, a query that is too long would be reported as an outage, and sent again and again."""
    client, _ = embedder(httpx.Response(422))
    with pytest.raises(InvalidRecord) as caught:
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


@pytest.mark.parametrize(
    ("variable", "value"), [("HEADRACE_GATEWAY_DRAIN_S", "soon"), ("HEADRACE_STORE_SCHEMA_NAME", "no schema")]
)
def test_a_wrong_setting_is_named_by_its_variable(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If it failed, an operator would get a stack of calls instead of the variable to repair."""
    monkeypatch.setattr("headrace.telemetry.logs.configure", lambda *_, **__: None)
    monkeypatch.setenv("HEADRACE_GATEWAY_PORT", "0")
    monkeypatch.setenv("HEADRACE_STORE_DSN", "postgresql://127.0.0.1/none")
    monkeypatch.setenv(variable, value)
    assert main() == EXIT_CONFIGURATION
    assert f"gateway cannot start: {variable}: " in capsys.readouterr().err


@pytest.mark.parametrize("question", ["counts", "bounds", "committed_of"])
async def test_a_kafka_that_stays_silent_is_a_dependency_that_is_down(
    monkeypatch: pytest.MonkeyPatch, question: str
) -> None:
    """If it failed, asking where a document is would be answered 500 while Kafka hangs."""

    def silent(*_: object) -> NoReturn:
        raise unavailable(KAFKA, TimeoutError())

    reader = KafkaFlowReader(KAFKA, Codec(FixedIds()))
    monkeypatch.setattr(reader._offsets, "counts", lambda topics: dict.fromkeys(topics, 8))
    monkeypatch.setattr(reader._offsets, "bounds", lambda places: dict.fromkeys(places, Range(0, 0)))
    monkeypatch.setattr(reader._offsets, question, silent)
    with pytest.raises(DependencyDown, match=r"Kafka does not answer at 127.0.0.1:1: TimeoutError"):
        await reader.waiting(b"alpha/a")
    reader.close()


@pytest.mark.parametrize(
    ("committed", "most", "start", "complete"), [(10, 10, 10, True), (3, 10, 4, True), (3, 5, 9, False)]
)
async def test_the_newest_record_of_the_key_is_what_waits(
    monkeypatch: pytest.MonkeyPatch, committed: int, most: int, start: int, complete: bool
) -> None:
    """If it failed, a document that waits would look indexed, or one that was taken would look waiting."""
    reader = KafkaFlowReader(KAFKA, Codec(FixedIds()))
    asked: list[dict[TopicPartition, Range]] = []

    def read(spans: dict[TopicPartition, Range], take: Any, *, seconds: float) -> bool:
        assert seconds == 1.0
        asked.append(spans)
        for place in spans:
            if place.topic in ("changes", "held.chunker"):
                for offset, key in ((11, b"alpha/a"), (12, b"alpha/a"), (13, b"alpha/b")):
                    take(Record(*place, offset, key, b"", (("version", b"7"), ("request-id", b"r"))))
        return True

    monkeypatch.setattr("headrace_gateway.flow.MAX_RECORDS", most)
    monkeypatch.setattr(reader._offsets, "counts", lambda topics: dict.fromkeys(topics, 1))
    monkeypatch.setattr(reader._offsets, "bounds", lambda places: dict.fromkeys(places, Range(4, 14)))
    monkeypatch.setattr(
        reader._offsets, "committed_of",
        lambda groups: {place: committed for places in groups.values() for place in places},
    )  # fmt: skip
    monkeypatch.setattr(reader._reader, "read", read)
    state = await reader.waiting(b"alpha/a")
    reader.close()
    assert [(one.stage, one.version, one.offset, one.hold is not None) for one in state.waiting] == [
        ("ingest", 7, 12, False), ("chunker", 7, 12, True),
    ]  # fmt: skip
    held, sources = asked
    assert set(held.values()) == {Range(max(4, 14 - most), 14)}
    assert set(sources.values()) == {Range(start, 14)}
    assert state.complete is complete


def test_dead_letters_are_remembered_by_the_key_of_what_failed() -> None:
    """If it failed, where a document is would be answered without the reason for which it was given up."""
    codec = Codec(FixedIds())
    follower = DeadLetterFollower(KAFKA, codec)
    letter = make_dead_letter(stage="chunker", message="too long")
    follower.deliver(Record("dead-letters.chunker", 2, 5, b"alpha/a", codec.encode_plain(letter)))
    follower.deliver(Record("dead-letters.chunker", 2, 6, b"alpha/a", b"stray"))
    follower.deliver(Record("dead-letters.chunker", 2, 7, None, codec.encode_plain(letter)))
    assert [(one.message, one.partition, one.offset) for one in follower.book.of(b"alpha/a")] == [("too long", 2, 5)]


async def test_the_same_request_under_way_is_409() -> None:
    """If it failed, a client's impatient repeat would be published beside the first."""
    answers = AnswerCache(10, 60)
    codes: list[int] = []

    async def work() -> dict[str, Any]:
        with pytest.raises(Problem) as caught:
            await answers.once("r", b"body", work)
        codes.append(caught.value.status_code)
        return {"done": True}

    assert await answers.once("r", b"body", work) == {"done": True}
    assert codes == [409]


def test_request_ids_depend_on_tenant_kind_and_key() -> None:
    """If it failed, two tenants' or two routes' requests with one key would be the same request."""
    ids = {request_id(tenant, kind, key) for tenant in "ab" for kind in "cd" for key in ("e", "f", None)}
    assert len(ids) == 12
    assert request_id("a", "c", "e") == request_id("a", "c", "e")


def make_dead_letter(**changes: Any) -> DeadLetter:
    """A dead letter as a stage writes it."""
    values: dict[str, Any] = {
        "stage": "ingest",
        "reason": "undecodable",
        "message": "m" * 5000,
        "remedy": "r",
        "stack": None,
        "handler": None,
        "attempt": 1,
        "topic": "changes",
        "partition": 1,
        "offset": 33,
        "timestamp": datetime(2026, 1, 1, tzinfo=UTC),
        "key": b"alpha/a",
        "value": b"",
        "headers": (HeaderPart("request-id", b"r-1"), HeaderPart("version", b"8")),
        "failed_at": datetime(2026, 1, 1, tzinfo=UTC),
        "worker": "w",
    }
    return DeadLetter(**{**values, **changes})


def test_a_dead_letters_version_comes_from_its_record_its_headers_or_its_offset() -> None:
    """If it failed, the dead letter of a change that never decoded could not be matched with its request."""
    entry = entry_of(make_dead_letter(), 0, 5)
    assert (entry.version, entry.request_id, entry.offset, len(entry.message)) == (8, "r-1", 5, 1000)
    assert entry_of(make_dead_letter(version=9), 0, 5).version == 9
    without = make_dead_letter(headers=(HeaderPart("request-id", b"r-1"),))
    assert entry_of(without, 0, 5).version == 33
    foreign = make_dead_letter(headers=(HeaderPart("version", b"-1"), HeaderPart("x", None)))
    assert entry_of(foreign, 0, 5).version is None
