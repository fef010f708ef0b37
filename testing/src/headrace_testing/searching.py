"""A search of which a test needs only the hits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.store import search as store
from headrace.store.conditions import NO_FILTERS, Filters
from headrace.store.rows import Generation
from headrace.store.search import Hit, Question

if TYPE_CHECKING:
    from headrace.store.pool import Pool


async def search(
    pool: Pool,
    tenant: str,
    generation: Generation,
    question: Question,
    *,
    top_k: int = 10,
    filters: Filters = NO_FILTERS,
    ef_search: int = 100,
) -> list[Hit]:
    """Return the hits of :func:`headrace.store.search.search`, best first."""
    found = await store.search(pool, tenant, generation, question, top_k=top_k, filters=filters, ef_search=ef_search)
    return list(found.hits)
