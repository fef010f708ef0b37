"""Releases records that a pause or a cap held, in every generation of the index.

An order applies to all generations, and each generation holds records in its own lanes.
"""

from __future__ import annotations

from collections.abc import Iterable

from headrace.topology.generation_names import id_in_generation
from headrace_operations.actions import ActionRequest, Progress, new_request
from headrace_operations.cluster import Cluster
from headrace_operations.held.model import RELEASED, HeldSelection


def waiting(cluster: Cluster, selection: HeldSelection) -> dict[str, int]:
    """Return the number of selected held records by scope; a record in a lane that generations share counts once."""
    found = {
        (entry.scope, id_in_generation(str(entry.id), name))
        for name in cluster.generations()
        for entry in cluster.of(name).held().select(selection)
    }
    counts: dict[str, int] = {}
    for scope, _ in sorted(found):
        counts[scope] = counts.get(scope, 0) + 1
    return counts


def release_request(cluster: Cluster, why: str) -> ActionRequest:
    """Return a request to release."""
    return new_request(RELEASED, by=cluster.by, why=why)


def release(
    cluster: Cluster, scopes: Iterable[str], request: ActionRequest, progress: Progress = lambda _: None
) -> dict[str, int]:
    """Release the records held under these scopes (``tenant/acme``); return how many, by scope.

    Records released before an outage stay released; the error says how many.
    """
    counts = dict.fromkeys(sorted(scopes), 0)
    for name in cluster.generations():
        for entry in cluster.of(name).held_actor().release(frozenset(counts), request, progress).taken:
            counts[entry.scope] += 1
    return counts
