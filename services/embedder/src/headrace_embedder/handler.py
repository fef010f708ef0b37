"""The handler ``embed``: vectors for the texts that were never embedded, from the cache for all others.

Texts of the whole batch are embedded together, sorted by length, slice by slice; each slice is cached as soon as it is
computed, so that a batch that runs again (after a crash, a rebalance) calls the model only for what is missing.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from headrace.envelope import Context
from headrace.errors import ConfigurationError, Deferred, HeadraceError, InvalidRecord, SetAside
from headrace.handler import READ_AGAIN, BatchHandler
from headrace.records import ChunkedDocument, EmbeddedDocument
from headrace.settings import KafkaSettings
from headrace.store import cache
from headrace.store.errors import postgresql_errors
from headrace.store.generations import get_generation
from headrace.store.pool import StoreSettings, create_pool
from headrace.store.transactions import tenant_transaction
from headrace_embedder import metrics
from headrace_embedder.fairness import Asked, FairShare
from headrace_embedder.provider import Kind, Provider
from headrace_embedder.shared import shared_provider
from headrace_embedder.spending import Spending, Text

if TYPE_CHECKING:
    from headrace.store.pool import Pool
    from headrace.store.usage import Bill

SLICE_TEXTS = 256
"""Texts that are embedded between two writes to the cache: with the slice ahead, what a crash can cost."""
_SLICES_UNDER_WAY = 2
"""One is in the model, the next is counted and queued, so that the model never waits for texts."""


class EmbedHandler(BatchHandler):
    """Embeds what no earlier record had; an edit of one chunk costs one text."""

    name: ClassVar[str] = "embed"
    stage: ClassVar[str] = "embedder"
    consumes: ClassVar[type] = ChunkedDocument
    produces: ClassVar[type] = EmbeddedDocument

    def __init__(self) -> None:
        self._pool: Pool | None = None
        self._provider: Provider | None = None
        self._spending: Spending | None = None
        self._generation = KafkaSettings().generation

    async def start(self) -> None:
        """Load the model, connect, and see that the generation is of this model."""
        self._provider = await shared_provider()
        self._spending = Spending(self._provider.model, local=self._provider.local)
        self._spending.check()
        self._pool = await create_pool(StoreSettings())
        with postgresql_errors():
            async with self._pool.acquire() as connection:
                found = await get_generation(connection, self._generation)
        mine = (self._provider.model, self._provider.dimensions)
        if found is None or (found.model, found.dimensions) != mine:
            theirs = f"of {found.model} with {found.dimensions}" if found else "missing"
            raise ConfigurationError(
                f"generation {self._generation} is {theirs}; this embedder runs {mine[0]} with {mine[1]} dimensions",
                remedy="Set HEADRACE_EMBEDDER_MODEL to the generation's model, or create a generation for this one.",
            )

    async def close(self) -> None:
        """Close the connections; the provider is the service's."""
        if self._pool is not None:
            await self._pool.close()

    async def process_batch(self, contexts: Sequence[Context]) -> Sequence[Context | HeadraceError]:
        """Return each document with the vectors that were computed for it."""
        wanted = distinct_texts(contexts)
        known = await self._known(wanted)
        missing = [text for text in wanted if (text.tenant, text.text_hash) not in known]
        metrics.TEXTS_CACHED.inc(len(wanted) - len(missing))
        aside = set_aside(contexts, missing, await self._over({text.tenant for text in missing}))
        missing = still_missing(contexts, missing, [why is None for why in aside])
        provider = self._provider
        assert provider is not None
        fair, read_again = provider.fair, READ_AGAIN.get()
        goes = chosen(contexts, missing, fair, read_again=read_again)
        metrics.RECORDS_DEFERRED.inc(goes.count(False))
        missing = still_missing(contexts, missing, [go and why is None for go, why in zip(goes, aside, strict=True)])
        try:
            vectors, errors = await self._embed(missing)
        except BaseException:
            if fair is not None:
                fair.give_back(read_again=read_again)
            raise
        if fair is not None:
            fair.done(read_again=read_again)
        return [
            why
            or embedded(
                context,
                vectors,
                errors,
                generation=self._generation,
                model=provider.model,
                dimensions=provider.dimensions,
            )
            if may_go
            else Deferred(f"tenant {context.change.tenant} has its share of the embedding provider's limit for now")
            for context, may_go, why in zip(contexts, goes, aside, strict=True)
        ]

    async def _over(self, tenants: set[str]) -> dict[str, SetAside]:
        assert self._pool is not None
        assert self._spending is not None
        return await self._spending.over(self._pool, tenants)

    async def _known(self, texts: Sequence[Text]) -> set[tuple[str, bytes]]:
        assert self._pool is not None
        assert self._provider is not None
        hashes: dict[str, set[bytes]] = {}
        for text in texts:
            hashes.setdefault(text.tenant, set()).add(text.text_hash)
        found: set[tuple[str, bytes]] = set()
        for tenant, wanted in hashes.items():
            async with tenant_transaction(self._pool, tenant, readonly=True) as connection:
                cached = await cache.known(connection, tenant, self._provider.model, wanted)
            found.update((tenant, text_hash) for text_hash in cached)
        return found

    async def _embed(
        self, texts: Sequence[Text]
    ) -> tuple[dict[tuple[str, bytes], bytes], dict[tuple[str, bytes], HeadraceError]]:
        """Return vectors and errors by tenant and text hash; every vector is in the cache already."""
        vectors: dict[tuple[str, bytes], bytes] = {}
        errors: dict[tuple[str, bytes], HeadraceError] = {}
        ordered = sorted(texts, key=lambda text: len(text.text), reverse=True)
        room = asyncio.Semaphore(_SLICES_UNDER_WAY)
        writes: list[asyncio.Task[None]] = []

        async def one(part: Sequence[Text]) -> None:
            async with room:
                fresh, wrong, bills = await self._embed_slice(part)
            # The model goes on while the slice is written to the cache.
            writes.append(asyncio.create_task(self._remember(fresh, bills), name="cache-vectors"))
            vectors.update(fresh)
            errors.update(wrong)

        slices = (ordered[start : start + SLICE_TEXTS] for start in range(0, len(ordered), SLICE_TEXTS))
        running = [asyncio.create_task(one(part), name="embed-slice") for part in slices]
        try:
            await asyncio.gather(*running)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await asyncio.gather(*writes)
        return vectors, errors

    async def _embed_slice(
        self, part: Sequence[Text]
    ) -> tuple[dict[tuple[str, bytes], bytes], dict[tuple[str, bytes], HeadraceError], dict[str, Bill]]:
        assert self._provider is not None
        assert self._spending is not None
        result = await self._provider.embed([text.text for text in part], Kind.PASSAGE)
        little_endian = result.vectors.astype("<f4", copy=False)
        fresh: dict[tuple[str, bytes], bytes] = {}
        wrong: dict[tuple[str, bytes], HeadraceError] = {}
        for index, text in enumerate(part):
            key = (text.tenant, text.text_hash)
            if index in result.errors:
                wrong[key] = result.errors[index]
            else:
                fresh[key] = little_endian[index].tobytes()
        metrics.TEXTS_EMBEDDED.inc(len(fresh))
        metrics.TEXTS_CUT.inc(result.cut)
        metrics.TOKENS.inc(result.tokens)
        metrics.EMBEDDING_ERRORS.inc(len(wrong))
        return fresh, wrong, self._spending.bills(part, result)

    async def _remember(self, vectors: Mapping[tuple[str, bytes], bytes], bills: Mapping[str, Bill]) -> None:
        """Cache the vectors and write what they cost, tenant by tenant, each in one transaction."""
        assert self._pool is not None
        assert self._provider is not None
        assert self._spending is not None
        for tenant in sorted(bills):
            own = {text_hash: vector for (owner, text_hash), vector in vectors.items() if owner == tenant}
            async with tenant_transaction(self._pool, tenant) as connection:
                await cache.put(connection, tenant, self._provider.model, own)
                await self._spending.record(connection, tenant, bills[tenant])


def distinct_texts(contexts: Sequence[Context]) -> list[Text]:
    """Return every text of the batch once for each tenant."""
    texts: dict[tuple[str, bytes], Text] = {}
    for context in contexts:
        for chunk in context.payload.chunks:
            key = (context.change.tenant, chunk.text_hash)
            if key not in texts:
                texts[key] = Text(*key, chunk.text, context.change.document_id)
    return list(texts.values())


def still_missing(contexts: Sequence[Context], missing: Sequence[Text], goes: Sequence[bool]) -> list[Text]:
    """Return what is missing for the records that go, each text with the first of them that wants it."""
    if all(goes):
        return list(missing)
    keys = {text[:2] for text in missing}
    return [text for text in distinct_texts(list(itertools.compress(contexts, goes))) if text[:2] in keys]


def set_aside(
    contexts: Sequence[Context], missing: Sequence[Text], over: Mapping[str, SetAside]
) -> list[SetAside | None]:
    """Return for each record why it waits for its tenant's cap; None where it goes on, as what costs nothing does."""
    keys = {text[:2] for text in missing if text.tenant in over}
    return [
        over[context.change.tenant]
        if any((context.change.tenant, chunk.text_hash) in keys for chunk in context.payload.chunks)
        else None
        for context in contexts
    ]


def chosen(
    contexts: Sequence[Context], missing: Sequence[Text], fair: FairShare | None, *, read_again: bool
) -> list[bool]:
    """Return for each record whether it goes now or is deferred; one whose texts are all known goes in any case.

    A text that several records share is counted with each, for the others may be told to stand back.
    """
    if fair is None:
        return [True] * len(contexts)
    lacking = {(text.tenant, text.text_hash): text.text for text in missing}
    asked = []
    for context in contexts:
        tenant = context.change.tenant
        keys = dict.fromkeys((tenant, chunk.text_hash) for chunk in context.payload.chunks)
        own = [lacking[key] for key in keys if key in lacking]
        asked.append(Asked(tenant, fair.cost(own, len(missing))))
    return fair.choose(asked, read_again=read_again)


def embedded(
    context: Context,
    vectors: dict[tuple[str, bytes], bytes],
    errors: Mapping[tuple[str, bytes], HeadraceError],
    *,
    generation: str,
    model: str,
    dimensions: int,
) -> Context | HeadraceError:
    """Return the document with its vectors, taken out of ``vectors``: each travels once, with the first that has it."""
    document: ChunkedDocument = context.payload
    tenant = context.change.tenant
    for ordinal, chunk in enumerate(document.chunks):
        failure = errors.get((tenant, chunk.text_hash))
        if failure is not None:
            return InvalidRecord(f"chunks[{ordinal}].vector", failure.message, remedy=failure.remedy)
    own = {}
    for chunk in document.chunks:
        vector = vectors.pop((tenant, chunk.text_hash), None)
        if vector is not None:
            own[chunk.text_hash.hex()] = vector
    return context.with_payload(
        EmbeddedDocument(
            document.title, document.media_type, document.content_hash, document.source, document.attributes,
            document.acl, document.chunks, generation, model, dimensions, own,
            document.language, document.pages,
        )
    ).with_metadata("embedder", model=model, texts=len(document.chunks), embedded=len(own))  # fmt: skip
