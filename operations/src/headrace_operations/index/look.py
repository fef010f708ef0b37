"""Looks at the indexes of generations, and measures what they find."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from headrace.store import dense_index
from headrace.store.generations import GONE, get_generation, list_generations
from headrace.store.index_health import Health, Recall, first_key, look, recall
from headrace.store.pool import StoreSettings
from headrace.store.reindex import coverage
from headrace.store.rows import Generation
from headrace_operations.errors import NotThere
from headrace_operations.generations.rights import owner


@dataclass(frozen=True, slots=True)
class LookRequest:
    """What to look at: one generation or all; ``queries`` of each of the ``tenants`` largest tenants, 0 for none.

    ``seconds`` bounds the time for one generation. The same seed draws the same sample.
    """

    name: str | None = None
    tenant: str | None = None
    queries: int = 20
    tenants: int = 3
    seconds: float = 20.0
    seed: int = 1


async def looked(store: StoreSettings, request: LookRequest) -> list[Health]:
    """Return the health of each generation, with its recalls.

    Raises :class:`NotThere` for an unknown generation, :class:`Refused` for a login that does not own the schema, and
    :class:`DependencyDown`.
    """
    async with owner(store) as connection:
        known = [one for one in await list_generations(connection) if one.state not in GONE]
        chosen = [one for one in known if request.name in (None, one.name)]
        if not chosen:
            names = ", ".join(one.name for one in known) or "none"
            raise NotThere(f"unknown generation {request.name!r}", remedy=f"Existing generations: {names}.")
        found = []
        for one in chosen:
            sizes = [(row.covered_chunks, row.tenant) for row in await coverage(connection, one.name)]
            largest = [tenant for _, tenant in sorted(sizes, reverse=True)]
            tenants = [request.tenant] if request.tenant else largest[: request.tenants]
            recalls = await _recalls(store, one, tenants, request)
            found.append(replace(await look(connection, one), recalls=recalls))
        return found


async def _recalls(
    store: StoreSettings, generation: Generation, tenants: Sequence[str], request: LookRequest
) -> list[Recall]:
    chance = Random(request.seed)
    deadline = time.monotonic() + request.seconds
    found = []
    async with owner(store) as connection:
        for number, tenant in enumerate(tenants if request.queries else ()):
            left = (deadline - time.monotonic()) / (len(tenants) - number)
            if left <= 0:
                break
            start = first_key(chance.random())
            one = await recall(connection, generation, tenant, request.queries, left, start)
            if one is not None:
                found.append(one)
    return found


async def tune(store: StoreSettings, name: str, ef_search: int | None, probes: int | None) -> Generation:
    """Set how much of the generation's index searches read; None keeps a value. Returns the generation.

    Raises what :func:`looked` does.
    """
    async with owner(store) as connection:
        await dense_index.tune(connection, name, ef_search, probes)
        found = await get_generation(connection, name)
    if found is None:
        raise NotThere(f"unknown generation {name!r}", remedy="`headrace generations list` shows those that exist.")
    return found
