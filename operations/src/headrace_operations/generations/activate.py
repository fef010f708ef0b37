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
    """The generation to activate, and how many documents may still be pending in it, since live changes continue."""

    name: str
    under_way: int = 0


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


async def require_owner(store: StoreSettings) -> None:
    """Raise :class:`Refused` if the login may not switch generations, before a long audit."""
    async with owner(store):
        pass


async def activate(store: StoreSettings, name: str) -> None:
    """Switch search to the generation without an audit; the previous one stays unchanged, so this also rolls back.

    Raises :class:`ConfigurationError` for an unknown generation, :class:`Refused` and :class:`DependencyDown`.
    """
    async with owner(store) as connection:
        await switch(connection, name)
