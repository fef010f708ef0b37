"""The handler ``answer``: a question in, a cited artifact out, stored before it is published."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar
from uuid import UUID

from headrace.envelope import Context
from headrace.errors import HeadraceError, InvalidRecord
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
from headrace_generator.passages import FindPassages, Retriever
from headrace_generator.providers import Draft, Provider
from headrace_generator.settings import GeneratorSettings

if TYPE_CHECKING:
    from headrace.store.pool import Pool

KINDS = ("answer",)
_MAX_TITLE = 200
_NOTHING_FOUND = (
    "No passage was found for this question in the documents that may be used, so there is no answer to give."
)


class AnswerHandler(BatchHandler):
    """Retrieves passages, has a provider write, checks its citations, stores the artifact.

    Several requests at a time, each by itself. A request whose artifact is stored already is not written again.
    Without arguments everything comes from the environment; what is passed in takes the place of what would be opened.
    """

    name: ClassVar[str] = "answer"
    stage: ClassVar[str] = GENERATOR.name
    consumes: ClassVar[type] = GenerationRequest
    produces: ClassVar[type] = Artifact

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

    async def start(self) -> None:
        """Open store, embedder and provider; raises :class:`headrace.errors.DependencyDown`."""
        self._provider = self._provider or make_provider(self._settings)
        if self._find is not None and self._archive is not None:
            return
        pool = self._pool = self._pool or await create_pool(StoreSettings())
        self._embedder = self._embedder or EmbedderClient(self._settings.embedder)
        self._find = self._find or Retriever(pool, self._embedder).find
        self._archive = self._archive or StoreArchive(pool)

    async def close(self) -> None:
        """Close what was opened."""
        for opened in (self._provider, self._embedder, self._pool):
            if opened is not None:
                await opened.close()

    def validate(self, context: Context) -> None:
        """Refuse an empty question, an unknown kind and a number of passages that search refuses."""
        request: GenerationRequest = context.payload
        if not request.question.strip():
            raise InvalidRecord("question", "is empty")
        if request.kind not in KINDS:
            raise InvalidRecord("kind", f"{request.kind!r} is unknown; there is: {', '.join(KINDS)}")
        if not 1 <= request.top_k <= MAXIMUM_HITS:
            raise InvalidRecord("top_k", f"{request.top_k} is not between 1 and {MAXIMUM_HITS}")

    async def process_batch(self, contexts: Sequence[Context]) -> Sequence[Context | HeadraceError]:
        """Return an outcome for each request; so many are answered at a time as the settings say."""
        gate = asyncio.Semaphore(self._settings.concurrency)

        async def answered(context: Context) -> Context:
            async with gate:
                return await self.process(context)

        outcomes = await asyncio.gather(*map(answered, contexts), return_exceptions=True)
        results: list[Context | HeadraceError] = []
        for outcome in outcomes:
            if not isinstance(outcome, Context | HeadraceError):
                raise outcome
            results.append(outcome)
        return results

    async def process(self, context: Context) -> Context:
        """Return the context with the artifact; a repeat of the request is the same artifact."""
        assert self._archive is not None
        identifier = artifacts.artifact_id(context.change.tenant, context.trace.request_id)
        kept = await self._archive.get(context.change.tenant, identifier)
        return await self._write(context, identifier) if kept is None else self._again(context, kept)

    def _again(self, context: Context, kept: artifacts.Artifact) -> Context:
        """Return the context with the artifact that was written for this request before."""
        artifact = record_of(kept)
        return context.with_payload(artifact).with_metadata(
            self.stage, provider=artifact.provider, model=artifact.model, citations=len(artifact.citations)
        )

    async def _write(self, context: Context, identifier: UUID) -> Context:
        assert self._find is not None
        assert self._provider is not None
        assert self._archive is not None
        request: GenerationRequest = context.payload
        passages = await self._find(context.change.tenant, request)
        if passages:
            draft = await self._provider.write(request.question, passages)
        else:
            draft = Draft(_NOTHING_FOUND, "none")
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
        if not await self._archive.put(row_of(context, artifact, draft.prompt)):
            kept = await self._archive.get(context.change.tenant, identifier)
            if kept is not None:  # another worker, fenced by now, was faster
                return self._again(context, kept)
        return context.with_payload(artifact).with_metadata(
            self.stage,
            provider=artifact.provider,
            model=artifact.model,
            passages=len(passages),
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
