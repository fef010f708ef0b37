"""Drops a generation: its tables, topics, groups and cached vectors, and its name in the documents.

Each step can be repeated, and the tables go last, so that a drop that was killed is finished by running it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from headrace.store import reindex as store
from headrace.store.generations import ACTIVE_S, DROPPED, DROPPING, get_generation, list_generations
from headrace.store.rows import Generation
from headrace_operations.cluster import Cluster
from headrace_operations.errors import NotThere, Refused
from headrace_operations.generations.rights import owner
from headrace_operations.reindex.workers import Groups

if TYPE_CHECKING:
    from headrace.store.pool import Connection

FOLLOWED_S = ACTIVE_S + 5.0
"""Seconds after a switch until no gateway searches the old generation any more: its memory, and a slow search."""
_GONE_S = 60.0
"""Maximum seconds to wait until stopped workers have left their groups."""
_LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class Dropped:
    """What a drop removed."""

    generation: str
    documents: int
    cached_vectors: int
    topics: Sequence[str]
    groups: Sequence[str]

    def document(self) -> dict[str, Any]:
        """Return it for ``--json``."""
        return asdict(self)


async def require_droppable(cluster: Cluster, name: str) -> Generation | None:
    """Return the generation, or None if it was dropped already.

    Raises :class:`Refused` for the active generation, and :class:`NotThere` for an unknown one.
    """
    async with owner(cluster.known_store()) as connection:
        found = await get_generation(connection, name)
        if found is None:
            if any(one.name == name and one.state == DROPPED for one in await store.lives(connection)):
                return None
            raise NotThere(f"unknown generation {name!r}", remedy="`headrace generations list` shows those that exist.")
        active = [one.name for one in await list_generations(connection) if one.state == "active"]
    if found.name in active:
        raise Refused(
            f"generation {name} is searched", where="GENERATION",
            remedy="Switch search to another one first: `headrace reindex switch` or `rollback`.",
        )  # fmt: skip
    return found


async def drop(
    cluster: Cluster, name: str, stop_workers: Callable[[], None], told: Callable[[str], None] = lambda _: None
) -> Dropped:
    """Drop the generation; ``stop_workers`` stops its embedder and indexer where that is possible.

    Raises :class:`Refused` for the active generation, one with workers that do not end, or a login without the right,
    :class:`NotThere`, and :class:`DependencyDown`.
    """
    found = await require_droppable(cluster, name)
    if found is None:
        return Dropped(name, 0, 0, (), ())
    async with owner(cluster.known_store()) as connection:
        await _let_searches_end(connection, name, told)
        if not await store.begin_drop(connection, name):
            raise Refused(f"generation {name} was activated at this moment, and is not dropped")
        stop_workers()
        groups = Groups(cluster.kafka.of(name))
        await _require_no_workers(groups, name)
        tenants = await store.tenants(connection)
        documents = vectors = 0
        for tenant in tenants:
            told(f"documents and cached vectors of tenant {tenant}")
            documents += await store.forget_documents(connection, name, tenant)
            vectors += await store.forget_vectors(connection, found, tenant)
        told("topics and groups")
        topics, ended = groups.delete()
        told("tables")
        await store.drop_tables(connection, found, tenants)
    return Dropped(name, documents, vectors, topics, ended)


async def _let_searches_end(connection: Connection, name: str, told: Callable[[str], None]) -> None:
    """Wait until no gateway can have the generation in memory as the active one."""
    while True:
        life = next(one for one in await store.lives(connection) if one.name == name)
        left = FOLLOWED_S - life.changed_s if life.state == "retired" else 0.0
        if left <= 0:
            return
        told(f"search was switched {life.changed_s:.0f} s ago; waiting {left:.0f} s until every gateway has followed")
        await asyncio.sleep(left)


async def _require_no_workers(groups: Groups, name: str) -> None:
    for _ in range(round(_GONE_S / _LOOK_S)):
        working = [f"{stage} ({count})" for stage, count in groups.members().items() if count]
        if not working:
            return
        await asyncio.sleep(_LOOK_S)
    raise Refused(
        f"generation {name} still has workers: {', '.join(working)}",
        remedy=f"Stop the services with HEADRACE_KAFKA_GENERATION={name}, then run `headrace reindex drop {name}` "
        f"again. Until then, the generation is {DROPPING}.",
    )
