"""Builds the approximate index of a generation, beside the one in use."""

from __future__ import annotations

from headrace.store import dense_index
from headrace.store.dense_index import DenseIndex, Kind, Told
from headrace.store.generations import get_generation
from headrace.store.pool import StoreSettings
from headrace_operations.errors import NotThere
from headrace_operations.generations.rights import owner


async def build(
    store: StoreSettings, name: str, kind: Kind | None, *, anew: bool, told: Told = lambda _: None
) -> DenseIndex:
    """Build the generation's index: with ``anew`` in any case, otherwise unless it has a valid one.

    Without a kind, it keeps the one that it has, or is HNSW. Raises :class:`NotThere` for an unknown generation,
    :class:`Refused` for a login without the right, and :class:`DependencyDown`.
    """
    async with owner(store) as worker, owner(store) as watcher:
        found = await get_generation(watcher, name)
        if found is None:
            raise NotThere(f"unknown generation {name!r}", remedy="`headrace generations list` shows those that exist.")
        if not anew:
            return await dense_index.ensure(worker, watcher, found, kind or "hnsw", told=told)
        known = {one.name: one for one in await dense_index.dense_indexes(watcher, found)}
        current = known.get(dense_index.index_name(name))
        chosen = kind or dense_index.kind_of(current.kind if current else "hnsw")
        rows = await dense_index.row_estimate(watcher, found)
        return await dense_index.build(worker, watcher, found, dense_index.parameters(chosen, rows), told=told)
