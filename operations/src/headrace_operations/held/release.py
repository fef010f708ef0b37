"""Letting go what waited for the end of a pause or for room in a cap, in every generation of the index.

An order is to all generations, and each has lanes of its own in which records wait.
"""

from __future__ import annotations

from collections.abc import Iterable

from headrace.topology.generation_names import id_in_generation
from headrace_operations.actions import Order, Progress, new_order
from headrace_operations.cluster import Cluster
from headrace_operations.held.model import RELEASED, HeldSelection


def waiting(cluster: Cluster, selection: HeldSelection) -> dict[str, int]:
    """Return how many held records are meant, by scope; a record of a lane that generations share counts once."""
    found = {
        (entry.scope, id_in_generation(str(entry.id), name))
        for name in cluster.generations()
        for entry in cluster.of(name).held().select(selection)
    }
    counts: dict[str, int] = {}
    for scope, _ in sorted(found):
        counts[scope] = counts.get(scope, 0) + 1
    return counts


def release_order(cluster: Cluster, why: str) -> Order:
    """Return the order to release."""
    return new_order(RELEASED, by=cluster.by, why=why)


def release(
    cluster: Cluster, scopes: Iterable[str], order: Order, progress: Progress = lambda _: None
) -> dict[str, int]:
    """Send what waits under these scopes (``tenant/acme``) through its stage again; return how many, by scope.

    What was released before an outage stays released and is noted; the error says how many.
    """
    counts = dict.fromkeys(sorted(scopes), 0)
    for name in cluster.generations():
        for entry in cluster.of(name).held_actor().release(frozenset(counts), order, progress).taken:
            counts[entry.scope] += 1
    return counts
