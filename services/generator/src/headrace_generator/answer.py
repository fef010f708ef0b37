"""The handler ``answer``: a question in, a cited artifact out, stored before it is published."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import NAMESPACE_URL, UUID, uuid5

from headrace.envelope import Context
from headrace.errors import InvalidRecord
from headrace.handler import Handler
from headrace.records import Artifact, Citation, GenerationRequest
from headrace.stage import GENERATOR
from headrace.store import artifacts
from headrace.store.pool import StoreSettings, create_pool
from headrace.store.search import MAXIMUM_HITS, Hit
from headrace_generator.citations import check_citations
from headrace_generator.extractive import ExtractiveProvider
from headrace_generator.language_model import LanguageModelProvider
from headrace_generator.passages import FindPassages, QuestionEmbedder, Retriever
from headrace_generator.providers import Draft, Provider
from headrace_generator.settings import GeneratorSettings

if TYPE_CHECKING:
    from headrace.store.pool import Pool

KINDS = ("answer",)
_MAX_TITLE = 200
_NOTHING_FOUND = (
    "No passage was found for this question in the documents that may be used, so there is no answer to give."
)

StoreArtifact = Callable[[artifacts.Artifact], Awaitable[object]]
"""Stores a version of an artifact; a repeat changes nothing."""


class AnswerHandler(Handler):
    """Retrieves passages, has a provider write, checks its citations, stores the artifact.

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
        store: StoreArtifact | None = None,
    ) -> None:
        self._settings = settings
        self._find = find_passages
        self._provider = provider
        self._store = store
        self._pool: Pool | None = None
        self._embedder: QuestionEmbedder | None = None

    async def start(self) -> None:
        """Open store, embedder and provider; raises :class:`headrace.errors.DependencyDown`."""
        settings = self._settings or GeneratorSettings()
        self._provider = self._provider or make_provider(settings)
        if self._find is not None and self._store is not None:
            return
        pool = self._pool = self._pool or await create_pool(StoreSettings())
        self._embedder = self._embedder or QuestionEmbedder(settings)
        self._find = self._find or Retriever(pool, self._embedder).find
        self._store = self._store or (lambda artifact: artifacts.put(pool, artifact))

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

    async def process(self, context: Context) -> Context:
        """Return the context with the artifact; a repeat of the request is the same artifact."""
        assert self._find is not None
        assert self._provider is not None
        assert self._store is not None
        request: GenerationRequest = context.payload
        passages = await self._find(context.change.tenant, request)
        if passages:
            draft = await self._provider.write(request.question, passages)
        else:
            draft = Draft(_NOTHING_FOUND, "none")
        checked = check_citations(draft.text, len(passages))
        citations = tuple(citation(number, passages[number - 1]) for number in checked.cited)
        identifier = artifact_id(context.change.tenant, context.trace.request_id)
        artifact = Artifact(
            artifact_id=str(identifier),
            kind=request.kind,
            title=request.question.strip()[:_MAX_TITLE],
            mime_type="text/markdown",
            text=checked.text,
            provider=self._provider.name,
            model=draft.model,
            citations=citations,
        )
        await self._store(_row(context, artifact, identifier, draft.prompt))
        return context.with_payload(artifact).with_metadata(
            self.stage,
            provider=artifact.provider,
            model=artifact.model,
            passages=len(passages),
            citations=len(citations),
            citations_removed=checked.removed,
            uncited=bool(passages) and not citations,
        )


def make_provider(settings: GeneratorSettings) -> Provider:
    """Return the provider that the settings name; raises :class:`headrace.errors.ConfigurationError`."""
    configured = bool(settings.base_url and settings.model)
    if settings.provider == "openai-compatible" or (settings.provider == "auto" and configured):
        return LanguageModelProvider(settings)
    return ExtractiveProvider()


def artifact_id(tenant: str, request: str) -> UUID:
    """Return the identity of a request's artifact; the gateway derives the same."""
    return uuid5(NAMESPACE_URL, f"headrace:artifact:{tenant}/{request}")


def citation(number: int, hit: Hit) -> Citation:
    """Return the passage as a citation."""
    return Citation(
        marker=number,
        document_id=hit.document_id,
        version=hit.version,
        chunk_id=hit.chunk_id,
        title=hit.title,
        section=hit.section,
        start=hit.start,
        end=hit.end,
        source=hit.source or None,
        score=hit.score,
        quote=hit.text,
    )


def _row(context: Context, artifact: Artifact, identifier: UUID, prompt: str) -> artifacts.Artifact:
    """Return the artifact as the store keeps it."""
    trace = context.trace
    return artifacts.Artifact(
        tenant=context.change.tenant,
        artifact_id=identifier,
        version=1,
        request_id=trace.request_id,
        kind=artifact.kind,
        title=artifact.title,
        mime_type=artifact.mime_type,
        text=artifact.text,
        citations=_plain(artifact.citations),
        provider=artifact.provider,
        model=artifact.model,
        prompt=prompt,
        pipeline_id=trace.pipeline_id,
        pipeline_version=str(trace.pipeline_version),
        created_by=trace.requested_by or "",
    )


def _plain(citations: Sequence[Citation]) -> list[Mapping[str, Any]]:
    """Return citations as JSON takes them: chunk ids in hex, sections as lists."""
    return [{**asdict(one), "chunk_id": one.chunk_id.hex(), "section": list(one.section)} for one in citations]
