"""Switches search to a generation after an audit finds it complete."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from headrace.store.generations import activate as switch
from headrace.store.pool import StoreSettings
from headrace_operations.audit.run import Scope, audit
from headrace_operations.cluster import Cluster
from headrace_operations.errors import Refused
from headrace_operations.generations.rights import owner


@dataclass(frozen=True, slots=True)
class ActivateGeneration:
    """The generation to activate, and how many documents may still be pending in it, since live changes continue.

    ``unchecked`` skips the audit.
    """

    name: str
    under_way: int = 0
    unchecked: bool = False


class Incomplete(Refused):
    """Documents, chunks or vectors are missing in the generation."""

    code = "incomplete-generation"


async def require_complete(
    cluster: Cluster, request: ActivateGeneration, told: Callable[[str], None] = lambda _: None
) -> None:
    """Audit the generation; raises :class:`Incomplete` if anything is missing. This is the dry run of a switch."""
    scope = Scope(generation=request.name)
    report = await audit(cluster.kafka, cluster.codec, cluster.known_store(), scope, told)
    if report.findings or len(report.pending) > request.under_way:
        raise Incomplete(
            f"generation {request.name} is not complete: {len(report.findings)} findings, {len(report.pending)} "
            f"pending documents (allowed: {request.under_way})",
            remedy=f"Run `headrace audit --generation {request.name}` for the findings and their repairs. --under-way "
            "allows pending documents; --unchecked skips the audit.",
        )  # fmt: skip


async def activate(
    store: StoreSettings,
    connect: Callable[[], Cluster],
    request: ActivateGeneration,
    told: Callable[[str], None] = lambda _: None,
) -> None:
    """Check the right to switch, audit the generation, and switch search to it; the previous one stays unchanged.

    ``connect`` is called for the audit alone, so that an unchecked switch back needs no Kafka. Raises
    :class:`Incomplete`, :class:`Refused`, :class:`ConfigurationError` for an unknown generation, and
    :class:`DependencyDown`.
    """
    async with owner(store):
        pass  # refuses before a long audit
    if not request.unchecked:
        await require_complete(connect(), request, told)
    async with owner(store) as connection:
        await switch(connection, request.name)
