"""``dlq list|show|redrive|discard|export``: the records that stages gave up, for operators with access to Kafka."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from headrace_cli import options, output
from headrace_cli.asking import require_yes
from headrace_cli.command import command, commands_of
from headrace_cli.context import InLog, Operator
from headrace_cli.exit_codes import ExitCode
from headrace_cli.times import moment
from headrace_cli.views import dlq as dlq_view
from headrace_cli.views import dlq_export
from headrace_cli.views.tracking import tracked
from headrace_operations.dead_letters import carry_out as operations
from headrace_operations.dead_letters.act import DISCARDED, REDRIVEN
from headrace_operations.dead_letters.carry_out import Asked, Request
from headrace_operations.dead_letters.model import Selection, parse_id

Ids: TypeAlias = Annotated[list[str] | None, typer.Argument(metavar="ID", help="Dead letters: stage/partition/offset.")]
Reason: TypeAlias = Annotated[
    str | None,
    typer.Option("--reason", envvar="HEADRACE_DLQ_REASON", help="Only for this reason.", show_default=False),
]
Since: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--since", envvar="HEADRACE_DLQ_SINCE", show_default=False,
        help="Only given up since then: 2026-11-21T10:00 (UTC unless it says otherwise), or 90m, 12h, 7d ago.",
    ),
]  # fmt: skip
Until: TypeAlias = Annotated[
    str | None,
    typer.Option("--until", envvar="HEADRACE_DLQ_UNTIL", help="Only given up before then.", show_default=False),
]
Batch: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--batch", envvar="HEADRACE_DLQ_BATCH", show_default=False,
        help="Only what the redrive or discard with this identity took in.",
    ),
]  # fmt: skip
AllStates: TypeAlias = Annotated[
    bool, typer.Option("--all-states", envvar="HEADRACE_DLQ_ALL_STATES", help="Also those redriven or discarded.")
]
All: TypeAlias = Annotated[
    bool, typer.Option("--all", envvar="HEADRACE_DLQ_ALL", help="All open ones, where no other condition is given.")
]
DryRun: TypeAlias = Annotated[
    bool, typer.Option("--dry-run", envvar="HEADRACE_DRY_RUN", help="Say how many, by stage and tenant; do nothing.")
]
Why: TypeAlias = Annotated[str, typer.Option("--why", envvar="HEADRACE_WHY", help="The reason, kept with the action.")]
Limit: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--limit", envvar="HEADRACE_DLQ_LIMIT", min=1, help="At most so many, the oldest first.", show_default=False
    ),
]
NamedId: TypeAlias = Annotated[str, typer.Argument(metavar="ID", help="A dead letter: stage/partition/offset.")]

commands = commands_of("dlq", "Dead letters: records that a stage gave up.")


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
    each: Annotated[bool, typer.Option("--each", envvar="HEADRACE_DLQ_EACH", help="One by one, not by cause.")] = False,
    limit: Limit = None,
    *,
    operator: InLog,
    as_json: options.Json = False,
) -> None:
    """Show open dead letters, grouped by cause: stage, reason, handler and what the messages have in common.

    No payload is shown. Reads the dead letters of the stage, or of all of them, from --since on.
    """
    selection = _meant(
        since, until, stage=stage, reason=reason, document=document, tenant=tenant, batch=batch, all_states=all_states
    )
    entries = operator.cluster().dead_letters().select(selection)
    shown = entries if limit is None else entries[-limit:] if each else entries
    dlq_view.entries(shown, len(entries), each=each, as_json=as_json)


@command(commands, "show", "Print all of one, its payload included.")
def show(name: NamedId, *, operator: InLog, as_json: options.Json = False) -> None:
    """Print everything of a dead letter: why, the record with its payload decoded, and the failures before.

    The payload may hold personal data: mind who reads the terminal.
    """
    identity = parse_id(name)
    cluster = operator.cluster()
    dlq_view.one(cluster.codec, cluster.dead_letters().show(identity), as_json=as_json)


@command(commands, "redrive", "Send the records again.")
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
            help="Also those that were redriven before; of those named by id, also discarded ones.",
        ),
    ] = False,
    limit: Limit = None,
    why: Why = "",
    dry_run: DryRun = False,
    *,
    operator: InLog,
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Send the records of dead letters through their stage again, after the cause was removed.

    Each goes to the stage's retry topic as it was, in one transaction with the note that it did: a crash sends none
    twice. One that fails again becomes a new dead letter, which names this one.
    """
    selection = _meant(
        since, until, ids=ids or (), stage=stage, reason=reason, document=document, tenant=tenant, batch=batch
    )
    request = Request(REDRIVEN, selection, why, everything=everything, again=again, limit=limit)
    _act(operator, request, dry_run=dry_run, yes=True, as_json=as_json)


@command(commands, "discard", "Note that nothing is to be done about them.")
def discard(
    why: Annotated[str, typer.Option("--why", envvar="HEADRACE_WHY", help="The reason, kept with the action.")],
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
    """Note that nothing is to be done about dead letters; they are open no longer.

    The records stay in their topic until its retention ends, and who discarded them, when and why stays for good.
    """
    selection = _meant(since, until, ids=ids or (), stage=stage, reason=reason, document=document, tenant=tenant)
    request = Request(DISCARDED, selection, why, everything=everything, limit=limit)
    _act(operator, request, dry_run=dry_run, yes=yes, as_json=as_json)


@command(commands, "export", "Write them as JSON lines.")
def export(
    target: Annotated[str, typer.Argument(metavar="FILE", help="A file that does not exist yet; - for stdout.")],
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
    """Write dead letters as JSON lines, nothing left out: bytes in base64, and decoded where they decode.

    The file holds payloads, so its owner alone may read it.
    """
    selection = _meant(
        since, until, stage=stage, reason=reason, document=document, tenant=tenant, batch=batch, all_states=all_states
    )
    count = dlq_export.export(operator.cluster(), selection, None if target == "-" else Path(target))
    if as_json and target != "-":
        output.emit({"file": target, "count": count})
    else:
        output.say(f"{count} dead letters written")


def _meant(since: str | None, until: str | None, **asked: object) -> Selection:
    """Return what the options ask for."""
    now = datetime.now(UTC)
    times = {"since": moment(since, "--since", now), "until": moment(until, "--until", now)}
    return Asked(**asked, **times).selection(now)  # type: ignore[arg-type]


def _act(operator: Operator, request: Request, *, dry_run: bool, yes: bool, as_json: bool) -> None:
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
