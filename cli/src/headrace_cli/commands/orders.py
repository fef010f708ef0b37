"""``pause``, ``resume`` and ``orders``: what operators tell the stages, by the topic ``control``."""

from __future__ import annotations

import getpass
import time
from typing import Annotated, TypeAlias

import typer

from headrace import control, pipelines_log
from headrace.avro.codec import Codec
from headrace.avro.mapping import to_dict
from headrace.control import read_orders
from headrace.holds import PAUSE
from headrace.names import id_in_generation
from headrace.records import Control
from headrace.settings import KafkaSettings
from headrace.stage import STAGES
from headrace_cli import options, output
from headrace_cli.command import command, commands_of
from headrace_cli.commands.held import order
from headrace_cli.context import clients
from headrace_cli.failures import NotFound, UsageError
from headrace_cli.views.tracking import tracked
from headrace_operations.held.act import HeldActor
from headrace_operations.held.log import HeldLog
from headrace_operations.held.model import RELEASED, HeldSelection
from headrace_operations.trace.log import LogScanner

READ_S = 2.0
"""Seconds after which every worker has surely read an order, which takes it one at most."""
_MOST_PASSES = 10
_HOLDING = ("tenant", "pipeline")
"""Scopes whose pause sets records aside."""

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
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    registry: options.RegistryUrl = None,
    as_json: options.Json = False,
) -> None:
    """Have stages, tenants, pipelines or a replay start nothing more, until they are resumed.

    Effective within a second on every worker, and lasting over restarts. Nothing is lost: a paused stage reads nothing,
    and what it meets of a paused tenant or pipeline it sets aside, so that all others go on (`headrace held list`).
    """
    place = options.Place(state_dir, kafka, registry)
    targets = _targets(stages, run, tenants, names)
    output.quiet_logs()
    given = [] if dry_run else _give("PAUSE", targets, why, place)
    if as_json:
        output.emit({"ordered": [_document(order) for order in given], "dry_run": dry_run})
    else:
        _say("paused", targets, dry_run=dry_run)


@command(commands, "resume", "Have them go on.")
def resume(
    stages: Stages = None,
    tenants: Tenants = None,
    names: Pipelines = None,
    run: Run = None,
    why: Why = "",
    dry_run: DryRun = False,
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    registry: options.RegistryUrl = None,
    as_json: options.Json = False,
) -> None:
    """Have stages, tenants, pipelines or a replay go on: after a pause, or after a stage stopped itself.

    What was set aside of a tenant or pipeline is sent through its stage again, once the workers have read the order.
    A batch that was under way may still set some aside afterwards: run this again until it releases none.
    """
    place = options.Place(state_dir, kafka, registry)
    targets = _targets(stages, run, tenants, names)
    scopes = [f"{scope}/{target}" for scope, target in targets if scope in _HOLDING]
    output.quiet_logs()
    given = [] if dry_run else _give("RESUME", targets, why, place)
    if not as_json:
        _say("resumed", targets, dry_run=dry_run)
    counts = _released(scopes, why, dry_run, place) if scopes else {}
    if as_json:
        held = {"would_release" if dry_run else "released": counts} if scopes else {}
        output.emit({"ordered": [_document(order) for order in given], "dry_run": dry_run, **held})
        return
    for scope, count in counts.items():
        typer.echo(f"{scope.replace('/', ' ', 1)}: {count} held records {'would be ' if dry_run else ''}released")


@command(commands, "orders", "Show the orders that count.")
def orders(
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    registry: options.RegistryUrl = None,
    as_json: options.Json = False,
) -> None:
    """Show the newest order for each stage, tenant, pipeline and replay that ever had one."""
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


def _give(action: str, targets: list[tuple[str, str]], why: str, place: options.Place) -> list[Control]:

    settings, codec = clients(*place)
    _check_pipelines(settings, codec, [target for scope, target in targets if scope == "pipeline"])
    return [
        control.give(
            settings, codec, action=control.Action(action), scope=control.Scope(scope), target=target, reason=why,
            issued_by=getpass.getuser(),
        )
        for scope, target in targets
    ]  # fmt: skip


def _check_pipelines(settings: KafkaSettings, codec: Codec, names: list[str]) -> None:
    """Raise :class:`NotFound` for a pipeline that was never applied, naming those that were."""
    if not names:
        return
    known = sorted({version.pipeline_id for version in pipelines_log.read_all(settings, codec).all()})
    unknown = [name for name in names if name not in known]
    if unknown:
        raise NotFound(
            f"no pipeline {', '.join(unknown)}", where="--pipeline", remedy=f"There are: {', '.join(known) or 'none'}."
        )


def _released(scopes: list[str], why: str, dry_run: bool, place: options.Place) -> dict[str, int]:
    """Release what waits for the end of these pauses, until a pass finds nothing; return how many, by scope.

    An order is to all generations of the index, and each has lanes of its own in which records wait.
    """
    own, codec = clients(*place)
    views = [own.of(name) for name in LogScanner(own).generations()]
    counts = dict.fromkeys(scopes, 0)
    meant = HeldSelection(kind=PAUSE, scopes=frozenset(scopes))
    if dry_run:
        ids = {
            (entry.scope, id_in_generation(str(entry.id), view.generation))
            for view in views
            for entry in HeldLog(view, codec).select(meant)
        }
        for scope, _ in ids:
            counts[scope] += 1
        return counts
    actors, made = [HeldActor(view, codec) for view in views], order(RELEASED, why)
    with tracked("released", None) as progress:
        for _ in range(_MOST_PASSES):
            output.say(f"waiting {READ_S:.0f} s, until every worker has read the order")
            time.sleep(READ_S)
            taken = [entry for actor in actors for entry in actor.release(meant.scopes, made, progress).taken]
            for entry in taken:
                counts[entry.scope] += 1
            if not taken:
                break
    return counts


def _say(verb: str, targets: list[tuple[str, str]], *, dry_run: bool) -> None:
    for scope, target in targets:
        typer.echo(f"{scope} {target}: {'would be ' if dry_run else ''}{verb}")


def _targets(
    stages: list[str] | None, run: str | None, tenants: list[str] | None, names: list[str] | None
) -> list[tuple[str, str]]:
    """Return scopes and targets; raises :class:`UsageError` for a stage that does not exist, and for none at all."""
    wanted = list(STAGES) if stages == ["all"] else list(dict.fromkeys(stages or []))
    unknown = [name for name in wanted if name not in STAGES]
    if unknown:
        raise UsageError(f"no stage {', '.join(unknown)}", where="--stage", remedy=f"There are: {', '.join(STAGES)}.")
    targets = [("stage", name) for name in wanted]
    targets += [("tenant", name) for name in dict.fromkeys(tenants or [])]
    targets += [("pipeline", name) for name in dict.fromkeys(names or [])]
    targets += [("run", run)] if run else []
    if not targets:
        raise UsageError(
            "nothing to order",
            remedy=f"Name a --stage ({', '.join(STAGES)}, or all), a --tenant, a --pipeline or a --run.",
        )
    return targets


def _document(order: object) -> dict[str, object]:

    return to_dict(order)
