"""``pause``, ``resume`` and ``orders``: orders to the stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from headrace.codec.mapping import to_dict
from headrace_cli import options, output, tables
from headrace_cli.command import command, commands_of
from headrace_cli.context import InLog
from headrace_cli.views.tracking import tracked

if TYPE_CHECKING:
    from headrace_operations.orders.pause import Target

Stages: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--stage", envvar="HEADRACE_STAGE", help="The stage, or all; may be repeated.", show_default=False),
]
Run: TypeAlias = Annotated[
    str | None, typer.Option("--run", envvar="HEADRACE_RUN", help="The replay with this ID.", show_default=False)
]
Tenants: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--tenant", envvar="HEADRACE_TENANT", help="This tenant; may be repeated.", show_default=False),
]
Pipelines: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--pipeline", envvar="HEADRACE_PIPELINE", help="This pipeline; may be repeated.", show_default=False),
]
Why: TypeAlias = Annotated[
    str, typer.Option("--why", envvar="HEADRACE_WHY", help="The reason, recorded with the order.")
]
DryRun: TypeAlias = Annotated[
    bool, typer.Option("--dry-run", envvar="HEADRACE_DRY_RUN", help="Show the orders without publishing them.")
]
commands = commands_of()


@command(commands, "pause", "Pause a stage, tenant, pipeline or replay.")
def pause(
    stages: Stages = None,
    tenants: Tenants = None,
    names: Pipelines = None,
    run: Run = None,
    why: Why = "",
    dry_run: DryRun = False,
    *,
    operator: InLog,
    as_json: options.Json = False,
) -> None:
    """Pause stages, tenants, pipelines or a replay until you resume them.

    A pause takes effect within a second on every worker and survives restarts. Nothing is lost: a paused stage reads
    nothing, and stages hold the records of a paused tenant or pipeline while all others continue
    (`headrace held list`).
    """
    from headrace_operations.orders import pause as operations
    from headrace_operations.orders.pause import OrderRequest, targets

    request = OrderRequest(targets(stages or (), tenants or (), names or (), run), why)
    given = operations.pause(operator.cluster(), request, dry_run=dry_run).given
    if as_json:
        output.emit({"ordered": [to_dict(order) for order in given], "dry_run": dry_run})
    else:
        _say("paused", request.targets, dry_run=dry_run)


@command(commands, "resume", "Resume a stage, tenant, pipeline or replay.")
def resume(
    stages: Stages = None,
    tenants: Tenants = None,
    names: Pipelines = None,
    run: Run = None,
    why: Why = "",
    dry_run: DryRun = False,
    *,
    operator: InLog,
    as_json: options.Json = False,
) -> None:
    """Resume stages, tenants, pipelines or a replay after a pause, or a stage that stopped itself.

    The held records of a tenant or pipeline are released once all workers have read the order. A batch that was in
    progress may still hold more records afterwards: run the command again until it releases none.
    """
    from headrace_operations.orders import pause as operations
    from headrace_operations.orders.pause import OrderRequest, targets

    request = OrderRequest(targets(stages or (), tenants or (), names or (), run), why)
    steps = operations.Steps(
        given=lambda: None if as_json else _say("resumed", request.targets, dry_run=dry_run),
        waits=lambda seconds: output.say(f"waiting {seconds:.0f} s until every worker has read the order"),
        released=lambda: tracked("released", None),
    )
    done = operations.resume(operator.cluster(), request, dry_run=dry_run, steps=steps)
    if as_json:
        held = {"would_release" if dry_run else "released": done.released} if request.scopes else {}
        output.emit({"ordered": [to_dict(order) for order in done.given], "dry_run": dry_run, **held})
        return
    for scope, count in done.released.items():
        typer.echo(f"{scope.replace('/', ' ', 1)}: {count} held records {'would be ' if dry_run else ''}released")


@command(commands, "orders", "Show the orders in force.")
def orders(*, operator: InLog, as_json: options.Json = False) -> None:
    """Show the newest order for each stage, tenant, pipeline and replay that has one."""
    found = operator.cluster().orders().all()
    if as_json:
        output.emit([to_dict(order) for order in found])
        return
    columns = ("Order", "Of", "Which", "By", "When", "Why")
    rows = [
        (order.action, order.scope, order.target, order.issued_by, f"{order.issued_at:%Y-%m-%d %H:%M:%S}", order.reason)
        for order in found
    ]
    tables.console().print(tables.table(columns, rows) if rows else "No orders yet.")


def _say(verb: str, ordered: Sequence[Target], *, dry_run: bool) -> None:
    for scope, target in ordered:
        typer.echo(f"{scope} {target}: {'would be ' if dry_run else ''}{verb}")
