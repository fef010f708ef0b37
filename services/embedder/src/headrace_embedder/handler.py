"""The handler ``embed``: embeds the texts that are not in the vector cache.

The text template prepares each chunk's text; the hash of the prepared text is the key of its vector. The handler sorts
the texts of the whole batch by length and embeds them slice by slice. It caches each slice as soon as it is computed,
so a batch that runs again (after a crash or a rebalance) calls the model only for the missing texts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from operator import itemgetter
from typing import TYPE_CHECKING, ClassVar

from headrace.config.settings import KafkaSettings
from headrace.embeddings.preparation import NO_KEY
from headrace.envelope import Context
from headrace.errors import ConfigurationError, DependencyDown, HeadraceError, HoldRecord
from headrace.handler import READ_AGAIN, BatchHandler
from headrace.payloads import ChunkedDocument, EmbeddedDocument
from headrace.store import cache
from headrace.store.error_mapping import postgresql_errors
from headrace.store.generations import differently, get_generation
from headrace.store.pool import StoreSettings, create_pool
from headrace.store.transactions import tenant_transaction
from headrace_embedder import metrics
from headrace_embedder.batch import UNREAD, Computed, Document, EmbeddingBatch, Key, Text, by_tenant
from headrace_embedder.cache_bound import CacheBound
from headrace_embedder.over_long import embed_passages, left_out
from headrace_embedder.provider import Provider
from headrace_embedder.random_questions import embed_random_questions
from headrace_embedder.settings import EmbedderSettings
from headrace_embedder.shared import shared_provider
from headrace_embedder.spending import Spending
from headrace_embedder.types import Kind

if TYPE_CHECKING:
    from headrace.store.pool import Pool
    from headrace.store.usage import Bill

SLICE_TEXTS = 256
"""Texts per write to the cache; a crash can cost this slice and the next one."""
_SLICES_UNDER_WAY = 2
"""While the model runs one slice, the next one is counted and queued, so that the model never waits for texts."""
TOUCHES = 5
"""Maximum updates of a vector's last use within the days to keep it, so that reads cause almost no writes."""


class EmbedHandler(BatchHandler[ChunkedDocument, EmbeddedDocument]):
    """Embeds texts that no earlier record contained; an edit of one chunk costs one text."""

    name: ClassVar[str] = "embed"
    stage: ClassVar[str] = "embedder"

    def __init__(self) -> None:
        self._pool: Pool | None = None
        self._provider: Provider | None = None
        self._spending: Spending | None = None
        self._generation = KafkaSettings().generation
        settings = EmbedderSettings()
        self._preparation = settings.preparation
        self._cache_keep_days = settings.cache_keep_days
        self._across_tenants = settings.cache_across_tenants
        self._bound = CacheBound(settings.cache_rows, settings.cache_keep_days)

    async def start(self) -> None:
        """Load the model, connect, and check that the generation has this model and this preparation of texts."""
        self._provider = await shared_provider()
        self._spending = Spending(self._provider.model, local=self._provider.local)
        self._spending.warn()
        self._pool = await create_pool(StoreSettings())
        with postgresql_errors():
            async with self._pool.acquire() as connection:
                found = await get_generation(connection, self._generation)
        mine = (self._provider.model, self._provider.dimensions)
        if found is None or (found.model, found.dimensions) != mine:
            theirs = f"has model {found.model} with {found.dimensions} dimensions" if found else "does not exist"
            raise ConfigurationError(
                f"generation {self._generation} {theirs}, but this embedder runs {mine[0]} with {mine[1]} dimensions",
                remedy="Set HEADRACE_EMBEDDER_MODEL to the generation's model, or create a generation for this model "
                "with `headrace generations create`.",
            )
        if found.preparation != self._preparation:
            raise ConfigurationError(
                f"generation {self._generation} {differently(found.preparation, self._preparation)}",
                where="HEADRACE_EMBEDDER_TEXT_TEMPLATE, _PASSAGE_PROMPT, _OVER_LONG",
                remedy="Set them to the generation's values, or create a generation for these values with `headrace "
                "generations create` and its options --template, --passage-prompt and --over-long.",
            )
        await embed_random_questions(self._pool, found, self._provider)

    async def close(self) -> None:
        """Close the connections; the provider belongs to the service."""
        if self._pool is not None:
            await self._pool.close()

    async def process_batch(
        self, contexts: Sequence[Context[ChunkedDocument]]
    ) -> Sequence[Context[EmbeddedDocument] | HeadraceError]:
        """Return each document with the vectors that were computed for it, or its error."""
        provider = self._provider
        assert provider is not None
        batch = EmbeddingBatch([Document(context, self._preparation.of(context.payload)) for context in contexts])
        wanted = batch.missing()
        batch.cached(await self._known(wanted))
        batch.share(await self._shared_vectors(batch.missing()))
        metrics.TEXTS_CACHED.inc(len(wanted) - len(batch.missing()))
        batch.skip(await self._left_out(batch.missing()))
        batch.hold(await self._over({text.tenant for text in batch.missing()}))
        read_again = READ_AGAIN.get()
        metrics.RECORDS_DEFERRED.inc(batch.admit(provider.fair, read_again=read_again))
        with provider.fair.granted(read_again=read_again) if provider.fair else nullcontext():
            computed = await self._embed(batch.missing())
        results = batch.results(
            computed, generation=self._generation, model=provider.model, dimensions=provider.dimensions
        )
        made = [result.payload for result in results if isinstance(result, Context)]
        unread = sum(isinstance(result, Context) and UNREAD in result.metadata for result in results)
        metrics.DOCUMENTS_UNREAD.inc(unread)
        metrics.TEXTS_SKIPPED.inc(sum(document.vector_keys.count(NO_KEY) for document in made))
        return results

    async def _over(self, tenants: set[str]) -> dict[str, HoldRecord]:
        assert self._pool is not None
        assert self._spending is not None
        return await self._spending.over(self._pool, tenants)

    async def _left_out(self, texts: Sequence[Text]) -> dict[Key, str]:
        """Return the texts that get no vector by design, with the reason; they are free, so caps are checked later."""
        assert self._provider is not None
        found = await left_out(self._provider, [text.text for text in texts], self._preparation)
        return {texts[position].key: reason for position, reason in found.items()}

    async def _known(self, texts: Sequence[Text]) -> set[Key]:
        """Return the texts whose vector is cached and stays cached as long as records may rely on it."""
        found: set[Key] = set()
        for tenant, wanted in by_tenant(texts).items():
            found.update((tenant, text_hash) for text_hash in await self._relied_on(tenant, wanted))
        return found

    async def _relied_on(self, tenant: str, wanted: Collection[bytes]) -> set[bytes]:
        assert self._pool is not None
        assert self._provider is not None
        days, model = self._cache_keep_days // TOUCHES, self._provider.model
        async with tenant_transaction(self._pool, tenant, readonly=True) as connection:
            fresh, stale = await cache.known_since(connection, tenant, model, wanted, days)
        if stale:
            async with tenant_transaction(self._pool, tenant) as connection:
                fresh |= await cache.touch(connection, tenant, model, stale)
        return fresh

    async def _shared_vectors(self, texts: Sequence[Text]) -> dict[Key, bytes]:
        """Return vectors that other tenants paid for, and cache them for the text's tenant; none unless enabled."""
        if not self._across_tenants or not texts:
            return {}
        assert self._pool is not None
        assert self._provider is not None
        known = await self._relied_on(cache.SHARED, {text.text_hash for text in texts})
        async with tenant_transaction(self._pool, cache.SHARED, readonly=True) as connection:
            vectors = await cache.fetch(connection, cache.SHARED, self._provider.model, known)
        shared = {text.key: vectors[text.text_hash] for text in texts if text.text_hash in vectors}
        await self._store(shared, {})
        return shared

    async def _embed(self, texts: Sequence[Text]) -> Computed:
        """Return the outcome of each text; every vector is already in the cache."""
        computed = Computed()
        assert self._provider is not None
        lengths = await self._provider.lengths([text.text for text in texts], Kind.PASSAGE)
        ordered = sorted(zip(lengths, texts, strict=True), key=itemgetter(0), reverse=True)
        room = asyncio.Semaphore(_SLICES_UNDER_WAY)
        failures: list[Exception] = []
        writes: list[asyncio.Task[None]] = []

        async def write(fresh: Mapping[Key, bytes], bills: Mapping[str, Bill]) -> None:
            try:
                await self._remember(fresh, bills)
            except Exception as error:  # noqa: BLE001  # raised below, after the other writes
                failures.append(error)

        async def one(part: Sequence[tuple[int, Text]]) -> None:
            async with room:
                if failures:
                    return
                try:
                    fresh, bills, failure = await self._embed_slice(part, computed)
                except Exception as error:  # noqa: BLE001  # raised below, after the other slice is cached
                    failures.append(error)
                    return
            # The model continues while the slice is written to the cache; every computed vector is cached in any case.
            writes.append(asyncio.create_task(write(fresh, bills), name="cache-vectors"))
            computed.vectors |= fresh
            if failure is not None:
                failures.append(failure)

        slices = (ordered[start : start + SLICE_TEXTS] for start in range(0, len(ordered), SLICE_TEXTS))
        running = [asyncio.create_task(one(part), name="embed-slice") for part in slices]
        try:
            await asyncio.gather(*running)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await asyncio.gather(*writes)
        if failures:
            raise failures[0]
        return computed

    async def _embed_slice(
        self, sized: Sequence[tuple[int, Text]], computed: Computed
    ) -> tuple[dict[Key, bytes], dict[str, Bill], DependencyDown | None]:
        """Return the slice's vectors, its bills and the failure that ended it; note other outcomes in ``computed``."""
        assert self._provider is not None
        assert self._spending is not None
        part = [text for _, text in sized]
        lengths = [length for length, _ in sized]
        result = await embed_passages(self._provider, [text.text for text in part], self._preparation, lengths)
        little_endian = result.vectors.astype("<f4", copy=False)
        fresh: dict[Key, bytes] = {}
        for index, text in enumerate(part):
            if index in result.errors:
                computed.errors[text.key] = result.errors[index]
            elif index in result.skipped:
                computed.skipped[text.key] = result.skipped[index]
            elif index not in result.unanswered:
                fresh[text.key] = little_endian[index].tobytes()
        computed.cut.update(part[index].key for index in result.cut)
        computed.split.update(part[index].key for index in result.split)
        metrics.TEXTS_EMBEDDED.inc(len(fresh))
        metrics.TEXTS_CUT.inc(len(result.cut))
        metrics.TEXTS_SPLIT.inc(len(result.split))
        metrics.TOKENS.inc(result.tokens)
        metrics.EMBEDDING_ERRORS.inc(len(result.errors))
        return fresh, self._spending.bills(part, result), result.failure

    async def _remember(self, vectors: Mapping[Key, bytes], bills: Mapping[str, Bill]) -> None:
        await self._store(vectors, bills)
        if self._across_tenants:
            await self._store({(cache.SHARED, text_hash): vector for (_, text_hash), vector in vectors.items()}, {})

    async def _store(self, vectors: Mapping[Key, bytes], bills: Mapping[str, Bill]) -> None:
        """Cache the vectors and record their cost in the ledger, in one transaction per tenant."""
        assert self._pool is not None
        assert self._provider is not None
        for tenant in sorted({tenant for tenant, _ in vectors} | set(bills)):
            own = {text_hash: vector for (owner, text_hash), vector in vectors.items() if owner == tenant}
            async with tenant_transaction(self._pool, tenant) as connection:
                await cache.put(connection, tenant, self._provider.model, own)
                if tenant in bills:
                    assert self._spending is not None
                    await self._spending.record(connection, tenant, bills[tenant])
            await self._bound.keep(self._pool, tenant, len(own))
