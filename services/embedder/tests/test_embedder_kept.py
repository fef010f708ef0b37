"""What a paid provider answered is kept and written down, whatever becomes of the requests behind it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from headrace.embeddings.preparation import OverLong, Preparation, text_hash
from headrace.envelope import Change, Context, Metadata, Operation, Trace
from headrace.errors import DependencyDown, InvalidRecord, SetAside
from headrace.payloads import Chunk, ChunkedDocument, DocumentFacts
from headrace_embedder.batch import Text
from headrace_embedder.handler import EmbedHandler
from headrace_embedder.loaded import TokenCounter
from headrace_embedder.openai_compatible import OpenAICompatibleProvider
from headrace_embedder.settings import EmbedderSettings
from headrace_embedder.spending import Spending

pytestmark = pytest.mark.unit
NOW = datetime(2026, 1, 2, tzinfo=UTC)
BAD = "refused"


class Server:
    """Refuses a request with the bad text, and has so many answers a minute."""

    def __init__(self, answers: int) -> None:
        self.answers = self.left = answers
        self.paid: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        texts = json.loads(request.content)["input"]
        if self.left <= 0:
            return httpx.Response(429, headers={"retry-after": "60"})
        self.left -= 1
        if BAD in texts:
            return httpx.Response(400, text="no")
        self.paid += texts
        data = [{"index": at, "embedding": [1.0, 2.0]} for at in range(len(texts))]
        return httpx.Response(200, json={"data": data, "usage": {"prompt_tokens": len(texts)}})


class Kept(EmbedHandler):
    """The handler with cache and ledger in memory."""

    def __init__(self, provider: OpenAICompatibleProvider, over: Sequence[str] = ()) -> None:
        super().__init__()
        self._provider = provider
        self._spending = Spending(provider.model, local=provider.local)
        self.known: set[tuple[str, bytes]] = set()
        self.tokens = self.texts = 0
        self.over = over

    async def _known(self, texts: Sequence[Text]) -> set[tuple[str, bytes]]:
        return {text[:2] for text in texts} & self.known

    async def _over(self, tenants: set[str]) -> dict[str, SetAside]:
        return {tenant: SetAside(f"cap/{tenant}", "full") for tenant in tenants & set(self.over)}

    async def _remember(self, vectors: Mapping[tuple[str, bytes], bytes], bills: Any) -> None:
        self.known.update(vectors)
        used = [one for bill in bills.values() for one in bill.documents.values()]
        self.tokens += sum(one.tokens for one in used)
        self.texts += sum(one.texts for one in used)


def provider(server: Server, **more: Any) -> OpenAICompatibleProvider:
    """A provider of that server."""
    settings = EmbedderSettings(
        provider="openai-compatible", base_url="http://127.0.0.1:9/v1", model="m", dimensions=2, **more
    )
    return OpenAICompatibleProvider(settings, httpx.MockTransport(server))


def document(*texts: str) -> Context[ChunkedDocument]:
    """A document with a chunk for each text."""
    chunks = tuple(Chunk(bytes([at]) * 16, (), 0, len(text), text, text_hash(text)) for at, text in enumerate(texts))
    payload = ChunkedDocument(DocumentFacts("d", "text/plain", bytes(16)), chunks)
    return Context(Trace("r", "default", 1, NOW), Change("a", "d", 1, Operation.UPSERT), payload, Metadata({}))


@pytest.mark.parametrize("more", [{}, {"request_texts": 4}])
async def test_a_refused_text_under_a_servers_own_limit_gets_on_and_nothing_is_paid_twice(more: dict[str, int]) -> None:
    """Broken: each 429 throws away what was answered before it: the stage never gets on, pays, and no cap sees it."""
    server = Server(4)
    handler = Kept(provider(server, **more))
    texts = [f"text {number}" for number in range(31)]
    outcome: object = None
    for _ in range(60):
        server.left = server.answers
        try:
            (outcome,) = await handler.process_batch([document(*texts[:5], BAD, *texts[5:])])
            break
        except DependencyDown:
            assert server.left == 0, "only the limit may end an attempt"
    assert isinstance(outcome, InvalidRecord)
    assert sorted(server.paid) == sorted(texts)
    assert len(handler.known) == 31
    assert handler.tokens == len(server.paid), "the ledger is the invoice"


async def test_a_text_that_is_left_out_costs_nothing_and_waits_for_no_cap(tokenizer: Any) -> None:
    """Broken: a capped tenant's document waits for a text that is never embedded, or its repeats fill the ledger."""
    server = Server(9)
    own = provider(server, over_long=OverLong.SKIP)
    own.counter = TokenCounter.of(tokenizer, 4)
    handler = Kept(own, over=["a"])
    handler._preparation = Preparation(over_long=OverLong.SKIP)
    (outcome,) = await handler.process_batch([document("one two three four five six")])
    assert isinstance(outcome, Context)
    assert outcome.metadata["embedder.skipped"] == "0 (6 tokens exceed the model's limit of 4)"
    assert (handler.texts, server.paid) == (0, [])


@pytest.fixture
def tokenizer() -> str:
    """A tokenizer of words, in JSON."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return words.to_str()
