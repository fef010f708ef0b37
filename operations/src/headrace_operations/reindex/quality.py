"""How well a generation finds what answers a set of questions, through the search that users get."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headrace.access.readers import EVERY_DOCUMENT
from headrace.store.rows import Generation
from headrace.store.search import Question, search
from headrace_operations.reindex.questions import Asked

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from headrace.store.pool import Pool

    Ask = Callable[[Generation, str, str], Awaitable[Question]]
    """Makes a question of a tenant for the generation."""

TOP = 10
_HITS = 50
_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Quality:
    """The means over all questions, each from 0 to 1, and the median time of a search, in milliseconds.

    A document scores as its best chunk. Each question has one right document, so nDCG is 1 / log2(1 + its place).
    """

    ndcg_10: float
    recall_10: float
    mrr_10: float
    p50_ms: float


def measured(places: Sequence[int | None], milliseconds: Sequence[float]) -> Quality:
    """Return the measures of the right documents' places, from 1; None if it is not among the first ten. Pure."""
    count = len(places) or 1
    found = [place for place in places if place is not None and place <= TOP]
    return Quality(
        round(sum(1 / math.log2(1 + place) for place in found) / count, 4),
        round(len(found) / count, 4),
        round(sum(1 / place for place in found) / count, 4),
        round(sorted(milliseconds)[len(milliseconds) // 2], 1) if milliseconds else 0.0,
    )


async def quality(pool: Pool, generation: Generation, asked: Sequence[Asked], ask: Ask) -> Quality:
    """Ask every question and return the measures; raises what search and its embedder raise."""
    limit = asyncio.Semaphore(_AT_ONCE)
    milliseconds: list[float] = []

    async def place(one: Asked) -> int | None:
        async with limit:
            begun = time.perf_counter()
            question = await ask(generation, one.tenant, one.question)
            found = await search(pool, one.tenant, generation, question, reader=EVERY_DOCUMENT, top_k=_HITS)
            milliseconds.append((time.perf_counter() - begun) * 1000)
        documents = list(dict.fromkeys(hit.document_id for hit in found.hits))
        return documents.index(one.document_id) + 1 if one.document_id in documents else None

    return measured(await asyncio.gather(*(place(one) for one in asked)), milliseconds)
