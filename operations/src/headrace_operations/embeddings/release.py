"""Releases records held by caps that have room again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from headrace.embeddings.costs import CAP_SCOPE, CostBook
from headrace.orders.holds import CAP
from headrace.topology.stages import EMBEDDER
from headrace_operations.actions import Progress
from headrace_operations.cluster import Cluster
from headrace_operations.embeddings import ledger
from headrace_operations.held.model import HeldSelection
from headrace_operations.held.release import release, release_request, waiting


@dataclass(frozen=True, slots=True)
class CapRelease:
    """Records held by caps, by scope (``cap/acme``): those whose cap has room, and the others."""

    ready: Mapping[str, int]
    full: Mapping[str, int]


async def plan_release(cluster: Cluster, book: CostBook, counts: Mapping[str, int]) -> CapRelease:
    """Return which of the held records can be released; none while the cap on all tenants is reached.

    ``counts`` is the result of :func:`waiting_for_caps`. Raises :class:`DependencyDown`.
    """
    if not counts:
        return CapRelease({}, {})
    now = datetime.now(UTC)
    names = [scope.removeprefix(f"{CAP_SCOPE}/") for scope in counts]
    async with cluster.pool() as pool:
        spent_in_all = await ledger.spent_in_all(pool, now)
        room = ledger.with_room(book, spent_in_all, await ledger.spent_by(pool, names, now), now)
    ready = {scope: counts[scope] for scope in sorted(room)}
    return CapRelease(ready, {scope: counts[scope] for scope in sorted(counts.keys() - room)})


def waiting_for_caps(cluster: Cluster, tenant: str | None) -> dict[str, int]:
    """Return how many records of all generations are held by a cap, by scope."""
    return waiting(cluster, HeldSelection(stage=EMBEDDER.name, kind=CAP, tenant=tenant))


def release_capped(cluster: Cluster, scopes: Iterable[str], progress: Progress = lambda _: None) -> dict[str, int]:
    """Release the records of these caps; a record that exceeds its cap again is held again."""
    return release(cluster, scopes, release_request(cluster, "the cap has room"), progress)
