"""Stages as real processes: the embedder against the plain model, the indexer against plain COPY, and all together."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from statistics import mean
from types import MappingProxyType
from typing import Any, TypeVar
from uuid import UUID, uuid4

import asyncpg
import numpy as np
from confluent_kafka import Consumer, Producer, TopicPartition
from pgvector import SparseVector, Vector

from headrace.codec.codec import Codec
from headrace.config.settings import KafkaSettings
from headrace.envelope import Change, Context, Operation, Trace
from headrace.lexical import weights
from headrace.lexical.analyzer import DEFAULT, analyzer_of
from headrace.payloads import ChangeEvent, Chunk, ChunkedDocument, EmbeddedDocument
from headrace.store.pool import prepare_connection
from headrace.topology.stages import DOCUMENT_STAGES
from headrace_bench.model import Backend, own_backend, require_baseline
from headrace_bench.result import Result
from headrace_chunker.handler import ChunkerSettings, make_chunks
from headrace_embedder.hashing import HashingProvider
from headrace_embedder.types import Kind
from headrace_ingest.handler import source_document
from headrace_local import shared
from headrace_testing.data import changes
from headrace_testing.deployment import Deployment, Place
from headrace_testing.stream import publish

P = TypeVar("P")
TENANT = "bench"
_ROUNDS = 2
_WARM_DOCUMENTS = 40


@contextmanager
def deployment(
    state_dir: Path, provider: str, model: str = "all-MiniLM-L6-v2", more: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Deployment]:
    """Yield a separate, bootstrapped deployment on the local stack; its services are killed at the end.

    ``more`` are environment variables of its services.
    """
    endpoints = shared.acquire(state_dir)
    name = f"bench{uuid4().hex[:8]}"
    place = Place(endpoints.kafka_bootstrap, endpoints.registry_url, endpoints.postgres_dsn, f"{name}-", name)
    env = {} if provider == "hashing" else {"HEADRACE_EMBEDDER_MODEL": model, **more}
    identity = "hashing-384" if provider == "hashing" else model
    own = Deployment(place, Path(tempfile.mkdtemp(prefix="headrace-bench-")), provider, identity, env)
    try:
        own.bootstrap()
        yield own
    finally:
        own.close()
        shared.release(state_dir)


def embedder(state_dir: Path, *, documents: int = 240) -> Result:
    """Return chunks per second through the embedder's process, with the plain model on the same chunks as its baseline.

    Before and after each round, the embedder's own backend is measured alone, because machines drift. The first part of
    a round warms everything up, above all the Java broker, and is not measured. sentence-transformers, which is slower,
    gets one text in four.
    """
    require_baseline()
    parts, source = chunked(documents)
    texts = list(dict.fromkeys(chunk.text for _, document in parts for chunk in document.chunks))
    some = texts[::4]
    ours, bare, alone = [], [], [own_backend(texts)]
    with deployment(state_dir, "sentence-transformers") as place:
        codec = place.place.codec()
        backend = Backend()
        size = backend.best_batch_size(texts[:96])

        def seconds(tenant: str, part: Sequence[tuple[str, ChunkedDocument]]) -> float:
            messages = [_context(tenant, identity, document) for identity, document in part]
            return _through(place, "chunks", "vectors", messages, ChunkedDocument, codec)

        for number in range(_ROUNDS):  # each with its own tenants, and so with its own cache
            service = place.start("embedder")
            wait_for_model(place)
            seconds(f"{TENANT}-warm{number}", parts[:_WARM_DOCUMENTS])
            ours.append(len(texts) / seconds(f"{TENANT}{number}", parts))
            assert service.process.poll() is None
            service.kill()
            bare.append(len(some) / backend.seconds(some, size))
            alone.append(own_backend(texts))
    shares = [rate / mean(around) for rate, around in zip(ours, pairwise(alone), strict=True)]
    return Result(
        "embedder", mean(ours), "chunks/s", mean(bare),
        f"one SentenceTransformer.encode over one text in four, {backend.precision}, batch size {size} (the best)",
        {"texts": len(texts), "documents": documents, "data": source, "ours": ours, "bare": bare,
         "own_backend_alone": alone, "of_own_backend": round(mean(shares), 3)}, goal=1.40,
    )  # fmt: skip


def indexer(state_dir: Path, *, documents: int = 120) -> Result:
    """Return chunks per second through the indexer's process, with plain COPY into the same tables as its baseline."""
    parts, source = chunked(documents)
    provider = HashingProvider()
    contexts = [_context(TENANT, identity, _embedded(provider, document)) for identity, document in parts]
    count = sum(len(context.payload.chunks) for context in contexts)
    with deployment(state_dir, "hashing") as place, deployment(state_dir, "hashing") as other:
        place.start("indexer")
        codec = place.place.codec()
        ours = count / _through(place, "vectors", "indexed", contexts, EmbeddedDocument, codec)
        bare = count / asyncio.run(_copy(other.place.postgres, other.place.schema, contexts))
    return Result(
        "indexer", ours, "chunks/s", bare, "bare COPY of the same rows into the same tables with the same indexes",
        {"chunks": count, "documents": documents, "data": source}, goal=0.60,
    )  # fmt: skip


def pipeline(state_dir: Path, *, documents: int = 140) -> Result:
    """Return chunks per second from change event to index, with the embedding backend alone as its baseline.

    Some documents of another tenant go first, which has its own cache: a freshly started broker compiles its own code.
    """
    require_baseline()
    events, source = changes(documents)
    texts = list(dict.fromkeys(chunk.text for _, document in chunked(documents)[0] for chunk in document.chunks))
    with deployment(state_dir, "sentence-transformers") as place:
        place.start_all(*(flow.name for flow in DOCUMENT_STAGES))
        wait_for_model(place)
        backend = Backend()
        size = backend.best_batch_size(texts[:96])
        bare = len(texts) / backend.seconds(texts, size)
        kafka = place.place.kafka_settings()
        _indexed(kafka, events[:_WARM_DOCUMENTS], f"{TENANT}-warm")
        ours = len(texts) / _indexed(kafka, events, TENANT)
    alone = own_backend(texts)  # without other services
    return Result(
        "pipeline", ours, "chunks/s", alone, "the embedding backend alone",
        {"texts": len(texts), "documents": documents, "data": source,
         f"sentence_transformers_{backend.precision}": round(bare, 1)}, goal=0.75,
    )  # fmt: skip


def _indexed(kafka: KafkaSettings, events: Sequence[dict[str, Any]], tenant: str) -> float:
    """Return the seconds from the first of these events until the last one is indexed."""
    before = _ends(kafka, "indexed")
    started = time.perf_counter()
    publish(kafka, events, tenant)
    _wait_for_records(kafka, "indexed", before, len(events))
    return time.perf_counter() - started


def chunked(documents: int) -> tuple[list[tuple[str, ChunkedDocument]], str]:
    """Return this many of the test data's documents with their IDs, as the chunker splits them, and what they are."""
    events, source = changes(documents)
    found = []
    for event in events:
        change = ChangeEvent(
            TENANT, event["id"], Operation.UPSERT, 1, event["title"], event["content"], None, event["source"]
        )
        document = source_document(event["id"], change)
        chunks = make_chunks(TENANT, event["id"], document, ChunkerSettings())
        found.append((event["id"], ChunkedDocument(document.facts, chunks)))
    return found, source


def _embedded(provider: HashingProvider, document: ChunkedDocument) -> EmbeddedDocument:
    vectors = asyncio.run(provider.embed([chunk.text for chunk in document.chunks], Kind.PASSAGE)).vectors
    pairs = zip(document.chunks, vectors, strict=True)
    return EmbeddedDocument(
        document.facts, document.chunks, "g1", provider.model, provider.dimensions,
        {chunk.text_hash.hex(): vector.astype("<f4").tobytes() for chunk, vector in pairs},
    )  # fmt: skip


def _context(tenant: str, identity: str, payload: P) -> Context[P]:
    trace = Trace(str(uuid4()), "default", 1, datetime.now(UTC))
    return Context(trace, Change(tenant, identity, 1, Operation.UPSERT), payload)


def _through(
    place: Deployment, source: str, target: str, contexts: Sequence[Context], payload: type, codec: Codec
) -> float:
    """Return the seconds from the first record written to ``source`` until the last one is in ``target``."""
    kafka = place.place.kafka_settings()
    messages = [(context.change.key, codec.encode(context, payload)) for context in contexts]
    before = _ends(kafka, target)
    producer = Producer({
        **kafka.client(), "partitioner": "murmur2_random", "compression.type": "zstd", "linger.ms": 50,
        "message.max.bytes": kafka.max_message_bytes,
    })  # fmt: skip
    started = time.perf_counter()
    for key, value in messages:
        producer.produce(kafka.topic(source), value, key)
    producer.flush()
    _wait_for_records(kafka, target, before, len(messages))
    return time.perf_counter() - started


def _ends(kafka: KafkaSettings, topic: str) -> dict[int, int]:
    consumer = Consumer({**kafka.client(), "group.id": "headrace-bench"})
    name = kafka.topic(topic)
    partitions = consumer.list_topics(name).topics[name].partitions
    ends = {number: consumer.get_watermark_offsets(TopicPartition(name, number), 30)[1] for number in partitions}
    consumer.close()
    return ends


def _wait_for_records(kafka: KafkaSettings, topic: str, start: dict[int, int], count: int) -> None:
    """Read the committed records after ``start`` until there are ``count``."""
    consumer = Consumer({
        **kafka.client(), "group.id": f"headrace-bench-{uuid4()}", "isolation.level": "read_committed",
        "fetch.message.max.bytes": kafka.max_message_bytes,
    })  # fmt: skip
    consumer.assign([TopicPartition(kafka.topic(topic), number, offset) for number, offset in start.items()])
    seen = 0
    deadline = time.monotonic() + 900
    while seen < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{seen} of {count} records in {topic}")
        message = consumer.poll(0.2)
        if message is not None and message.error() is None:
            seen += 1
    consumer.close()


def wait_for_model(place: Deployment) -> None:
    """Wait until the embedder answers a query: the model is loaded, so loading is not measured."""
    import httpx  # noqa: PLC0415

    url = f"http://127.0.0.1:{place.embedder_port}/v1/embeddings"
    deadline = time.monotonic() + 120
    while True:
        try:
            httpx.post(url, json={"input": "warm"}, timeout=60).raise_for_status()
            return
        except httpx.HTTPError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


async def _copy(dsn: str, schema: str, contexts: Sequence[Context[EmbeddedDocument]], batch: int = 200) -> float:
    """Return the seconds of COPY into document, chunk, embedding and lexical, a transaction per ``batch`` documents.

    The rows of lexical vectors are made before, because COPY makes none.
    """
    lexical = {context.change.document_id: _lexical_rows(context) for context in contexts}
    connection = await asyncpg.connect(dsn, server_settings={"search_path": f"{schema},public"})
    await prepare_connection(connection)
    copied: set[tuple[str, bytes]] = set()
    started = time.perf_counter()
    for start in range(0, len(contexts), batch):
        part = contexts[start : start + batch]
        chunks = [
            (c.change, chunk, c.payload) for c in part for chunk in {k.chunk_id: k for k in c.payload.chunks}.values()
        ]
        texts = {
            (change.tenant, chunk.text_hash): payload.vectors[chunk.text_hash.hex()]
            for change, chunk, payload in chunks
            if (change.tenant, chunk.text_hash) not in copied
        }
        copied |= texts.keys()
        async with connection.transaction():
            for table, (columns, records) in _rows(part, chunks, texts, lexical).items():
                await connection.copy_records_to_table(table, records=records, columns=columns)
    elapsed = time.perf_counter() - started
    await connection.close()
    return elapsed


def _rows(
    part: Sequence[Context[EmbeddedDocument]],
    chunks: Sequence[tuple[Change, Chunk, EmbeddedDocument]],
    texts: Mapping[tuple[str, bytes], bytes],
    lexical: Mapping[str, Sequence[tuple[Any, ...]]],
) -> dict[str, tuple[list[str], list[tuple[Any, ...]]]]:
    """Return columns and rows by table."""
    return {
        "document": (DOCUMENT_COLUMNS, [_row(context) for context in part]),
        "chunk": (
            ["tenant", "chunk_id", "document_id", "section", "text", "text_hash"],
            [
                (change.tenant, UUID(bytes=chunk.chunk_id), change.document_id, list(chunk.section), chunk.text,
                 chunk.text_hash)
                for change, chunk, _ in chunks
            ],
        ),
        "vector_g1": (
            ["tenant", "vector_key", "embedding"],
            [(tenant, key, Vector(np.frombuffer(vector, "<f4"))) for (tenant, key), vector in texts.items()],
        ),
        "embedding_g1": (
            ["tenant", "chunk_id", "vector_key"],
            [(change.tenant, UUID(bytes=chunk.chunk_id), chunk.text_hash) for change, chunk, _ in chunks],
        ),
        "lexical_g1": (
            ["tenant", "chunk_id", "lexical_key", "terms", "weights"],
            [row for context in part for row in lexical[context.change.document_id]],
        ),
    }  # fmt: skip


def _lexical_rows(context: Context[EmbeddedDocument]) -> list[tuple[Any, ...]]:
    facts, analyzer, tenant = context.payload.facts, analyzer_of(DEFAULT), context.change.tenant
    rows = []
    for chunk in {one.chunk_id: one for one in context.payload.chunks}.values():
        found = weights.passage(analyzer, tenant, (facts.title, *chunk.section, chunk.text))
        vector = SparseVector(found, weights.DIMENSIONS)
        rows.append((tenant, UUID(bytes=chunk.chunk_id), chunk.text_hash, list(found), vector))
    return rows


DOCUMENT_COLUMNS = [
    "tenant", "document_id", "version", "deleted", "content_hash", "generations", "title", "source", "media_type",
    "acl", "attributes", "pipeline_id", "pipeline_version", "request_id", "history", "metadata", "model", "chunk_ids",
    "starts", "ends",
]  # fmt: skip


def _row(context: Context[EmbeddedDocument]) -> tuple[Any, ...]:
    document, change, trace = context.payload, context.change, context.trace
    facts = document.facts
    return (
        change.tenant, change.document_id, change.version, False, facts.content_hash, ["g1"], facts.title,
        facts.source or "", facts.media_type, [], {}, trace.pipeline_id, str(trace.pipeline_version),
        trace.request_id, [], {}, document.model, [UUID(bytes=chunk.chunk_id) for chunk in document.chunks],
        [chunk.start for chunk in document.chunks], [chunk.end for chunk in document.chunks],
    )  # fmt: skip


def cores() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0))
