"""A search of which a test needs only the hits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace.store import search as store
from headrace.store.rows import Generation
from headrace.store.search import Hit, Question

if TYPE_CHECKING:
    from headrace.store.pool import Pool


async def search(pool: Pool, tenant: str, generation: Generation, question: Question, **asked: Any) -> list[Hit]:
    """Return the hits of :func:`headrace.store.search.search`, best first; ``asked`` are its other arguments."""
    return list((await store.search(pool, tenant, generation, question, **asked)).hits)
