"""What the application is given: everything that reaches outside, so that tests can give something else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from headrace.codec.codec import Codec
from headrace.config.settings import KafkaSettings
from headrace.documents.status import DeadLetterEntry
from headrace.retrieval.query_vectors import QueryVectors
from headrace.store.artifacts import Artifact
from headrace.store.documents import DocumentRow, DocumentState, Listed
from headrace.store.rows import Generation
from headrace.store.search import Hit
from headrace_gateway.flow import FlowState
from headrace_gateway.publisher import Publisher
from headrace_gateway.settings import GatewaySettings


class Store(Protocol):
    """The index, one tenant at a time; every method raises :class:`headrace.errors.DependencyDown`."""

    async def tenant_of(self, key: str) -> str | None:
        """Return the tenant whose API key this is."""

    @property
    def active(self) -> Callable[[], Awaitable[Generation]]:
        """What returns the generation that is searched."""

    async def search(
        self,
        tenant: str,
        generation: Generation,
        vector: bytes,
        *,
        top_k: int,
        document_ids: Sequence[str] | None,
        attributes: Mapping[str, str] | None,
        query_text: str | None,
    ) -> list[Hit]:
        """Return the best passages, the best first; with ``query_text`` words count too."""

    async def document(self, tenant: str, document_id: str) -> DocumentRow | None:
        """Return the document's row."""

    async def states(self, tenant: str, document_ids: Sequence[str]) -> Mapping[str, DocumentState]:
        """Return the state of those that the store knows."""

    async def having(
        self, tenant: str, attributes: Mapping[str, str], *, after: str | None, limit: int
    ) -> Sequence[Listed]:
        """Return live documents with all of these attributes, by id, after the one named."""

    async def artifact(self, tenant: str, artifact_id: UUID) -> Artifact | None:
        """Return the newest version of an artifact."""


class Flow(Protocol):
    """Where records stand between the stages."""

    async def waiting(self, key: bytes) -> FlowState:
        """Return the records of this key that stages have not taken yet."""

    def dead_letters(self, key: bytes) -> Sequence[DeadLetterEntry]:
        """Return the dead letters of this key, the newest last, as far as they are remembered."""


Check = Callable[[], Awaitable[None]]
"""Raises where the dependency does not answer."""


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What :func:`headrace_gateway.app.create_app` takes."""

    settings: GatewaySettings
    kafka: KafkaSettings
    codec: Codec
    store: Store
    publisher: Publisher
    embedder: QueryVectors
    flow: Flow
    pipeline_version: Callable[[str], int]
    """Newest version of a pipeline; may block, raises :class:`headrace.errors.UnknownPipeline`."""
    checks: Mapping[str, Check] = field(default_factory=dict)
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    clock: Callable[[], float] = time.monotonic
