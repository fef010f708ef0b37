"""The gateway over fakes: no network, no process, no time that passes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
import pytest_asyncio
from fastapi import FastAPI

from headrace.access.readers import Reader
from headrace.codec.codec import Codec
from headrace.codec.schema_registry import FixedIds
from headrace.config.settings import KafkaSettings
from headrace.documents.status import DeadLetterEntry
from headrace.errors import DependencyDown
from headrace.filters.model import Filter
from headrace.kafka.broker_contract import Message
from headrace.retrieval.questions import Questions, SearchSettings
from headrace.retrieval.rerank import Reranker, RerankSettings
from headrace.store.artifacts import Artifact
from headrace.store.documents import DocumentRow, DocumentState, Listed
from headrace.store.keys import KeyOwner
from headrace.store.legs import Plan
from headrace.store.rows import Generation
from headrace.store.search import Found, Hit, Question, Shape, fingerprint
from headrace_gateway.app import create_app
from headrace_gateway.dependencies import Dependencies
from headrace_gateway.flow import FlowState
from headrace_gateway.publisher import Delivered
from headrace_gateway.settings import GatewaySettings

KEYS = {"hr_alpha": "alpha", "hr_beta": "beta"}


@dataclass
class FakeStore:
    """Keeps what a test puts in, by tenant, and shows it to readers that may see it."""

    keys: dict[str, str] = field(default_factory=lambda: dict(KEYS))
    """Keys of readers without a user, with their tenants."""
    owners: dict[str, KeyOwner] = field(default_factory=dict)
    """All other keys."""
    rows: dict[tuple[str, str], DocumentRow] = field(default_factory=dict)
    artifacts: dict[tuple[str, UUID], Artifact] = field(default_factory=dict)
    hits: list[Hit] = field(default_factory=list)
    fit: float | None = 0.5
    searches: list[dict[str, Any]] = field(default_factory=list)
    lookups: int = 0
    generation: Generation = field(default_factory=lambda: Generation("g1", "model", 2, state="active"))
    down: DependencyDown | None = None
    broken: Exception | None = None

    def _check(self) -> None:
        for error in (self.down, self.broken):
            if error is not None:
                raise error

    async def owner_of(self, key: str) -> KeyOwner | None:
        """Count and look up."""
        self.lookups += 1
        return KeyOwner(self.keys[key]) if key in self.keys else self.owners.get(key)

    async def active(self) -> Generation:
        """Return the only generation."""
        self._check()
        return self.generation

    async def search(
        self,
        tenant: str,
        reader: Reader,
        generation: Generation,
        question: Question,
        *,
        top_k: int,
        filters: Filter | None,
        shape: Shape,
    ) -> Found:
        """Note the search and return what was put in, without what was seen."""
        self._check()
        noted = {"tenant": tenant, "reader": reader, "question": question, "top_k": top_k}
        self.searches.append({**noted, "filters": filters, "shape": shape})
        left = [hit for hit in self.hits if fingerprint(shape.identity(hit)) not in shape.seen]
        plan = Plan(exact=True, dense=9, lexical=None, documents=3)
        return Found(left[:top_k], len(left) > top_k, plan, self.fit)

    async def document(self, tenant: str, reader: Reader, document_id: str) -> DocumentRow | None:
        """Return the row."""
        self._check()
        row = self.rows.get((tenant, document_id))
        return row if row is not None and reader.may_read(row.acl) else None

    async def having(
        self, tenant: str, reader: Reader, attributes: Mapping[str, str], *, after: str | None, limit: int
    ) -> Sequence[Listed]:
        """Return the live rows that have the attributes, by id."""
        self._check()
        fits = [
            Listed(name, row.version, row.title, row.source, row.attributes, row.request_id, row.indexed_at)
            for (owner, name), row in sorted(self.rows.items())
            if owner == tenant
            and not row.deleted
            and reader.may_read(row.acl)
            and name > (after or "")
            and set(attributes.items()) <= set(row.attributes.items())
        ]
        return fits[:limit]

    async def states(self, tenant: str, reader: Reader, document_ids: Sequence[str]) -> Mapping[str, DocumentState]:
        """Return the rows in short."""
        found = {name: await self.document(tenant, reader, name) for name in document_ids}
        return {
            name: DocumentState(row.version, row.deleted, row.request_id, row.generations)
            for name, row in found.items()
            if row is not None
        }

    async def artifact(self, tenant: str, reader: Reader, artifact_id: UUID) -> Artifact | None:
        """Return the artifact."""
        self._check()
        found = self.artifacts.get((tenant, artifact_id))
        return found if found is not None and (reader.every or reader.principals.issuperset(found.reader)) else None


@dataclass
class FakePublisher:
    """Keeps messages; offsets count from 100."""

    messages: list[Message] = field(default_factory=list)
    down: DependencyDown | None = None
    calls: int = 0

    async def publish(self, messages: Sequence[Message]) -> list[Delivered]:
        """Keep the messages or fail."""
        self.calls += 1
        if self.down is not None:
            raise self.down
        first = 100 + len(self.messages)
        self.messages += messages
        return [Delivered(0, first + index) for index in range(len(messages))]


@dataclass
class FakeEmbedder:
    """Returns one vector for every text."""

    down: DependencyDown | None = None

    async def embed(self, text: str, generation: Generation) -> bytes:
        """Return a vector of two dimensions or fail."""
        if self.down is not None:
            raise self.down
        return len(text).to_bytes(8, "little")

    async def ping(self, generation: Generation) -> None:
        """Fail where told to."""
        if self.down is not None:
            raise self.down


@dataclass
class FakeFlow:
    """What waits and what was dead-lettered, by key."""

    states: dict[bytes, FlowState] = field(default_factory=dict)
    letters: dict[bytes, list[DeadLetterEntry]] = field(default_factory=dict)
    down: DependencyDown | None = None
    refreshes: int = 0
    slow: asyncio.Event | None = None

    async def refresh(self) -> None:
        """Count, wait if told to, or fail."""
        self.refreshes += 1
        if self.down is not None:
            raise self.down
        if self.slow is not None:
            await self.slow.wait()

    def pending(self, key: bytes) -> FlowState:
        """Return the state."""
        return self.states.get(key, FlowState())

    async def waiting(self, key: bytes) -> FlowState:
        """Return the state or fail."""
        if self.down is not None:
            raise self.down
        return self.states.get(key, FlowState())

    def dead_letters(self, key: bytes) -> Sequence[DeadLetterEntry]:
        """Return the letters."""
        return self.letters.get(key, [])


@dataclass
class FakeTime:
    """A clock that moves only by sleeping; ``on_sleep`` runs at each sleep."""

    now: float = 0.0
    sleeps: list[float] = field(default_factory=list)
    on_sleep: Any = None

    def clock(self) -> float:
        """Return the time."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Move on."""
        self.now += seconds
        self.sleeps.append(seconds)
        if self.on_sleep:
            self.on_sleep()


@dataclass
class Gateway:
    """The application with its fakes and a client that has tenant alpha's key."""

    client: httpx.AsyncClient
    store: FakeStore
    publisher: FakePublisher
    embedder: FakeEmbedder
    flow: FakeFlow
    time: FakeTime
    codec: Codec
    checks: dict[str, Any]
    app: FastAPI

    def replace(self, **changes: Any) -> None:
        """Give the application other dependencies."""
        self.app.state.dependencies = replace(self.app.state.dependencies, **changes)

    async def change(self, body: Any, **arguments: Any) -> httpx.Response:
        """Post changes."""
        return await self.client.post("/v1/changes", json=body, **arguments)


def longest_first(request: httpx.Request) -> httpx.Response:
    """A reranker for which a longer passage is better."""
    documents = json.loads(request.content)["documents"]
    results = [{"index": place, "relevance_score": len(text)} for place, text in enumerate(documents)]
    return httpx.Response(200, json={"results": results})


SETTINGS = GatewaySettings(max_body_bytes=64 * 1024, max_content_bytes=1000, max_changes=20)


@pytest_asyncio.fixture
async def gateway() -> AsyncIterator[Gateway]:
    """A gateway of its own for each test."""
    store, publisher, embedder, flow, time = FakeStore(), FakePublisher(), FakeEmbedder(), FakeFlow(), FakeTime()
    codec = Codec(FixedIds())
    checks: dict[str, Any] = {"embedder": lambda: embedder.ping(Generation("g1", "model", 2))}
    app = create_app(
        Dependencies(
            settings=SETTINGS,
            kafka=KafkaSettings(topic_prefix="t-"),
            codec=codec,
            store=store,
            publisher=publisher,
            questions=Questions(embedder, SearchSettings()),
            reranker=Reranker(RerankSettings(url="http://ranker/v1"), httpx.MockTransport(longest_first)),
            flow=flow,
            pipeline_version=lambda _: 3,
            checks=checks,
            sleep=time.sleep,
            clock=time.clock,
        )
    )
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app),
        base_url="http://gateway",
        headers={"Authorization": "Bearer hr_alpha"},
    ) as client:
        yield Gateway(client, store, publisher, embedder, flow, time, codec, checks, app)


def make_row(document_id: str, **changes: Any) -> DocumentRow:
    """A row of the store."""
    values: dict[str, Any] = {
        "document_id": document_id,
        "version": 3,
        "deleted": False,
        "content_hash": b"h",
        "title": "Title",
        "source": "s",
        "media_type": "text/plain",
        "acl": [],
        "attributes": {},
        "pipeline_id": "index",
        "pipeline_version": "1",
        "request_id": "r-3",
        "history": [{"stage": "ingest", "handlers": ["parse@1"], "attempt": 1, "duration_us": 5}],
        "metadata": {},
        "model": "m",
        "generations": ["g1"],
        "indexed_at": datetime(2026, 1, 2, tzinfo=UTC),
        "chunks": 4,
    }
    return DocumentRow(**{**values, **changes})


def make_letter(**changes: Any) -> DeadLetterEntry:
    """A dead letter as it is remembered."""
    values: dict[str, Any] = {
        "stage": "chunker",
        "reason": "invalid-record",
        "message": "content: is no text",
        "remedy": "Send text.",
        "version": 4,
        "request_id": "r-4",
        "partition": 0,
        "offset": 9,
        "failed_at_ms": 1_800_000_000_000,
        "operation": "UPSERT",
        "acl": (),
    }
    return DeadLetterEntry(**{**values, **changes})


def make_hit(text: str = "Open the gate slowly.", **changes: Any) -> Hit:
    """A passage."""
    values: dict[str, Any] = {
        "document_id": "guide.md",
        "title": "Guide",
        "version": 3,
        "chunk_id": bytes(16),
        "section": ("Start", "Gate"),
        "start": 10,
        "end": 10 + len(text),
        "ordinal": 0,
        "text": text,
        "score": 0.9,
        "source": "https://example.com/guide",
        "attributes": {"lang": "en"},
    }
    return Hit(**{**values, **changes})


@pytest_asyncio.fixture
async def rows() -> Any:
    """Makers of rows, letters and hits, since test folders are no packages."""
    return type(
        "Makers",
        (),
        {"row": staticmethod(make_row), "letter": staticmethod(make_letter), "hit": staticmethod(make_hit)},
    )
