"""The handler ``answer``: turns a question into an artifact with citations, and stores it before publishing it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar
from uuid import UUID

from headrace.access.readers import Reader
from headrace.envelope import Context
from headrace.errors import HeadraceError, InvalidRecord
from headrace.filters.parsing import parse_text
from headrace.handler import BatchHandler
from headrace.payloads import Artifact, GenerationRequest
from headrace.retrieval.query_vectors import EmbedderClient
from headrace.store import artifacts
from headrace.store.pool import StoreSettings, create_pool
from headrace.store.search import MAXIMUM_HITS
from headrace.topology.stages import GENERATOR
from headrace_generator.archive import Archive, StoreArchive, citation, record_of, row_of
from headrace_generator.citations import check_citations
from headrace_generator.extractive import ExtractiveProvider
from headrace_generator.language_model import LanguageModelProvider
from headrace_generator.no_answer import no_answer
from headrace_generator.passages import FindPassages, Retriever
from headrace_generator.providers import Draft, Provider
from headrace_generator.settings import GeneratorSettings

if TYPE_CHECKING:
    from headrace.store.pool import Pool

KINDS = ("answer",)
_MAX_TITLE = 200


class AnswerHandler(BatchHandler[GenerationRequest, Artifact]):
    """Retrieves passages, lets a provider write the answer, checks its citations and stores the artifact.

    It processes several requests concurrently and independently. If a request's artifact is already stored, it does
    not write it again. Without arguments, everything comes from the environment; an argument replaces what
    :meth:`start` would open.
    """

    name: ClassVar[str] = "answer"
    stage: ClassVar[str] = GENERATOR.name

    def __init__(
        self,
        *,
        settings: GeneratorSettings | None = None,
        find_passages: FindPassages | None = None,
        provider: Provider | None = None,
        archive: Archive | None = None,
    ) -> None:
        self._settings = settings or GeneratorSettings()
        self._find = find_passages
        self._provider = provider
        self._archive = archive
        self._pool: Pool | None = None
        self._embedder: EmbedderClient | None = None
        self._retriever: Retriever | None = None

    async def start(self) -> None:
        """Open the store, the embedder client and the provider; raises :class:`headrace.errors.DependencyDown`."""
        self._provider = self._provider or make_provider(self._settings)
        if self._find is not None and self._archive is not None:
            return
        pool = self._pool = self._pool or await create_pool(StoreSettings())
        self._embedder = self._embedder or EmbedderClient(self._settings.embedder)
        if self._find is None:
            self._retriever = self._retriever or Retriever(pool, self._embedder)
            self._find = self._retriever.find
        self._archive = self._archive or StoreArchive(pool)

    async def close(self) -> None:
        """Close the provider, and the connections to reranker, embedder and store."""
        for opened in (self._provider, self._retriever, self._embedder, self._pool):
            if opened is not None:
                await opened.close()

    def validate(self, context: Context[GenerationRequest]) -> None:
        """Reject an empty question, an unknown kind, an invalid reader, and what search does not accept."""
        request = context.payload
        if not request.question.strip():
            raise InvalidRecord("question", "is empty")
        if request.kind not in KINDS:
            raise InvalidRecord("kind", f"unknown kind {request.kind!r}; allowed: {', '.join(KINDS)}")
        if not 1 <= request.top_k <= MAXIMUM_HITS:
            raise InvalidRecord("top_k", f"{request.top_k} is out of range; allowed: 1 to {MAXIMUM_HITS}")
        try:
            Reader.of(request.reader)
        except ValueError as error:
            raise InvalidRecord("reader", str(error)) from error
        if request.filter is not None:
            parse_text(request.filter)

    async def process_batch(
        self, contexts: Sequence[Context[GenerationRequest]]
    ) -> Sequence[Context[Artifact] | HeadraceError]:
        """Return an outcome for each request; the setting ``concurrency`` limits how many run at the same time."""
        gate = asyncio.Semaphore(self._settings.concurrency)

        async def answered(context: Context[GenerationRequest]) -> Context[Artifact]:
            async with gate:
                return await self.process(context)

        outcomes = await asyncio.gather(*map(answered, contexts), return_exceptions=True)
        results: list[Context[Artifact] | HeadraceError] = []
        for outcome in outcomes:
            if not isinstance(outcome, Context | HeadraceError):
                raise outcome
            results.append(outcome)
        return results

    async def process(self, context: Context[GenerationRequest]) -> Context[Artifact]:
        """Return the context with the artifact; a repeated request gets the same artifact."""
        assert self._archive is not None
        identifier = artifacts.artifact_id(context.change.tenant, context.trace.request_id)
        kept = await self._archive.get(context.change.tenant, identifier)
        return await self._write(context, identifier) if kept is None else self._again(context, kept)

    def _again(self, context: Context[GenerationRequest], kept: artifacts.Artifact) -> Context[Artifact]:
        """Return the context with the artifact that an earlier attempt stored for this request."""
        artifact = record_of(kept)
        return context.with_payload(artifact).with_metadata(
            self.stage, provider=artifact.provider, model=artifact.model, citations=len(artifact.citations)
        )

    async def _write(self, context: Context[GenerationRequest], identifier: UUID) -> Context[Artifact]:
        assert self._find is not None
        assert self._provider is not None
        assert self._archive is not None
        request = context.payload
        found = await self._find(context.change.tenant, request)
        passages = found.hits
        if passages:
            draft = await self._provider.write(request.question, passages)
        else:
            draft = Draft(no_answer(request.question), "none")
        checked = check_citations(draft.text, len(passages))
        artifact = Artifact(
            artifact_id=str(identifier),
            kind=request.kind,
            title=request.question.strip()[:_MAX_TITLE],
            mime_type="text/markdown",
            text=checked.text,
            provider=self._provider.name,
            model=draft.model,
            citations=tuple(citation(number, passages[number - 1]) for number in checked.cited),
        )
        if not await self._archive.put(row_of(context, artifact, draft.prompt, passages)):
            kept = await self._archive.get(context.change.tenant, identifier)
            if kept is not None:  # another worker, which is fenced by now, stored it first
                return self._again(context, kept)
        return context.with_payload(artifact).with_metadata(
            self.stage,
            provider=artifact.provider,
            model=artifact.model,
            passages=len(passages),
            **({} if found.fit is None else {"fit": round(found.fit, 3)}),
            citations=len(artifact.citations),
            citations_removed=checked.removed,
            uncited=bool(passages) and not artifact.citations,
        )


def make_provider(settings: GeneratorSettings) -> Provider:
    """Return the provider that the settings name; raises :class:`headrace.errors.ConfigurationError`."""
    configured = bool(settings.base_url and settings.model)
    if settings.provider == "openai-compatible" or (settings.provider == "auto" and configured):
        return LanguageModelProvider(settings)
    return ExtractiveProvider()
