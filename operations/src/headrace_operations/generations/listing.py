"""Lists the generations."""

from __future__ import annotations

from headrace.store.generations import list_generations
from headrace.store.pool import StoreSettings, opened_pool
from headrace.store.rows import Generation
from headrace_operations.errors import NotThere


class NoSuchGeneration(NotThere):
    """The index has no generation with this name."""

    code = "no-such-generation"


async def generations(store: StoreSettings | None) -> list[Generation] | None:
    """Return the generations of the index, or None if no store is configured; raises :class:`DependencyDown`."""
    if store is None:
        return None
    async with opened_pool(store) as pool, pool.acquire() as connection:
        return await list_generations(connection)


async def require_generation(store: StoreSettings | None, name: str | None, where: str) -> None:
    """Raise :class:`NoSuchGeneration` for an unknown generation; do nothing without a name, or if there is no store."""
    known = await generations(store) if name is not None else None
    if known and name not in {one.name for one in known}:
        raise NoSuchGeneration(
            f"unknown generation {name!r}", where=where,
            remedy=f"Existing generations: {'; '.join(map(described, known))}. `headrace generations create` creates "
            "another one.",
        )  # fmt: skip


def described(one: Generation) -> str:
    """Return a one-line description of a generation."""
    return f"{one.name} ({one.model}, {one.dimensions} dimensions, {one.state})"
