"""Switches search to another generation, and back: one transaction, after checks that nothing would be missing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from headrace.payloads import ReplayRun
from headrace.store.dense_index import dense_indexes
from headrace.store.generations import activate, get_generation, list_generations
from headrace.store.pool import StoreSettings
from headrace.store.reindex import Coverage, Lacking, Life, coverage, lacking, lives
from headrace.store.rows import Generation
from headrace_operations.cluster import Cluster
from headrace_operations.errors import NotThere, Refused
from headrace_operations.generations.rights import owner
from headrace_operations.reindex.fill import fill_run, is_empty
from headrace_operations.replay import runs

if TYPE_CHECKING:
    from headrace.store.pool import Connection

Ping = Callable[[Generation], Awaitable[None]]
"""Raises :class:`DependencyDown` if the generation's embedder does not answer queries."""
SETTLE_S = 30.0
"""Maximum seconds until a change that is in flight is in the generation."""
_LOOK_S = 0.3
_MOST = 10_000
_SHOWN = 5


class Incomplete(Refused):
    """The generation lacks documents, chunks or its index."""

    code = "incomplete-generation"


@dataclass(frozen=True, slots=True)
class Switched:
    """The generation that is searched now, the one before it, and how complete the new one is."""

    active: str
    before: str | None
    tenants: Sequence[Coverage]

    def document(self) -> dict[str, Any]:
        """Return it for ``--json``."""
        documents = sum(one.documents for one in self.tenants)
        return {
            "active": self.active, "before": self.before, "documents": documents,
            "missing": documents - sum(one.covered for one in self.tenants),
            "tenants": [asdict(one) for one in self.tenants],
        }  # fmt: skip


async def unsettled(connection: Connection, generation: str, seconds: float = SETTLE_S) -> list[Lacking]:
    """Return documents that the generation lacks, and still lacks in the same version after up to ``seconds``.

    While changes arrive, some documents are always in flight. So each version that was missing at the beginning has
    this time to arrive, or to be replaced by a newer one. An empty list means that nothing is missing but what is in
    flight.
    """
    deadline = time.monotonic() + seconds
    first = await lacking(connection, generation, _MOST)
    left = first
    while left and time.monotonic() < deadline:
        await asyncio.sleep(_LOOK_S)
        now = set(await lacking(connection, generation, _MOST))
        left = [one for one in first if one in now]
    return left


async def require_complete(
    connection: Connection, cluster: Cluster, generation: Generation, life: Life, seconds: float
) -> None:
    """Raise :class:`Incomplete`, with the counts, if the generation is not filled, indexed and complete."""
    if generation.state == "building":
        _require_filled(cluster, fill_run(cluster, life), generation.name)
    if not any(one.valid for one in await dense_indexes(connection, generation)):
        raise Incomplete(
            f"generation {generation.name} has no index of its vectors, so each search would read all of them",
            remedy=f"Run `headrace reindex start --generation {generation.name}`, which builds it."
            if generation.state == "building" else f"Run `headrace index rebuild {generation.name}`.",
        )  # fmt: skip
    missing = await unsettled(connection, generation.name, seconds)
    if missing:
        raise Incomplete(_counts(generation.name, await coverage(connection, generation.name), missing), remedy=(
            f"Run `headrace reindex verify {generation.name}` for the reasons and their repairs. --force switches "
            "nevertheless: search will not find these documents."))  # fmt: skip


def _require_filled(cluster: Cluster, run: ReplayRun | None, name: str) -> None:
    if run is None and is_empty(cluster):
        return
    if run is None or run.state != runs.DONE:
        state = "has not begun" if run is None else f"is {run.state.lower()}"
        raise Incomplete(
            f"generation {name} is not filled: its replay {state}",
            remedy=f"Run `headrace reindex start --generation {name}`, which continues it. --force switches "
            "nevertheless.",
        )


def _counts(name: str, tenants: Sequence[Coverage], missing: Sequence[Lacking]) -> str:
    documents, covered = sum(one.documents for one in tenants), sum(one.covered for one in tenants)
    by_tenant = "; ".join(
        f"{one.tenant}: {one.covered} of {one.documents}" for one in tenants if one.covered < one.documents
    )
    some = ", ".join(f"{one.tenant}/{one.document_id} version {one.version}" for one in missing[:_SHOWN])
    return (
        f"generation {name} has {covered} of {documents} documents ({by_tenant}); {len(missing)} are missing and not "
        f"on their way, first {some}"
    )


async def switch(
    store: StoreSettings,
    connect: Callable[[], Cluster],
    name: str,
    ping: Ping | None,
    *,
    force: bool = False,
    settle_s: float = SETTLE_S,
) -> Switched:
    """Switch search to the generation; one transaction, after which each gateway follows within five seconds.

    ``connect`` is called for the checks alone, so that ``force``, which skips them, needs no Kafka. Switching to the
    active generation changes nothing. Raises :class:`NotThere`,
    :class:`Incomplete`, :class:`Refused` for a login without the right or a generation that is being dropped, and
    :class:`DependencyDown` if the generation's embedder does not answer.
    """
    async with owner(store) as connection:
        found, before = await _found(connection, name)
        if found.state == "dropping":
            raise Refused(f"generation {name} is being dropped", remedy="Finish with `headrace reindex drop`.")
        if before != name and not force:
            life = next(one for one in await lives(connection) if one.name == name)
            await require_complete(connection, connect().of(name), found, life, settle_s)
            if ping is not None:
                await ping(found)
        await activate(connection, name)
        return Switched(name, before, await coverage(connection, name))


async def rollback(store: StoreSettings, ping: Ping | None, *, force: bool = False) -> Switched:
    """Switch search back to the generation that was retired last; needs no Kafka.

    Its index and its documents are not checked, because a rollback must be quick, but its embedder must answer, unless
    ``force``. Raises what :func:`switch` does, and :class:`Refused` if no generation was retired.
    """
    async with owner(store) as connection:
        retired = [one for one in await lives(connection) if one.state == "retired"]
        if not retired:
            raise Refused(
                "no generation was searched before this one",
                remedy="`headrace generations list` shows those that exist; `headrace reindex switch` goes to any of "
                "them.",
            )
        name = max(retired, key=lambda one: one.changed_at).name
        found, before = await _found(connection, name)
        if ping is not None and not force:
            await ping(found)
        await activate(connection, name)
        return Switched(name, before, await coverage(connection, name))


async def _found(connection: Connection, name: str) -> tuple[Generation, str | None]:
    """Return the generation, and the name of the active one."""
    found = await get_generation(connection, name)
    if found is None:
        raise NotThere(f"unknown generation {name!r}", remedy="`headrace generations list` shows those that exist.")
    active = next((one.name for one in await list_generations(connection) if one.state == "active"), None)
    return found, active
