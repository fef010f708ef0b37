"""The application's dependencies: everything that reaches outside, so that tests can replace it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from headrace.access.readers import Reader
from headrace.codec.codec import Codec
from headrace.config.settings import KafkaSettings
from headrace.documents.status import DeadLetterEntry
from headrace.filters.model import Filter
from headrace.retrieval.questions import Questions
from headrace.retrieval.rerank import Reranker
from headrace.store.artifacts import Artifact
from headrace.store.documents import DocumentRow, DocumentState, Listed
from headrace.store.keys import KeyOwner
from headrace.store.rows import Generation
from headrace.store.search import Found, Question, Shape
from headrace_gateway.flow import FlowState
from headrace_gateway.publisher import Publisher
from headrace_gateway.settings import GatewaySettings


class Store(Protocol):
    """The index, one tenant and one reader at a time; every method raises :class:`headrace.errors.DependencyDown`.

    What the reader may not read is as if it did not exist.
    """

    async def owner_of(self, key: str) -> KeyOwner | None:
        """Return whom an API key stands for; None for an unknown or revoked key."""

    @property
    def active(self) -> Callable[[], Awaitable[Generation]]:
        """Returns the active generation."""

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
        """Return the best passages, best first, and how well they fit."""

    async def document(self, tenant: str, reader: Reader, document_id: str) -> DocumentRow | None:
        """Return the document's row."""

    async def states(self, tenant: str, reader: Reader, document_ids: Sequence[str]) -> Mapping[str, DocumentState]:
        """Return the states of the documents that the store knows."""

    async def having(
        self, tenant: str, reader: Reader, attributes: Mapping[str, str], *, after: str | None, limit: int
    ) -> Sequence[Listed]:
        """Return live documents with all of these attributes, ordered by ID, starting after ``after``."""

    async def artifact(self, tenant: str, reader: Reader, artifact_id: UUID) -> Artifact | None:
        """Return the newest version of an artifact."""


class Flow(Protocol):
    """The position of records between the stages."""

    async def waiting(self, key: bytes) -> FlowState:
        """Return the records of this key that stages have not processed yet; reads the log."""

    async def refresh(self) -> None:
        """Bring :meth:`pending` up to date; raises :class:`headrace.errors.DependencyDown`."""

    def pending(self, key: bytes) -> FlowState:
        """Return the records of this key that stages had not processed at the last refresh."""

    def dead_letters(self, key: bytes) -> Sequence[DeadLetterEntry]:
        """Return the dead letters of this key that are in memory, newest last."""


Check = Callable[[], Awaitable[None]]
"""Raises if the dependency does not answer."""


@dataclass(frozen=True, slots=True)
class Dependencies:
    """The argument of :func:`headrace_gateway.app.create_app`."""

    settings: GatewaySettings
    kafka: KafkaSettings
    codec: Codec
    store: Store
    publisher: Publisher
    questions: Questions
    reranker: Reranker
    flow: Flow
    pipeline_version: Callable[[str], int]
    """Newest version of a pipeline; may block; raises :class:`headrace.errors.UnknownPipeline`."""
    checks: Mapping[str, Check] = field(default_factory=dict)
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    clock: Callable[[], float] = time.monotonic
