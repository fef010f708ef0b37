"""The audit over a real stream: nothing on a clean store, and each planted inconsistency by its kind, none besides."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import uuid4

import psycopg
import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from pydantic import SecretStr
from typer.testing import CliRunner

from headrace.envelope import Change, Context, Operation, Trace
from headrace.kafka.offsets import LogOffsets
from headrace.payloads import ChunkedDocument, DocumentFacts, SourceDocument
from headrace.store.generations import get_generation
from headrace.store.index import index_batch
from headrace.store.pool import StoreSettings, create_pool
from headrace.store.rows import IndexChunk, IndexDocument, Outcome
from headrace.topology.stages import DOCUMENT_STAGES
from headrace_cli.app import app
from headrace_cli.exit_codes import ExitCode
from headrace_operations.audit.model import Finding, Key, Report
from headrace_operations.audit.reset import NoReset, reset
from headrace_operations.audit.run import Scope, UnknownDocument, audit
from headrace_testing.deployment import Deployment, Place
from headrace_testing.oracle import expected
from headrace_testing.stack import TestStack
from headrace_testing.stream import TENANT, publish, wait_until_drained

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

Payload = TypeVar("Payload")
EVERYTHING = Scope()
VERSION = 5
DOCUMENTS = [f"doc{number:02}" for number in range(24)]
DELETED = ("doc09", "doc18")
NOBODY = "00000000-0000-4000-8000-0000000000"
STRAY = (
    "INSERT INTO chunk (tenant, chunk_id, document_id, section, text, text_hash) SELECT "
    f"'{TENANT}', ('{NOBODY}' || right('{{name}}', 2))::uuid, '{{name}}', ARRAY[]::text[], 'nobody sent this', '\\x00'"
)
TWICE = "UPDATE document SET chunk_ids = chunk_ids || chunk_ids[1], starts = starts || 0, ends = ends || 1 WHERE {own}"
PLANTS = {
    # document: what must be found, and the statements that plant it
    "doc00": (("missing", "document"), ["DELETE FROM chunk WHERE {own}", "DELETE FROM document WHERE {own}"]),
    "doc01": (("missing", "chunk"), ["DELETE FROM chunk WHERE {first}"]),
    "doc02": (("missing", "vector"), ["DELETE FROM embedding_g1 WHERE {first}"]),
    "doc03": (
        ("missing", "vector"),
        ["DELETE FROM embedding_g1 WHERE {all}", "UPDATE document SET generations = '{{}}' WHERE {own}"],
    ),
    "doc04": (("duplicate", "chunk"), [TWICE]),
    "doc05": (
        ("duplicate", "vector"),
        [
            "ALTER TABLE embedding_g1 DROP CONSTRAINT embedding_g1_pkey",
            "INSERT INTO embedding_g1 SELECT * FROM embedding_g1 WHERE {first}",
        ],
    ),
    "doc06": (("orphan", "chunk"), [STRAY]),
    "doc07": (("stale", "document"), ["UPDATE document SET version = 4 WHERE {own}"]),
    "doc08": (("stale", "document"), ["UPDATE document SET content_hash = '\\x08' WHERE {own}"]),
    "doc09": (("stale", "document"), ["UPDATE document SET deleted = false WHERE {own}"]),
    "doc10": (("stale", "document"), ["UPDATE document SET starts[1] = 1 WHERE {own}"]),
    "doc11": (
        ("stale", "document"),
        [
            "UPDATE document SET deleted = true, chunk_ids = '{{}}', starts = '{{}}', ends = '{{}}' WHERE {own}",
            "DELETE FROM chunk WHERE {own}",
        ],
    ),
    "doc12": (("stale", "chunk"), ["UPDATE chunk SET text_hash = '\\x12' WHERE {first}"]),
    "doc13": (("stale", "chunk"), ["UPDATE chunk SET text = 'altered' WHERE {first}"]),
    "doc14": (("mixed-model", "document"), ["UPDATE document SET model = 'hashing-7' WHERE {own}"]),
    "doc15": (("mixed-model", "document"), ["UPDATE document SET generations = '{{g0}}' WHERE {own}"]),
    "doc16": (
        ("mixed-model", "vector"),
        [
            "DROP VIEW headrace_vectors",
            "DROP INDEX vector_g1_nearest",
            "ALTER TABLE vector_g1 ALTER COLUMN embedding TYPE vector",
            "UPDATE vector_g1 SET embedding = '[1,2,3]' WHERE {vector}",
        ],
    ),
    "doc17": (("mixed-model", "vector"), ["UPDATE vector_g1 SET embedding = embedding + embedding WHERE {vector}"]),
    "doc18": (("orphan", "chunk"), [STRAY]),
    "doc19": (("orphan", "document"), ["UPDATE document SET version = 6 WHERE {own}"]),
}


def _text(name: str) -> str:
    return "\n\n".join(f"# Part {part}\n\n{f'{name} says word{part} once more. ' * 12}" for part in range(4))


def _change(name: str, version: int = VERSION) -> dict[str, Any]:
    return {"op": "upsert", "id": name, "version": version, "title": name, "source": "test", "content": _text(name)}


@pytest.fixture(scope="module")
def streamed(stack: TestStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A place where 24 documents were indexed, two of them deleted; its stages have stopped. Each test adds to it."""
    name = f"test{uuid4().hex[:8]}"
    place = Place(stack.kafka, stack.registry, stack.postgres, f"{name}-", name)
    deployment = Deployment(place, tmp_path_factory.mktemp("audit"))
    try:
        deployment.bootstrap()
        changes = [_change(name) for name in DOCUMENTS]
        changes += [{"op": "delete", "id": name, "version": VERSION + 1} for name in DELETED]
        publish(place.kafka_settings(), changes)
        deployment.start_all(*(flow.name for flow in DOCUMENT_STAGES))
        wait_until_drained(place.kafka_settings(), 90)
        for service in deployment.services:
            assert service.drain() == 0
        yield place
    finally:
        deployment.close()


def _store(place: Place, dsn: str | None = None) -> StoreSettings:
    return StoreSettings(dsn=SecretStr(dsn or place.postgres), schema_name=place.schema)


def _audit(place: Place, dsn: str | None = None, *, scope: Scope = EVERYTHING) -> Report:
    codec = place.codec()
    return asyncio.run(audit(place.kafka_settings(), codec, _store(place, dsn), scope))


def _said(findings: Iterable[Finding]) -> list[tuple[tuple[str, str], str | None]]:
    return [((finding.kind.value, finding.subject), finding.document_id) for finding in findings]


def _execute(place: Place, *statements: str) -> None:
    with psycopg.connect(place.postgres, options=f"-c search_path={place.schema},public") as connection:
        for statement in statements:
            connection.execute(statement)


def _plant(place: Place, name: str) -> None:
    own = f"tenant = '{TENANT}' AND document_id = '{name}'"
    ids = f"SELECT chunk_id FROM chunk WHERE {own} ORDER BY chunk_id"
    first = f"chunk_id = ({ids} LIMIT 1)"
    vector = f"vector_key = (SELECT vector_key FROM embedding_g1 WHERE {first})"
    words = {"own": own, "all": f"chunk_id IN ({ids})", "first": first, "vector": vector}
    _execute(place, *(statement.format(name=name, **words) for statement in PLANTS[name][1]))


def test_a_clean_store_has_no_finding_and_each_of_twenty_planted_is_found(streamed: Place) -> None:
    """Any inconsistency that the audit overlooked, called by a wrong kind, or made up would show here."""
    clean = _audit(streamed, scope=Scope(deep=True))
    assert (clean.findings, clean.pending, clean.unreadable) == ((), (), ())
    assert (clean.documents_in_log, clean.documents) == (len(DOCUMENTS), len(DOCUMENTS))
    assert clean.chunks == clean.vectors >= 4 * (len(DOCUMENTS) - len(DELETED))

    for name in PLANTS:
        _plant(streamed, name)
    report = _audit(streamed, scope=Scope(deep=True))
    assert len(PLANTS) == 20
    assert _said(report.findings) == [(PLANTS[name][0], name) for name in PLANTS]
    assert all(finding.repair and finding.expected != finding.found for finding in report.findings)
    shallow = [one for one in _said(report.findings) if one[1] not in ("doc13", "doc17")]
    environment = {"HEADRACE_KAFKA_TOPIC_PREFIX": streamed.prefix, "HEADRACE_STORE_SCHEMA_NAME": streamed.schema}
    place = ["--kafka", streamed.kafka, "--registry", streamed.registry, "--postgres", streamed.postgres]
    typed = CliRunner().invoke(app, ["audit", "--json", *place], env=environment)
    assert typed.exit_code == ExitCode.INCONSISTENT, typed.output
    said = json.loads(typed.stdout)
    assert [((one["kind"], one["subject"]), one["document_id"]) for one in said["findings"]] == shallow


def _context(name: str, version: int, payload: Payload) -> Context[Payload]:
    return Context(
        Trace("audit-test", "default", 1, datetime.now(UTC)), Change(TENANT, name, version, Operation.UPSERT), payload
    )


def _source(name: str, version: int) -> Context[SourceDocument]:
    known = expected(TENANT, _change(name, version))
    return _context(
        name, version, SourceDocument(DocumentFacts(name, "text/markdown", known.content_hash), _text(name))
    )


def _chunked(name: str, version: int) -> Context[ChunkedDocument]:
    known = expected(TENANT, _change(name, version))
    made = ChunkedDocument(DocumentFacts(name, "text/markdown", known.content_hash, "test"), known.chunks)
    return _context(name, version, made)


def _produce(place: Place, topic: str, *contexts: Context) -> None:
    codec = place.codec()
    kafka = place.kafka_settings()
    producer = Producer({**kafka.client(), "partitioner": "murmur2_random"})
    for context in contexts:
        producer.produce(kafka.topic(topic), codec.encode(context, type(context.payload)), context.change.key)
    assert producer.flush(30) == 0


def _pass_by(place: Place, stage: str, topic: str) -> None:
    """Commit the end of the topic for the stage's group, as if it had taken everything."""
    kafka = place.kafka_settings()
    offsets = LogOffsets(kafka)
    found = offsets.high_watermarks(offsets.partitions([topic]))
    ends = [TopicPartition(kafka.topic(topic), place.partition, end) for place, end in found.items()]
    request = ConsumerGroupTopicPartitions(kafka.group(stage), ends)
    admin = AdminClient(kafka.client())  # ends what it was asked when it goes out of scope
    for future in admin.alter_consumer_group_offsets([request]).values():
        future.result(30)


def test_gaps_between_topics_are_found_and_what_is_on_its_way_is_pending(streamed: Place) -> None:
    """A document lost between two topics would go unseen, or one that a stage has yet to take would be called lost."""
    before = _said(_audit(streamed).findings)
    _produce(streamed, "documents", _source("doc20", 7), _source("gap", 1), _source("lost", 1))
    _produce(streamed, "chunks", _chunked("lost", 1), _chunked("unknown", 1))
    _pass_by(streamed, "chunker", "documents")
    _pass_by(streamed, "embedder", "chunks")
    letter = Producer(streamed.kafka_settings().client())
    letter.produce(f"{streamed.prefix}dead-letters.chunker", b"-", Key(TENANT, "gap").record_key, partition=1)
    assert letter.flush(30) == 0
    _produce(streamed, "documents", _source("doc21", 8), _source("coming", 1))
    _produce(streamed, "retry.indexer", _chunked("doc22", 9))
    _execute(streamed, f"UPDATE document SET version = 4 WHERE tenant = '{TENANT}' AND document_id = 'doc22'")

    report = _audit(streamed)
    new = [one for one in report.findings if _said([one])[0] not in before]
    assert sorted(_said(new), key=lambda one: one[1] or "") == [
        (("stale", "log"), "doc20"),
        (("missing", "log"), "gap"),
        (("missing", "document"), "lost"),
        (("orphan", "log"), "unknown"),
    ]
    assert [(one.document_id, one.dead_letters) for one in new if one.dead_letters] == [("gap", ("chunker/1/0",))]
    assert next(one for one in new if one.document_id == "gap").repair == (
        f"headrace dlq redrive --stage chunker --tenant {TENANT} --document gap",
        f"headrace replay start --stage chunker --tenant {TENANT} --document gap",
    )
    assert sorted((one.document_id, one.waits_for) for one in report.pending) == [
        ("coming", "documents"), ("doc21", "documents"), ("doc22", "retry.indexer"),
    ]  # fmt: skip


def test_orphans_are_found_by_whoever_has_the_right_to_see_them(streamed: Place) -> None:
    """Rows that no document owns, or of a tenant that the log does not know, would stay for ever."""
    before = _said(_audit(streamed).findings)
    row = (
        "INSERT INTO document SELECT '{tenant}', 'ghost', version, deleted, content_hash, generations, title, source, "
        "media_type, acl, attributes, pipeline_id, pipeline_version, request_id, history, metadata, model, "
        "ARRAY[]::uuid[], ARRAY[]::int[], ARRAY[]::int[] "
        f"FROM document WHERE tenant = '{TENANT}' AND document_id = 'doc23'"
    )
    _execute(
        streamed,
        *(row.format(tenant=tenant) for tenant in (TENANT, "other")),
        "ALTER TABLE chunk DROP CONSTRAINT chunk_tenant_document_id_fkey",
        STRAY.format(name="no document 77"),
        "ALTER TABLE embedding_g1 DROP CONSTRAINT embedding_g1_tenant_chunk_id_fkey",
        f"INSERT INTO embedding_g1 SELECT '{TENANT}', '{NOBODY}78', vector_key FROM embedding_g1 LIMIT 1",
        f"INSERT INTO vector_cache VALUES ('{TENANT}', 'hashing-384', '\\x79', '[1,2]')",
    )
    report = _audit(streamed)
    new = [one for one in report.findings if _said([one])[0] not in before]
    own = [
        (("mixed-model", "cache"), None),
        (("orphan", "vector"), None),
        (("orphan", "document"), "ghost"),
        (("orphan", "chunk"), "no document 77"),
    ]
    assert report.all_tenants
    assert sorted(map(str, _said(new))) == sorted(map(str, [*own, own[2]]))
    assert [one.tenant for one in new if one.document_id == "ghost"] == ["other", TENANT]

    bound = _audit(streamed, streamed.runtime_dsn())
    assert not bound.all_tenants
    assert [one for one in report.findings if one.tenant == TENANT] == list(bound.findings)
    named = _audit(streamed, streamed.runtime_dsn(), scope=Scope(tenant="other"))
    assert _said(named.findings) == [(("orphan", "document"), "ghost")]


def test_a_reset_lets_the_same_version_in_again(streamed: Place) -> None:
    """The repair that the audit names would change nothing, for the fence takes no version twice."""
    key = Key(TENANT, "doc23")
    codec, kafka = streamed.codec(), streamed.kafka_settings()
    scope = Scope(key.tenant, key.document_id, deep=True)
    assert _audit(streamed, scope=scope).clean
    ids = f"SELECT chunk_id FROM chunk WHERE tenant = '{TENANT}' AND document_id = 'doc23' ORDER BY chunk_id LIMIT 1"
    _execute(streamed, f"DELETE FROM chunk WHERE chunk_id = ({ids})")
    assert _said(_audit(streamed, scope=scope).findings) == [(("missing", "chunk"), "doc23")]
    assert _indexed_again(streamed, key.document_id) is Outcome.UNCHANGED

    login = _store(streamed, streamed.runtime_dsn())
    planned = asyncio.run(reset(kafka, codec, login, key, dry_run=True))
    assert asyncio.run(reset(kafka, codec, login, key)) == planned
    assert planned.then == (f"headrace replay start --stage embedder --tenant {TENANT} --document doc23 --into g1",)
    assert _indexed_again(streamed, key.document_id) is Outcome.INDEXED
    assert _audit(streamed, scope=scope).clean

    with pytest.raises(NoReset, match="does not have the document nobody"):
        asyncio.run(reset(kafka, codec, login, Key(TENANT, "nobody")))
    with pytest.raises(UnknownDocument):
        _audit(streamed, scope=Scope(TENANT, "nobody"))


def _indexed_again(place: Place, name: str) -> Outcome:
    """Index the version that the log has once more, as a replay does: vectors come from the cache."""
    known = expected(TENANT, _change(name))
    chunks = tuple(
        IndexChunk(chunk.chunk_id, chunk.section, chunk.start, chunk.end, chunk.text, chunk.text_hash)
        for chunk in known.chunks
    )
    facts = DocumentFacts("", "", known.content_hash)
    document = IndexDocument(TENANT, name, VERSION, facts, chunks=chunks)

    async def index() -> Outcome:
        pool = await create_pool(_store(place, place.runtime_dsn()))
        try:
            async with pool.acquire() as connection:
                generation = await get_generation(connection, "g1")
            assert generation is not None
            return (await index_batch(pool, generation, [document]))[0].outcome
        finally:
            await pool.close()

    return asyncio.run(index())
