"""``dlq list|show|redrive|discard|export``: dead letters, for operators with access to Kafka."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from headrace_cli import options, output
from headrace_cli.asking import require_yes
from headrace_cli.command import command, commands_of
from headrace_cli.context import InLog, Operator
from headrace_cli.exit_codes import ExitCode
from headrace_cli.times import moment
from headrace_cli.views.tracking import tracked

if TYPE_CHECKING:
    from headrace_operations.dead_letters.carry_out import Request
    from headrace_operations.dead_letters.model import Selection

Ids: TypeAlias = Annotated[
    list[str] | None, typer.Argument(metavar="ID", help="IDs of dead letters: stage/partition/offset.")
]
Reason: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--reason", envvar="HEADRACE_DLQ_REASON", help="Only dead letters with this reason.", show_default=False
    ),
]
Since: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--since", envvar="HEADRACE_DLQ_SINCE", show_default=False,
        help="Only records dead-lettered since: 2026-11-21T10:00 (UTC by default), or 90m, 12h, 7d ago.",
    ),
]  # fmt: skip
Until: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--until", envvar="HEADRACE_DLQ_UNTIL", help="Only records dead-lettered before this time.", show_default=False
    ),
]
Batch: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--batch", envvar="HEADRACE_DLQ_BATCH", show_default=False,
        help="Only dead letters of the redrive or discard with this ID.",
    ),
]  # fmt: skip
AllStates: TypeAlias = Annotated[
    bool,
    typer.Option("--all-states", envvar="HEADRACE_DLQ_ALL_STATES", help="Include redriven and discarded dead letters."),
]
All: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--all", envvar="HEADRACE_DLQ_ALL", help="All open dead letters; required if you give no other filter."
    ),
]
DryRun: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        envvar="HEADRACE_DRY_RUN",
        help="Show the number of dead letters by stage and tenant, and do nothing.",
    ),
]
Why: TypeAlias = Annotated[
    str, typer.Option("--why", envvar="HEADRACE_WHY", help="The reason, recorded with the action.")
]
Limit: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--limit",
        envvar="HEADRACE_DLQ_LIMIT",
        min=1,
        help="Maximum number of dead letters, oldest first.",
        show_default=False,
    ),
]
NamedId: TypeAlias = Annotated[str, typer.Argument(metavar="ID", help="ID of a dead letter: stage/partition/offset.")]

commands = commands_of("dlq", "List, redrive or discard dead letters.")


@command(commands, "list", "Show open dead letters by cause.")
def show_all(
    stage: options.OnlyStage = None,
    reason: Reason = None,
    document: options.OnlyDocument = None,
    tenant: options.OnlyTenant = None,
    since: Since = None,
    until: Until = None,
    batch: Batch = None,
    all_states: AllStates = False,
    each: Annotated[
        bool, typer.Option("--each", envvar="HEADRACE_DLQ_EACH", help="List them individually instead of by cause.")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", envvar="HEADRACE_DLQ_LIMIT", min=1, show_default=False,
            help="Only this many dead letters, the newest.",
        ),
    ] = None,
    *,
    operator: InLog,
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Show open dead letters, grouped by cause: stage, reason, handler and the common part of the messages.

    Payloads are not shown. The command reads the dead letters of one stage, or of all, from --since on.
    """
    from headrace_cli.views import dlq as dlq_view

    selection = _meant(
        since, until, stage=stage, reason=reason, document=document, tenant=tenant, batch=batch, all_states=all_states
    )
    entries = operator.cluster().dead_letters().select(selection)
    shown = entries if limit is None else entries[-limit:]
    dlq_view.entries(shown, len(entries), each=each, as_json=as_json)


@command(commands, "show", "Show a dead letter completely.")
def show(name: NamedId, *, operator: InLog, as_json: options.Json = False) -> None:
    """Show a dead letter completely: the reason, the record with its decoded payload, and earlier failures.

    The payload may contain personal data; make sure that only authorized people can see the terminal.
    """
    from headrace_cli.views import dlq as dlq_view
    from headrace_operations.dead_letters.model import parse_id

    identity = parse_id(name)
    cluster = operator.cluster()
    dlq_view.one(cluster.codec, cluster.dead_letters().show(identity), as_json=as_json)


@command(commands, "redrive", "Send dead letters through their stage again.")
def redrive(
    ids: Ids = None,
    stage: options.OnlyStage = None,
    reason: Reason = None,
    document: options.OnlyDocument = None,
    tenant: options.OnlyTenant = None,
    since: Since = None,
    until: Until = None,
    batch: Batch = None,
    everything: All = False,
    again: Annotated[
        bool,
        typer.Option(
            "--again", envvar="HEADRACE_DLQ_AGAIN",
            help="Include dead letters that were already redriven and, if named by ID, discarded ones.",
        ),
    ] = False,
    limit: Limit = None,
    why: Why = "",
    dry_run: DryRun = False,
    *,
    operator: InLog,
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Send dead letters through their stage again after you have removed the cause.

    Each record goes unchanged to the stage's retry topic, in one transaction with the action, so a crash sends none
    twice. A record that fails again becomes a new dead letter that names this one.
    """
    from headrace_operations.dead_letters.act import REDRIVEN
    from headrace_operations.dead_letters.carry_out import Request

    selection = _meant(
        since, until, ids=ids or (), stage=stage, reason=reason, document=document, tenant=tenant, batch=batch
    )
    request = Request(REDRIVEN, selection, why, everything=everything, again=again, limit=limit)
    _act(operator, request, dry_run=dry_run, yes=True, as_json=as_json)


@command(commands, "discard", "Close dead letters without sending them again.")
def discard(
    why: Annotated[str, typer.Option("--why", envvar="HEADRACE_WHY", help="The reason, recorded with the action.")],
    ids: Ids = None,
    stage: options.OnlyStage = None,
    reason: Reason = None,
    document: options.OnlyDocument = None,
    tenant: options.OnlyTenant = None,
    since: Since = None,
    until: Until = None,
    everything: All = False,
    limit: Limit = None,
    dry_run: DryRun = False,
    yes: options.Yes = False,
    *,
    operator: InLog,
    as_json: options.Json = False,
) -> None:
    """Close dead letters without sending their records again.

    The records stay in their topic until retention ends. A permanent note says who discarded them,
    when and why.
    """
    from headrace_operations.dead_letters.act import DISCARDED
    from headrace_operations.dead_letters.carry_out import Request

    selection = _meant(since, until, ids=ids or (), stage=stage, reason=reason, document=document, tenant=tenant)
    request = Request(DISCARDED, selection, why, everything=everything, limit=limit)
    _act(operator, request, dry_run=dry_run, yes=yes, as_json=as_json)


@command(commands, "export", "Export dead letters as JSON lines.")
def export(
    target: Annotated[str, typer.Argument(metavar="FILE", help="A file that does not exist yet, or - for stdout.")],
    stage: options.OnlyStage = None,
    reason: Reason = None,
    document: options.OnlyDocument = None,
    tenant: options.OnlyTenant = None,
    since: Since = None,
    until: Until = None,
    batch: Batch = None,
    all_states: AllStates = False,
    *,
    operator: InLog,
    as_json: options.Json = False,
) -> None:
    """Export complete dead letters as JSON lines, with payloads in base64 and, if possible, decoded.

    The file contains payloads, so only its owner may read it.
    """
    from headrace_cli.views import dlq_export

    selection = _meant(
        since, until, stage=stage, reason=reason, document=document, tenant=tenant, batch=batch, all_states=all_states
    )
    count = dlq_export.export(operator.cluster(), selection, None if target == "-" else Path(target))
    if as_json and target != "-":
        output.emit({"file": target, "count": count})
    else:
        output.say(f"{count} dead letters written")


def _meant(since: str | None, until: str | None, **asked: object) -> Selection:
    """Return the selection that the options describe."""
    from headrace_operations.dead_letters.carry_out import Asked

    now = datetime.now(UTC)
    times = {"since": moment(since, "--since", now), "until": moment(until, "--until", now)}
    return Asked(**asked, **times).selection(now)  # type: ignore[arg-type]


def _act(operator: Operator, request: Request, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    from headrace_cli.views import dlq as dlq_view
    from headrace_operations.dead_letters import carry_out as operations

    request = request.checked()
    cluster = operator.cluster()
    planned = operations.plan_request(cluster, request)
    taken = planned.plan.taken
    if dry_run:
        dlq_view.planned(planned, as_json=as_json)
        return
    if not yes:
        dlq_view.counts(taken, "would be discarded", error=True)
    require_yes(f"Discard {len(taken)} dead letters?", yes=yes)
    with tracked(request.action.lower(), len(taken)) as progress:
        done = operations.carry_out(cluster, planned, progress)
    dlq_view.done(done, as_json=as_json)
    if planned.plan.refused:
        raise typer.Exit(ExitCode.SOME_FAILED)
