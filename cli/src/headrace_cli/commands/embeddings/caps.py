"""``embeddings release``: releases records held for caps that have room again."""

from __future__ import annotations

import asyncio

import typer

from headrace_cli import options, output
from headrace_cli.commands.embeddings.options import DryRun
from headrace_cli.context import InLogAndStore
from headrace_cli.views.tracking import tracked


def release(
    tenant: options.OnlyTenant = None,
    dry_run: DryRun = False,
    *,
    operator: InLogAndStore,
    as_json: options.Json = False,
) -> None:
    """Release the records that are held because a tenant reached its cap, if the cap now has room.

    A record that exceeds the cap again is held again. Nothing is released while the cap for all tenants is reached.
    """
    from headrace.embeddings.costs import CostSettings, read_book
    from headrace_cli.views import embeddings as embedding_view
    from headrace_operations.embeddings import release as operations

    cluster = operator.cluster()
    waiting = operations.waiting_for_caps(cluster, tenant)
    file = CostSettings().file
    if waiting and file is None:
        output.say(embedding_view.NO_CAPS_KNOWN)
    book = read_book(file)
    cluster = operator.with_store(cluster) if waiting else cluster
    planned = asyncio.run(operations.plan_release(cluster, book, waiting))
    counts = planned.ready
    if planned.ready and not dry_run:
        with tracked("released", sum(planned.ready.values())) as progress:
            counts = operations.release_capped(cluster, planned.ready, progress)
    if as_json:
        verb = "would_release" if dry_run else "released"
        output.emit({verb: counts, "still_capped": list(planned.full), "dry_run": dry_run})
        return
    for scope, count in counts.items():
        typer.echo(f"{scope}: {count} held records {'would be ' if dry_run else ''}released")
    for scope, count in planned.full.items():
        typer.echo(f"{scope}: {count} records still held, the cap is reached")
    if not waiting:
        typer.echo("no records held for a cap")
