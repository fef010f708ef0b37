"""``pause``, ``resume`` and ``orders``: what operators tell the stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeAlias

import typer

from headrace.codec.mapping import to_dict
from headrace_cli import options, output, tables
from headrace_cli.command import command, commands_of
from headrace_cli.context import InLog
from headrace_cli.views.tracking import tracked
from headrace_operations.orders import pause as operations
from headrace_operations.orders.pause import OrderRequest, Target, targets

Stages: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--stage", envvar="HEADRACE_STAGE", help="The stage; may be repeated, or all.", show_default=False),
]
Run: TypeAlias = Annotated[
    str | None, typer.Option("--run", envvar="HEADRACE_RUN", help="The replay with this id.", show_default=False)
]
Tenants: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--tenant", envvar="HEADRACE_TENANT", help="This tenant; may be repeated.", show_default=False),
]
Pipelines: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--pipeline", envvar="HEADRACE_PIPELINE", help="This pipeline; may be repeated.", show_default=False),
]
Why: TypeAlias = Annotated[str, typer.Option("--why", envvar="HEADRACE_WHY", help="The reason, kept with the order.")]
DryRun: TypeAlias = Annotated[
    bool, typer.Option("--dry-run", envvar="HEADRACE_DRY_RUN", help="Say what would be ordered, order nothing.")
]
commands = commands_of()


@command(commands, "pause", "Have a stage, tenant, pipeline or replay wait.")
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
    """Have stages, tenants, pipelines or a replay start nothing more, until they are resumed.

    Effective within a second on every worker, and lasting over restarts. Nothing is lost: a paused stage reads nothing,
    and what it meets of a paused tenant or pipeline it sets aside, so that all others go on (`headrace held list`).
    """
    request = OrderRequest(targets(stages or (), tenants or (), names or (), run), why)
    given = [] if dry_run else operations.pause(operator.cluster(), request).given
    if as_json:
        output.emit({"ordered": [to_dict(order) for order in given], "dry_run": dry_run})
    else:
        _say("paused", request.targets, dry_run=dry_run)


@command(commands, "resume", "Have them go on.")
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
    """Have stages, tenants, pipelines or a replay go on: after a pause, or after a stage stopped itself.

    What was set aside of a tenant or pipeline is sent through its stage again, once the workers have read the order.
    A batch that was under way may still set some aside afterwards: run this again until it releases none.
    """
    request = OrderRequest(targets(stages or (), tenants or (), names or (), run), why)
    steps = operations.Steps(
        given=lambda: None if as_json else _say("resumed", request.targets, dry_run=dry_run),
        waits=lambda seconds: output.say(f"waiting {seconds:.0f} s, until every worker has read the order"),
        released=lambda: tracked("released", None),
    )
    if dry_run and not request.scopes:
        steps.given()
        done = operations.Ordered()
    else:
        done = operations.resume(operator.cluster(), request, dry_run=dry_run, steps=steps)
    if as_json:
        held = {"would_release" if dry_run else "released": done.released} if request.scopes else {}
        output.emit({"ordered": [to_dict(order) for order in done.given], "dry_run": dry_run, **held})
        return
    for scope, count in done.released.items():
        typer.echo(f"{scope.replace('/', ' ', 1)}: {count} held records {'would be ' if dry_run else ''}released")


@command(commands, "orders", "Show the orders that count.")
def orders(*, operator: InLog, as_json: options.Json = False) -> None:
    """Show the newest order for each stage, tenant, pipeline and replay that ever had one."""
    found = operator.cluster().orders().all()
    if as_json:
        output.emit([to_dict(order) for order in found])
        return
    columns = ("Order", "Of", "Which", "By", "When", "Why")
    rows = [
        (order.action, order.scope, order.target, order.issued_by, f"{order.issued_at:%Y-%m-%d %H:%M:%S}", order.reason)
        for order in found
    ]
    tables.console().print(tables.table(columns, rows) if rows else "No order was ever given.")


def _say(verb: str, ordered: Sequence[Target], *, dry_run: bool) -> None:
    for scope, target in ordered:
        typer.echo(f"{scope} {target}: {'would be ' if dry_run else ''}{verb}")
