"""``pause``, ``resume`` and ``orders``: what operators tell the stages, by the topic ``control``."""

from __future__ import annotations

import getpass
from typing import Annotated, TypeAlias

import typer

from headrace_cli import options, output
from headrace_cli.failures import UsageError, told
from headrace_cli.pipeline_commands import clients

Stages: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--stage", envvar="HEADRACE_STAGE", help="The stage; may be repeated, or all.", show_default=False),
]
Run: TypeAlias = Annotated[
    str | None, typer.Option("--run", envvar="HEADRACE_RUN", help="The replay with this id.", show_default=False)
]
Why: TypeAlias = Annotated[str, typer.Option("--why", envvar="HEADRACE_WHY", help="The reason, kept with the order.")]
DryRun: TypeAlias = Annotated[
    bool, typer.Option("--dry-run", envvar="HEADRACE_DRY_RUN", help="Say what would be ordered, order nothing.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    panel = "Operations"
    app.command("pause", rich_help_panel=panel, short_help="Have stages or a replay start nothing more.")(told(pause))
    app.command("resume", rich_help_panel=panel, short_help="Have them go on.")(told(resume))
    app.command("orders", rich_help_panel=panel, short_help="Show the orders that count.")(told(orders))


def pause(
    stages: Stages = None,
    run: Run = None,
    why: Why = "",
    dry_run: DryRun = False,
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    registry: options.RegistryUrl = None,
    as_json: options.Json = False,
) -> None:
    """Have stages, or a replay, finish what is under way and start nothing more, until they are resumed.

    Effective within a second on every worker, and lasting over restarts. Nothing is lost: records wait in their topics.
    """
    _order("PAUSE", stages, run, why, dry_run, options.Place(state_dir, kafka, registry), as_json)


def resume(
    stages: Stages = None,
    run: Run = None,
    why: Why = "",
    dry_run: DryRun = False,
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    registry: options.RegistryUrl = None,
    as_json: options.Json = False,
) -> None:
    """Have stages, or a replay, go on: after a pause, or after a stage stopped itself for too many dead letters."""
    _order("RESUME", stages, run, why, dry_run, options.Place(state_dir, kafka, registry), as_json)


def orders(
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    registry: options.RegistryUrl = None,
    as_json: options.Json = False,
) -> None:
    """Show the newest order for each stage and replay that ever had one."""
    from headrace.control import read_orders  # noqa: PLC0415

    output.quiet_logs()
    found = read_orders(*clients(state_dir, kafka, registry)).all()
    if as_json:
        output.emit([_document(order) for order in found])
        return
    columns = ("Order", "Of", "Which", "By", "When", "Why")
    rows = [
        (order.action, order.scope, order.target, order.issued_by, f"{order.issued_at:%Y-%m-%d %H:%M:%S}", order.reason)
        for order in found
    ]
    output.console().print(output.table(columns, rows) if rows else "No order was ever given.")


def _order(
    action: str, stages: list[str] | None, run: str | None, why: str, dry_run: bool, place: options.Place, as_json: bool
) -> None:
    from headrace import control  # noqa: PLC0415

    targets = _targets(stages, run)
    output.quiet_logs()
    given = []
    if not dry_run:
        settings, codec = clients(*place)
        for scope, target in targets:
            given.append(
                control.give(
                    settings, codec, action=control.Action(action), scope=control.Scope(scope), target=target,
                    reason=why, issued_by=getpass.getuser(),
                )
            )  # fmt: skip
    if as_json:
        output.emit({"ordered": [_document(order) for order in given], "dry_run": dry_run})
        return
    verb = {"PAUSE": "paused", "RESUME": "resumed"}[action]
    for scope, target in targets:
        typer.echo(f"{scope} {target}: {'would be ' if dry_run else ''}{verb}")


def _targets(stages: list[str] | None, run: str | None) -> list[tuple[str, str]]:
    """Return scopes and targets; raises :class:`UsageError` for a stage that does not exist, and for none at all."""
    from headrace.stage import STAGES  # noqa: PLC0415

    names = list(STAGES) if stages == ["all"] else list(dict.fromkeys(stages or []))
    unknown = [name for name in names if name not in STAGES]
    if unknown:
        raise UsageError(f"no stage {', '.join(unknown)}", where="--stage", remedy=f"There are: {', '.join(STAGES)}.")
    targets = [("stage", name) for name in names] + ([("run", run)] if run else [])
    if not targets:
        raise UsageError("nothing to order", remedy=f"Name a --stage ({', '.join(STAGES)}, or all) or a --run.")
    return targets


def _document(order: object) -> dict[str, object]:
    from headrace.avro.mapping import to_dict  # noqa: PLC0415

    return to_dict(order)
