"""The handler under a limit: what is deferred costs no call, what is known is never deferred, limits wait as one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from headrace.embeddings.preparation import Preparation
from headrace.envelope import Change, Context, Metadata, Operation, Trace
from headrace.errors import Deferred, DependencyDown, SetAside
from headrace.handler import READ_AGAIN
from headrace.payloads import Chunk, ChunkedDocument, DocumentFacts
from headrace_embedder import metrics
from headrace_embedder.batch import Document, EmbeddingBatch, Text
from headrace_embedder.fairness import Asked, FairShare
from headrace_embedder.handler import EmbedHandler
from headrace_embedder.limits import Cost, MinuteLimits
from headrace_embedder.openai_compatible import OpenAICompatibleProvider
from headrace_embedder.settings import EmbedderSettings
from headrace_embedder.spending import Spending

pytestmark = pytest.mark.unit

TEXT = "x" * 30  # ten tokens
NOW = datetime(2026, 1, 2, tzinfo=UTC)


def document(tenant: str, name: str, *words: str) -> Context[ChunkedDocument]:
    """A document with a chunk for each word; a text of ten tokens and the word's hash."""
    chunks = tuple(Chunk(bytes(16), (), 0, len(TEXT), TEXT, text_hash=word.encode().ljust(16, b".")) for word in words)
    payload = ChunkedDocument(DocumentFacts(name, "text/plain", bytes(16)), chunks)
    return Context(
        Trace(f"r-{name}", "default", 1, NOW), Change(tenant, name, 1, Operation.UPSERT), payload, Metadata({})
    )


class Cached(EmbedHandler):
    """The handler with a cache in memory."""

    def __init__(self, provider: OpenAICompatibleProvider, known: set[tuple[str, bytes]]) -> None:
        super().__init__()
        self._provider = provider
        self._spending = Spending(provider.model, local=provider.local)
        self.known = known

    async def _known(self, texts: Sequence[Text]) -> set[tuple[str, bytes]]:
        return {text[:2] for text in texts} & self.known

    async def _over(self, tenants: set[str]) -> dict[str, SetAside]:
        return {}

    async def _remember(self, vectors: Any, bills: Any) -> None:
        self.known.update(vectors)


class Server:
    """Counts the texts that it embeds."""

    def __init__(self) -> None:
        self.texts = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        texts = json.loads(request.content)["input"]
        self.texts += len(texts)
        return httpx.Response(200, json={"data": [{"index": i, "embedding": [1.0, 2.0]} for i in range(len(texts))]})


def provider(server: Server, **settings: Any) -> OpenAICompatibleProvider:
    """A provider with these limits."""
    chosen_settings = EmbedderSettings(
        provider="openai-compatible", base_url="http://127.0.0.1:9/v1", model="m", dimensions=2, **settings
    )
    return OpenAICompatibleProvider(chosen_settings, httpx.MockTransport(server))


async def test_beyond_the_limit_records_are_deferred_at_no_cost_and_known_ones_go() -> None:
    """Broken: a live batch waits a minute for a flood, calls are made for what is deferred, or a cached edit waits."""
    server = Server()
    handler = Cached(provider(server, tokens_per_minute=50), {("a", b"known".ljust(16, b"."))})
    before = metrics.RECORDS_DEFERRED._value.get()
    flood = [document("a", f"d{at}", f"word{at}") for at in range(20)]
    outcomes = await handler.process_batch([*flood, document("a", "edit", "known"), document("b", "b", "word0")])
    assert [isinstance(found, Deferred) for found in outcomes] == [False] * 5 + [True] * 15 + [False, True]
    assert server.texts == 5
    assert metrics.RECORDS_DEFERRED._value.get() - before == 16
    assert "tenant a has used its share" in str(outcomes[5])


async def test_a_deferred_record_costs_nothing_once_another_brought_its_texts() -> None:
    """Broken: a deferred record pays twice, or one that shares a text with a deferred one goes without its vector."""
    server = Server()
    handler = Cached(provider(server, tokens_per_minute=10), set())
    together = [document("a", "large", "one", "two"), document("a", "small", "one")]
    large, small = await handler.process_batch(together)
    assert isinstance(large, Deferred)
    assert isinstance(small, Context)
    assert (len(small.payload.vectors), server.texts) == (1, 1)


async def test_a_flood_that_repeats_itself_is_deferred_with_its_copies() -> None:
    """Broken: the second copy of a deferred document goes free, and the live lane waits for all of them."""
    server = Server()
    handler = Cached(provider(server, tokens_per_minute=50), set())
    pairs = [document("a", f"d{at // 2}", f"word{at // 2}") for at in range(64)]
    outcomes = await asyncio.wait_for(handler.process_batch(pairs), 5)
    assert server.texts <= 5
    assert sum(isinstance(found, Deferred) for found in outcomes) >= 54


async def test_a_batch_that_came_to_nothing_counts_against_nobody() -> None:
    """Broken: after a 503 the same batch is over its share, and a light tenant stands behind the flood."""
    server = Server()
    asked = provider(server, tokens_per_minute=60)
    fair = asked.fair
    assert fair is not None
    light = [Asked("b", Cost(0.0, 2.0))] * 2
    fair.choose([Asked("a", Cost(0.0, 1000.0))] * 3, read_again=False)
    fair.done(read_again=False)
    for _ in range(20):
        assert fair.choose(light, read_again=False) == [True, True]
        fair.give_back(read_again=False)
    down = OpenAICompatibleProvider(
        EmbedderSettings(
            provider="openai-compatible", base_url="http://127.0.0.1:9/v1", model="m", dimensions=2,
            tokens_per_minute=60,
        ),
        httpx.MockTransport(lambda _: httpx.Response(503)),
    )  # fmt: skip
    handler = Cached(down, set())
    assert down.fair is not None
    with pytest.raises(DependencyDown):
        await handler.process_batch([document("b", "b", "one")])
    assert down.fair._now.taken == {"b": 0.0}


async def test_a_request_is_charged_whole_to_who_goes_in_it() -> None:
    """Broken: one small record a batch passes for a hundredth of a request, and takes the whole limit of requests."""
    fair = FairShare(
        MinuteLimits(requests=60, tokens=None, request_texts=128), window_s=10.0, passes=8, tenants=10,
        clock=lambda: 0.0,
    )  # fmt: skip
    small = Cost(1 / 128, 1.0)
    for _ in range(3):
        assert fair.choose([Asked("b", small)], read_again=False) == [True]
        fair.done(read_again=False)
    assert fair._now.taken["b"] == pytest.approx(3.0)


async def test_records_read_again_wait_for_the_limit_in_their_batch() -> None:
    """Broken: deferred records go round for ever, each time written once more."""
    handler = Cached(provider(Server(), tokens_per_minute=6000), set())
    READ_AGAIN.set(True)
    first = await handler.process_batch([document("a", f"d{at}", f"word{at}") for at in range(604)])
    assert sum(isinstance(found, Context) for found in first) == 600
    again = await handler.process_batch([document("a", f"e{at}", f"other{at}") for at in range(8)])
    assert isinstance(again[0], Context)


async def test_without_a_limit_nothing_is_deferred() -> None:
    """Broken: whoever sets no limit pays for the fairness that only a limit asks for."""
    handler = Cached(provider(Server()), set())
    outcomes = await handler.process_batch([document("a", f"d{at}", f"word{at}") for at in range(300)])
    assert all(isinstance(found, Context) for found in outcomes)
    batch = EmbeddingBatch([Document(one, Preparation().of(one.payload)) for one in [document("a", "d", "w")]])
    assert batch.admit(None, read_again=False) == 0
    assert [one.refusal for one in batch.documents] == [None]


async def test_a_cost_counts_requests_shared_by_their_texts_and_the_scarcer_limit() -> None:
    """Broken: the limit of requests is taken for one of texts, or the tighter of two limits is overlooked."""
    limits = MinuteLimits(requests=60, tokens=6000, request_texts=4)
    assert limits.cost([TEXT, TEXT], together=100) == Cost(0.5, 20.0)
    assert limits.cost([TEXT, TEXT], together=2) == Cost(1.0, 20.0)
    assert limits.cost([], together=0) == Cost()
    assert limits.seconds(Cost(0.5, 20.0)) == 0.5
    assert limits.seconds(Cost(0.5, 200.0)) == 2.0
    assert limits.fits(Cost(60.0, 6000.0))
    assert not limits.fits(Cost(61.0, 1.0))
    assert not limits.fits(Cost(1.0, 6001.0))


async def test_nothing_fits_while_somebody_waits() -> None:
    """Broken: small live requests take all that is refilled, and the large one that waits never has its turn."""
    limits = MinuteLimits(requests=None, tokens=6000, request_texts=4)
    await limits.wait(["x" * 3 * 6000])
    waiter = asyncio.create_task(limits.wait(["x" * 3 * 3000]))
    await asyncio.sleep(0)
    assert not limits.fits(Cost())
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)
    assert limits.fits(Cost())
