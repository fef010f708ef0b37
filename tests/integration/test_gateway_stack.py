"""The gateway on real Kafka, registry and PostgreSQL; only the embedder is a stand-in of four dimensions."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import struct
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import psycopg
import pytest
import pytest_asyncio
from confluent_kafka import Consumer, Producer, TopicPartition, murmur2
from confluent_kafka.admin import AdminClient
from psycopg import sql
from pydantic import SecretStr

from headrace.access.readers import EVERY_DOCUMENT
from headrace.codec.codec import Codec
from headrace.codec.schema_registry import Registry
from headrace.config.settings import KafkaSettings, ObjectSettings, RegistrySettings
from headrace.envelope import Change, Context, Operation, StageRun, Trace
from headrace.errors import DependencyDown
from headrace.migrate import BootstrapSettings, bootstrap
from headrace.payloads import (
    ChangeEvent,
    ChunkedDocument,
    DeadLetter,
    DocumentFacts,
    GenerationRequest,
    HeaderPart,
    SourceDocument,
)
from headrace.store.generations import get_generation
from headrace.store.index import index_batch
from headrace.store.keys import create_api_key, revoke_api_keys
from headrace.store.pool import StoreSettings, create_pool, prepare_connection
from headrace.store.rows import IndexChunk, IndexDocument
from headrace_gateway import answers, flow, pending
from headrace_gateway.app import create_app
from headrace_gateway.dependencies import Dependencies
from headrace_gateway.main import opened
from headrace_gateway.publisher import KafkaPublisher
from headrace_gateway.settings import GatewaySettings
from headrace_generator.answer import AnswerHandler
from headrace_local import shared
from headrace_local.model import Endpoints
from headrace_testing.http_servers import serving
from headrace_testing.postgres import with_login

pytestmark = pytest.mark.integration

DIMENSIONS = 4
STATE = Path(os.environ.get("HEADRACE_TEST_STATE", Path(tempfile.gettempdir()) / f"headrace-test-{os.getuid()}"))
TENANT = "alpha"


def vector_of(text: str) -> list[float]:
    """A vector that depends on the text's first letter, so that searches have an order."""
    angle = (ord(text[0].lower()) % 32) / 32
    return [1.0, angle, 0.0, 0.0]


def in_base64(vector: list[float]) -> str:
    """The vector as the embedder's endpoint writes it: float32, little endian."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


@pytest.fixture(scope="session")
def infrastructure() -> Iterator[Endpoints]:
    """Kafka, registry and PostgreSQL, shared by all processes of the run."""
    yield shared.acquire(STATE)
    shared.release(STATE)


@pytest.fixture(scope="session")
def embedder_url() -> Iterator[str]:
    """A stand-in for the embedder's endpoint."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer({"object": "list", "data": [{"id": "toy"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert (body["kind"], body["model"], body["encoding_format"]) == ("query", "toy", "base64")
            data = [
                {"object": "embedding", "index": index, "embedding": in_base64(vector_of(text))}
                for index, text in enumerate(body["input"])
            ]
            self._answer({"object": "list", "model": "toy", "data": data, "usage": {}})

        def log_message(self, *_: Any) -> None:
            """Keep quiet."""

        def _answer(self, value: Any) -> None:
            encoded = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Answers)) as server:
        yield f"http://127.0.0.1:{server.server_port}"


@dataclass(frozen=True)
class Ground:
    """A topic prefix and a schema of their own, bootstrapped, with one API key."""

    kafka: KafkaSettings
    codec: Codec
    owner_dsn: str
    schema: str
    key: str

    def producer(self) -> Producer:
        """A producer that puts keys where the gateway looks for them."""
        return Producer({**self.kafka.client(), "partitioner": "murmur2_random"})

    def write(self, topic: str, key: bytes, value: bytes, **headers: str) -> None:
        """Write one record and wait for it."""
        producer = self.producer()
        pairs: Any = [(name.replace("_", "-"), text.encode()) for name, text in headers.items()]
        producer.produce(self.kafka.topic(topic), value, key, headers=pairs)
        assert producer.flush(10) == 0

    def commit_all(self, stage: str, topic: str) -> None:
        """Have the stage's group stand at the end of its topic."""
        group = self.kafka.group(stage)
        consumer = Consumer({**self.kafka.client(), "group.id": group, "enable.auto.commit": False})
        name = self.kafka.topic(topic)
        places = [TopicPartition(name, number) for number in consumer.list_topics(name, 10).topics[name].partitions]
        for place in places:
            place.offset = consumer.get_watermark_offsets(place, 10)[1]
        consumer.commit(offsets=places, asynchronous=False)
        consumer.close()

    async def owner(self) -> asyncpg.Connection[asyncpg.Record]:
        """Connect as the schema's owner."""
        return await asyncpg.connect(self.owner_dsn, server_settings={"search_path": f'"{self.schema}", public'})


@pytest.fixture(scope="module")
def ground(infrastructure: Endpoints, embedder_url: str) -> Iterator[Ground]:
    """The ground of this module's tests; the environment names it while they run."""
    mark = uuid4().hex[:10]
    login, password, schema, prefix = f"gw_{mark}", uuid4().hex, f"gw_{mark}", f"gw{mark}-"
    kafka = KafkaSettings(bootstrap=infrastructure.kafka_bootstrap, topic_prefix=prefix)
    registry = RegistrySettings(url=infrastructure.registry_url)
    settings = BootstrapSettings(
        postgres_dsn=SecretStr(infrastructure.postgres_dsn),
        store_schema=schema,
        runtime_login=login,
        runtime_password=SecretStr(password),
        model="toy",
        dimensions=DIMENSIONS,
    )
    bootstrap(settings, kafka, registry, ObjectSettings())
    key = asyncio.run(_make_key(infrastructure.postgres_dsn, schema))
    client = Registry(registry.url)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HEADRACE_KAFKA_BOOTSTRAP", kafka.bootstrap)
        environment.setenv("HEADRACE_KAFKA_TOPIC_PREFIX", prefix)
        environment.setenv("HEADRACE_REGISTRY_URL", registry.url)
        environment.setenv("HEADRACE_STORE_DSN", with_login(infrastructure.postgres_dsn, login, password))
        environment.setenv("HEADRACE_STORE_SCHEMA_NAME", schema)
        environment.setenv("HEADRACE_GATEWAY_EMBEDDER_URL", embedder_url)
        environment.setenv("HEADRACE_GENERATOR_EMBEDDER_URL", embedder_url)
        environment.setenv("HEADRACE_GATEWAY_KEY_CACHE_S", "0")
        yield Ground(kafka, Codec(client), infrastructure.postgres_dsn, schema, key)
    client.close()
    admin = AdminClient({**kafka.client()})
    names = [name for name in admin.list_topics(timeout=10).topics if name.startswith(prefix)]
    for future in admin.delete_topics(names).values():
        future.result(30)
    with psycopg.connect(infrastructure.postgres_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(schema)))
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(login)))


async def _make_key(dsn: str, schema: str) -> str:
    connection = await asyncpg.connect(dsn, server_settings={"search_path": f'"{schema}", public'})
    try:
        return await create_api_key(connection, TENANT, "test")
    finally:
        await connection.close()


@pytest_asyncio.fixture
async def dependencies(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Dependencies]:
    """The gateway's real connections, with time to read the log on a busy machine."""
    monkeypatch.setattr(flow, "MAX_SECONDS", 30.0)
    monkeypatch.setattr(pending, "MAX_SECONDS", 30.0)
    async with opened(GatewaySettings()) as found:
        yield found


@pytest_asyncio.fixture
async def client(ground: Ground, dependencies: Dependencies) -> AsyncIterator[httpx.AsyncClient]:
    """A client with a good key."""
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(create_app(dependencies)),
        base_url="http://gateway",
        headers={"Authorization": f"Bearer {ground.key}"},
        timeout=60,
    ) as made:
        yield made


async def eventually(ask: Callable[[], Any], good: Callable[[Any], bool], seconds: float = 15) -> Any:
    """Ask until the answer is good; the last answer where it never is."""
    deadline = time.monotonic() + seconds
    while True:
        answer = await ask()
        if good(answer) or time.monotonic() > deadline:
            return answer
        await asyncio.sleep(0.02)


async def test_everything_that_the_gateway_needs_is_ready(client: httpx.AsyncClient) -> None:
    """If it failed, /readyz would not tell the truth about real systems."""
    answer = await client.get("/readyz")
    assert answer.json() == {
        "ready": True,
        "dependencies": {name: {"up": True} for name in ("postgresql", "kafka", "registry", "embedder")},
    }


async def test_a_revoked_key_stops_to_work(ground: Ground, client: httpx.AsyncClient) -> None:
    """If it failed, keys could not be taken back."""
    connection = await ground.owner()
    try:
        key = await create_api_key(connection, "beta", "short")
        headers = {"Authorization": f"Bearer {key}"}
        assert (await client.get("/v1/documents/none", headers=headers)).status_code == 404
        await revoke_api_keys(connection, "beta", "short")
        assert (await client.get("/v1/documents/none", headers=headers)).status_code == 401
    finally:
        await connection.close()


async def test_a_change_lies_in_the_log_where_the_partitioner_puts_it(
    ground: Ground, client: httpx.AsyncClient
) -> None:
    """If it failed, an acknowledged change would be lost, or its partition be another than stages and status use."""
    names = [f"docs/{number}.md" for number in range(20)]
    changes = [{"op": "upsert", "id": name, "content": "x"} for name in names]
    answer = await client.post("/v1/changes", json={"changes": changes})
    assert answer.status_code == 202, answer.text
    taken = {document["id"]: document["version"] for document in answer.json()["documents"]}
    topic = ground.kafka.topic("changes")
    consumer = Consumer({**ground.kafka.client(), "group.id": f"look-{uuid4()}", "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition(topic, number, 0) for number in range(8)])
    seen: dict[str, tuple[int, int]] = {}
    while len(seen) < len(names):
        message = consumer.poll(10)
        assert message is not None
        event = ground.codec.decode_plain(message.value(), ChangeEvent)
        if event.request_id == answer.json()["request_id"]:
            seen[event.document_id] = (message.partition() or 0, message.offset() or 0)
    consumer.close()
    for name, (partition, offset) in seen.items():
        assert partition == murmur2(f"{TENANT}/{name}".encode(), 8)
        assert offset == taken[name]


async def test_status_follows_a_document_through_the_stages(ground: Ground, client: httpx.AsyncClient) -> None:
    """If it failed, nobody could see which stage a document waits for."""
    name = f"way/{uuid4()}.md"
    await client.post("/v1/changes", json={"op": "upsert", "id": name, "content": "x", "version": 5})
    body = (await client.get(f"/v1/documents/{name}")).json()
    assert (body["state"], body["waiting_for"], body["version"]) == ("in_flight", "ingest", 5), body

    ground.commit_all("ingest", "changes")
    change = Change(TENANT, name, 5, Operation.UPSERT)
    run = StageRun("ingest", ("parse@1",), "w", "changes", 0, 0, 1, datetime.now(UTC), 5)
    trace = Trace("r-5", "index", 1, datetime.now(UTC), history=(run,))
    value = ground.codec.encode(
        Context(trace, change, SourceDocument(DocumentFacts("t", "text/plain", b"h" * 32), "x")), SourceDocument
    )
    ground.write("documents", change.key, value, request_id="r-5", operation="UPSERT", version="5")
    body = (await client.get(f"/v1/documents/{name}")).json()
    assert (body["state"], body["waiting_for"]) == ("in_flight", "chunker"), body
    assert body["stages"][0]["handlers"] == ["parse@1"]

    ground.commit_all("chunker", "documents")
    assert (await client.get(f"/v1/documents/{name}")).status_code == 404

    ground.write("retry.chunker", change.key, value, request_id="r-5", operation="UPSERT", version="5")
    body = (await client.get(f"/v1/documents/{name}")).json()
    assert (body["state"], body["waiting_for"], body["version"]) == ("in_flight", "chunker", 5), body
    ground.commit_all("chunker-side", "retry.chunker")
    assert (await client.get(f"/v1/documents/{name}")).status_code == 404


async def test_a_held_document_is_found_until_it_went_on(ground: Ground, client: httpx.AsyncClient) -> None:
    """Broken: a document that a cap or a pause holds is unknown, or stays held when it was released."""
    name = f"held/{uuid4()}.md"
    change = Change(TENANT, name, 5, Operation.UPSERT)
    key, trace = change.key, Trace("r", "default", 1, datetime.now(UTC))
    document = ChunkedDocument(DocumentFacts("", "text/plain", bytes(16)), ())
    value = ground.codec.encode(Context(trace, change, document), ChunkedDocument)
    said = {"held_kind": "pause", "held_for": "cap/alpha", "held_why": "it is reached", "held_at": "1700000000000"}
    ground.write("held.embedder", key, value, operation="UPSERT", version="5", **said)
    body = (await client.get(f"/v1/documents/{name}")).json()
    assert (body["state"], body["version"], body["held"]["stage"]) == ("held", 5, "embedder"), body
    assert (body["held"]["waits_for"], body["held"]["why"]) == ("cap", "it is reached")

    ground.write("retry.embedder", key, value, operation="UPSERT", version="5")
    body = (await client.get(f"/v1/documents/{name}")).json()
    assert (body["state"], body["waiting_for"], body["held"]) == ("in_flight", "embedder", None), body


async def test_a_dead_letter_is_found_by_document_and_request(ground: Ground, client: httpx.AsyncClient) -> None:
    """If it failed, a document that was dead-lettered would be waited for without end."""
    name = f"dead/{uuid4()}.md"
    posted = (await client.post("/v1/changes", json={"op": "upsert", "id": name, "content": "x"})).json()
    ground.commit_all("ingest", "changes")
    key = f"{TENANT}/{name}".encode()
    now = datetime.now(UTC)
    letter = DeadLetter(
        stage="ingest",
        reason="unknown-pipeline",
        message="no such pipeline",
        remedy="Apply it.",
        stack=None,
        handler=None,
        attempt=1,
        topic="changes",
        partition=0,
        offset=posted["documents"][0]["version"],
        timestamp=now,
        key=key,
        value=ground.codec.encode_plain(ChangeEvent(TENANT, name, Operation.UPSERT, content="x")),
        headers=(HeaderPart("request-id", posted["request_id"].encode()),),
        failed_at=now,
        worker="w",
    )
    ground.write("dead-letters.ingest", key, ground.codec.encode_plain(letter))
    wanted = {"documents": [{"id": name}], "request_id": posted["request_id"]}

    async def look_up() -> Any:
        return (await client.post("/v1/documents:lookup", json=wanted)).json()["documents"][0]

    found = await eventually(look_up, lambda one: one["dead_letter"] is not None)
    assert (found["indexed"], found["dead_letter"]["message"]) == (False, "no such pipeline")
    body = (await client.get(f"/v1/documents/{name}")).json()
    assert (body["state"], body["version"]) == ("dead_lettered", posted["documents"][0]["version"])


async def test_a_record_without_readable_readers_is_for_keys_of_every_document(
    ground: Ground, client: httpx.AsyncClient
) -> None:
    """Broken: a record whose acl cannot be read is told to everyone, or to nobody."""
    name = f"dark/{uuid4()}.md"
    key = Change(TENANT, name, 5, Operation.UPSERT).key
    ground.write("retry.embedder", key, b"v", operation="UPSERT", version="5")
    assert (await client.get(f"/v1/documents/{name}")).status_code == 404
    connection = await ground.owner()
    try:
        every = await create_api_key(connection, TENANT, "every", EVERY_DOCUMENT)
    finally:
        await connection.close()
    body = (await client.get(f"/v1/documents/{name}", headers={"Authorization": f"Bearer {every}"})).json()
    assert (body["state"], body["waiting_for"]) == ("in_flight", "embedder")


async def index(ground: Ground, name: str, version: int, texts: list[str]) -> None:
    """Bring a document into the index, as the indexer does."""
    pool = await create_pool(StoreSettings())
    try:
        async with pool.acquire() as connection:
            generation = await get_generation(connection, "g1")
        assert generation is not None
        chunks, start = [], 0
        for text in texts:
            identity = hashlib.sha256(f"{name}/{text}".encode()).digest()[:16]
            vector = struct.pack("<4f", *vector_of(text))
            chunks.append(IndexChunk(identity, ("Top",), start, start + len(text), text, identity, vector))
            start += len(text)
        document = IndexDocument(
            TENANT,
            name,
            version,
            DocumentFacts(
                "Gate",
                "text/plain",
                hashlib.sha256("".join(texts).encode()).digest(),
                source="https://example.com",
                attributes={"set": name},
            ),
            pipeline_id="index",
            pipeline_version="1",
            request_id=f"r-{version}",
            chunks=tuple(chunks),
        )
        await index_batch(pool, generation, [document])
    finally:
        await pool.close()


def only(name: str) -> dict[str, Any]:
    """The filter for one document."""
    return {"field": "document", "eq": name}


async def test_a_hit_follows_the_changes_of_its_document(
    ground: Ground, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: a search calls a document fresh whose change was just accepted, or never fresh again."""
    monkeypatch.setattr(answers, "FRESHNESS_WAIT_S", 30.0)
    name, other = f"fresh-{uuid4()}", f"calm-{uuid4()}"
    for one in (name, other):
        await index(ground, one, 4, [f"alpha {one}"])

    async def told() -> dict[str, str]:
        wanted = {"field": "document", "in": [name, other]}
        answer = await client.post("/v1/search", json={"query": "alpha", "filter": wanted})
        return {hit["document_id"]: hit["freshness"] for hit in answer.json()["hits"]}

    assert await told() == {name: "fresh", other: "fresh"}
    change = Change(TENANT, name, 5, Operation.UPSERT)
    await client.post("/v1/changes", json={"op": "upsert", "id": name, "content": "x", "version": 5})
    assert await told() == {name: "changing", other: "fresh"}

    trace = Trace("r-5", "index", 1, datetime.now(UTC))
    facts = DocumentFacts("t", "text/plain", b"h" * 32)
    value = ground.codec.encode(Context(trace, change, SourceDocument(facts, "x")), SourceDocument)
    ground.write("documents", change.key, value, request_id="r-5", operation="UPSERT", version="5")
    ground.commit_all("ingest", "changes")
    assert (await told())[name] == "changing"
    ground.commit_all("chunker", "documents")
    assert (await told())[name] == "fresh"

    said = {"held_kind": "pause", "held_for": "cap/alpha", "held_why": "it is reached", "held_at": "1700000000000"}
    ground.write("held.embedder", change.key, b"v", operation="UPSERT", version="5", **said)
    assert await told() == {name: "held", other: "fresh"}
    ground.write("retry.embedder", change.key, b"v", operation="UPSERT", version="5")
    assert (await told())[name] == "changing"
    await index(ground, name, 5, [f"alpha {name} again"])
    assert (await told())[name] == "fresh"


async def test_what_is_indexed_is_found_and_shown(ground: Ground, client: httpx.AsyncClient) -> None:
    """If it failed, search, status and lookup would disagree with the store."""
    name = f"indexed-{uuid4()}"
    await index(ground, name, 7, ["alpha opens the gate", "zulu closes it"])
    answer = await client.post("/v1/search", json={"query": "zulu", "top_k": 1, "filter": only(name)})
    assert [hit["text"] for hit in answer.json()["hits"]] == ["zulu closes it"], answer.text
    own = {"field": "attributes.set", "eq": name}
    hybrid = await client.post("/v1/search", json={"query": "gate", "mode": "hybrid", "filter": own, "top_k": 2})
    assert hybrid.json()["hits"][0]["text"] == "alpha opens the gate"
    body = (await client.get(f"/v1/documents/{name}")).json()
    assert (body["state"], body["version"], body["stored"]["chunks"]) == ("indexed", 7, 2)
    wanted = {"documents": [{"id": name, "version": 7}, {"id": name, "version": 8}, {"id": name}], "request_id": "r-7"}
    found = (await client.post("/v1/documents:lookup", json=wanted)).json()["documents"]
    assert [one["indexed"] for one in found] == [True, False, True]


@asynccontextmanager
async def answering(ground: Ground) -> AsyncIterator[AnswerHandler]:
    """Run the generator's handler over the requests, without the runtime."""
    handler = AnswerHandler()
    await handler.start()
    consumer = Consumer({
        **ground.kafka.client(), "group.id": f"answer-{uuid4()}", "auto.offset.reset": "earliest"
    })  # fmt: skip
    consumer.subscribe([ground.kafka.topic("generation-requests")])

    async def run() -> None:
        while True:
            message = await asyncio.to_thread(consumer.poll, 0.1)
            if message is not None and message.error() is None:
                decoded = ground.codec.decode(message.value(), GenerationRequest)
                assert decoded.payload is not None
                await handler.process(decoded.with_payload(decoded.payload))

    task = asyncio.create_task(run(), name="answers")
    try:
        yield handler
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        consumer.close()
        await handler.close()


async def test_a_question_is_answered_from_the_index_with_citations(ground: Ground, client: httpx.AsyncClient) -> None:
    """If it failed, gateway and generator would not agree on the artifact, or store and citations not fit."""
    name = f"asked-{uuid4()}"
    await index(ground, name, 1, ["The gate opens slowly on purpose. ", "Nobody paints the wheel in winter."])
    async with answering(ground):
        body = {"question": "How does the gate open?", "filter": only(name), "wait_s": 15}
        answer = await client.post("/v1/ask", json=body, headers={"Idempotency-Key": name})
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert found["provider"] == "extractive"
        assert "The gate opens slowly on purpose." in found["text"]
        assert {one["document_id"] for one in found["citations"]} == {name}
        again = await client.get(f"/v1/artifacts/{found['id']}")
        assert again.json() == found
        empty = await client.post("/v1/ask", json={"question": "How?", "filter": only("none"), "wait_s": 15})
        assert empty.json()["text"].startswith("No answer: the documents")


async def test_a_repeated_request_is_the_same_artifact_in_the_store(ground: Ground) -> None:
    """If it failed, a replay of the requests would write artifacts again."""
    request = f"repeat-{uuid4()}"
    trace = Trace(request, "answer", 1, datetime.now(UTC), "key:x")
    context = Context(trace, Change(TENANT, request, 0, Operation.UPSERT), GenerationRequest("Any question?"))
    handler = AnswerHandler()
    await handler.start()
    first, second = await handler.process(context), await handler.process(context)
    await handler.close()
    assert first.payload == second.payload
    connection = await ground.owner()
    await prepare_connection(connection)
    count = await connection.fetchval("SELECT count(*) FROM artifact WHERE request_id = $1", request)
    await connection.close()
    assert count == 1


async def test_without_kafka_publishing_fails_in_time_and_says_so() -> None:
    """If it failed, a request would hang, or be answered as accepted, while Kafka is down."""
    from headrace.kafka.broker_contract import Message

    publisher = KafkaPublisher(KafkaSettings(bootstrap="127.0.0.1:1"), 0.5)
    with pytest.raises(DependencyDown) as caught:
        await publisher.publish([Message("changes", b"a/b", b"x"), Message("changes", b"a/c", b"x")])
    assert caught.value.dependency == "kafka"
    assert "0 of 2" in caught.value.message
    await publisher.close()
