"""The handler's slices: the next one waits at the model's door, and what was computed is never computed again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

import numpy as np
import pytest

from headrace.envelope import Change, Context, Metadata, Operation, Trace
from headrace.errors import DependencyDown, HoldRecord
from headrace.payloads import Chunk, ChunkedDocument, DocumentFacts
from headrace_embedder import handler as handler_module
from headrace_embedder.batch import Text
from headrace_embedder.handler import EmbedHandler
from headrace_embedder.provider import EmbedResult, Provider
from headrace_embedder.spending import Spending
from headrace_embedder.types import Kind

pytestmark = pytest.mark.unit

SLICE = 4


class Slow(Provider):
    """Embeds when it is told to; notes which texts were asked for and how many calls were under way at once."""

    name: ClassVar[str] = "slow"

    def __init__(self) -> None:
        self.model, self.dimensions = "m", 2
        self.asked: list[list[str]] = []
        self.under_way = self.most = 0
        self.fails_with: str | None = None

    async def embed(self, texts: Sequence[str], kind: Kind, lengths: Sequence[int] | None = None) -> EmbedResult:
        """Return ones, after some turns of the loop."""
        self.asked.append(list(texts))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            for _ in range(10):
                await asyncio.sleep(0)
            if self.fails_with in texts:
                raise DependencyDown("slow", "told to fail")
        finally:
            self.under_way -= 1
        ones = np.ones((len(texts), 2), np.float32)
        return EmbedResult(ones, tokens=len(texts), text_tokens=[1] * len(texts), calls=1)

    async def aclose(self) -> None:
        """Nothing is held."""


class Weighing(Slow):
    """The shorter a text of :func:`record`, the more tokens it has; notes what was counted and given back."""

    def __init__(self) -> None:
        super().__init__()
        self.counted = 0
        self.given: list[list[int]] = []

    async def lengths(self, texts: Sequence[str], kind: Kind) -> Sequence[int]:
        """Return the number that a text begins with, from 1."""
        self.counted += len(texts)
        return [int(text[:3]) + 1 for text in texts]

    async def embed(self, texts: Sequence[str], kind: Kind, lengths: Sequence[int] | None = None) -> EmbedResult:
        """Note the lengths that came with the texts."""
        assert lengths == await Weighing().lengths(texts, kind)
        self.given.append(list(lengths))
        return await super().embed(texts, kind, lengths)


class Cached(EmbedHandler):
    """The handler with a cache in memory."""

    def __init__(self, provider: Provider) -> None:
        super().__init__()
        self._provider = provider
        self._spending = Spending(provider.model, local=provider.local)
        self.known: set[tuple[str, bytes]] = set()

    async def _known(self, texts: Sequence[Text]) -> set[tuple[str, bytes]]:
        return {text[:2] for text in texts} & self.known

    async def _over(self, tenants: set[str]) -> dict[str, HoldRecord]:
        return {}

    async def _remember(self, vectors: Any, bills: Any) -> None:
        await asyncio.sleep(0)
        self.known.update(vectors)


def record(number: int) -> Context[ChunkedDocument]:
    """A document of so many chunks, longest first, as the handler sorts them."""
    texts = [f"{at:03d}" + "x" * (number - at) for at in range(number)]
    chunks = tuple(Chunk(bytes(16), (), 0, len(text), text, text_hash=text[:3].encode().ljust(16)) for text in texts)
    payload = ChunkedDocument(DocumentFacts("d", "text/plain", bytes(16)), chunks)
    now = datetime(2026, 1, 2, tzinfo=UTC)
    return Context(Trace("r", "default", 1, now), Change("t", "d", 1, Operation.UPSERT), payload, Metadata({}))


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four texts a slice."""
    monkeypatch.setattr(handler_module, "SLICE_TEXTS", SLICE)


async def test_the_next_slice_is_asked_for_while_one_runs_and_no_more() -> None:
    """Broken: the model waits while the next texts are counted, or a large batch is asked for all at once."""
    provider = Slow()
    handler = Cached(provider)

    (outcome,) = await handler.process_batch([record(22)])

    assert isinstance(outcome, Context)
    assert len(outcome.payload.vectors) == 22
    assert provider.most == 2
    assert [len(texts) for texts in provider.asked] == [4, 4, 4, 4, 4, 2]
    assert [texts[0][:3] for texts in provider.asked] == ["000", "004", "008", "012", "016", "020"]
    assert len(handler.known) == 22


async def test_texts_go_by_the_lengths_of_the_model_and_are_counted_once() -> None:
    """Broken: neighbours are alike in characters and not in tokens, so that a model pads; or each is counted twice."""
    provider = Weighing()
    handler = Cached(provider)

    (outcome,) = await handler.process_batch([record(10)])

    assert isinstance(outcome, Context)
    assert provider.counted == 10
    assert [length for lengths in provider.given for length in lengths] == [*range(10, 0, -1)]
    assert [texts[0][:3] for texts in provider.asked] == ["009", "005", "001"], "the last has most tokens here"


async def test_what_was_computed_before_a_failure_is_not_computed_again() -> None:
    """Broken: a slice that was done is lost with the batch, and paid for twice; or later slices go on by themselves."""
    provider = Slow()
    handler = Cached(provider)
    provider.fails_with = "013" + "x" * 9
    with pytest.raises(DependencyDown):
        await handler.process_batch([record(22)])
    assert provider.under_way == 0
    done = len(handler.known)
    assert done >= 8
    first = len(provider.asked)

    provider.fails_with = None
    (outcome,) = await handler.process_batch([record(22)])

    assert isinstance(outcome, Context)
    assert sum(map(len, provider.asked[first:])) == 22 - done


async def test_after_a_failed_write_no_other_write_runs_beside_the_next_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Broken: the batch is computed again while writes of the last attempt still change cache and ledger."""
    provider = Slow()
    handler = Cached(provider)
    running: list[int] = []

    async def remember(vectors: Any, _bills: Any) -> None:
        running.append(len(running))
        if len(running) == 1:
            raise DependencyDown("store")
        for _ in range(50):
            await asyncio.sleep(0)
        handler.known.update(vectors)

    monkeypatch.setattr(handler, "_remember", remember)
    with pytest.raises(DependencyDown, match="store"):
        await handler.process_batch([record(22)])
    assert len(handler.known) == SLICE * (len(running) - 1)
    assert len(provider.asked) < 6, "the model computes nothing that cannot be cached"
