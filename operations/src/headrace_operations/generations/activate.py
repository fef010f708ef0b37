"""Switching search to a generation, once the audit finds it complete."""

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
    """The generation to be searched, and how many documents may be on their way to it: live changes always are."""

    name: str
    under_way: int = 0


class Incomplete(Refused):
    """Documents, chunks or vectors are missing in the generation."""

    code = "incomplete-generation"


async def require_complete(
    cluster: Cluster, request: ActivateGeneration, told: Callable[[str], None] = lambda _: None
) -> None:
    """Audit the generation; raises :class:`Incomplete` where it lacks anything. This is the dry run of a switch."""
    scope = Scope(generation=request.name)
    report = await audit(cluster.kafka, cluster.codec, cluster.known_store(), scope, told)
    if report.findings or len(report.pending) > request.under_way:
        raise Incomplete(
            f"generation {request.name} is not complete: {len(report.findings)} findings, {len(report.pending)} "
            "documents under way",
            remedy=f"`headrace audit --generation {request.name}` lists them, each with its repair; --under-way allows "
            "for live changes, --unchecked for everything.",
        )  # fmt: skip


async def require_owner(store: StoreSettings) -> None:
    """Raise :class:`Refused` for a login that may not switch, before a long audit."""
    async with owner(store):
        pass


async def activate(store: StoreSettings, name: str) -> None:
    """Have searches use the generation, unchecked; the one before stays as it is, so this is the way back as well.

    Raises :class:`ConfigurationError` where there is none of the name, :class:`Refused` and :class:`DependencyDown`.
    """
    async with owner(store) as connection:
        await switch(connection, name)
