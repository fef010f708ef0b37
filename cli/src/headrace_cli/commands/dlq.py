"""``dlq list|show|redrive|discard|export``: the records that stages gave up, for operators with access to Kafka."""

from __future__ import annotations

import getpass
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeAlias
from uuid import uuid4

import typer

from headrace_cli import options, output
from headrace_cli.asking import require_yes
from headrace_cli.command import command, commands_of
from headrace_cli.context import clients
from headrace_cli.exit_codes import ExitCode
from headrace_cli.failures import NotFound, UsageError
from headrace_cli.times import moment
from headrace_cli.views import dlq as dlq_view
from headrace_cli.views import dlq_export
from headrace_operations.dead_letters.act import Actor, Order, Plan, plan
from headrace_operations.dead_letters.log import DeadLetterLog
from headrace_operations.dead_letters.model import ANY_STATE, NoSuchDeadLetter, Selection, State, check, parse_id

Ids: TypeAlias = Annotated[list[str] | None, typer.Argument(metavar="ID", help="Dead letters: stage/partition/offset.")]
Stage: TypeAlias = Annotated[
    str | None, typer.Option("--stage", envvar="HEADRACE_STAGE", help="Only of this stage.", show_default=False)
]
Reason: TypeAlias = Annotated[
    str | None,
    typer.Option("--reason", envvar="HEADRACE_DLQ_REASON", help="Only for this reason.", show_default=False),
]
Document: TypeAlias = Annotated[
    str | None,
    typer.Option("--document", envvar="HEADRACE_DOCUMENT", help="Only of this document.", show_default=False),
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
    stage: Stage = None,
    reason: Reason = None,
    document: Document = None,
    tenant: options.OnlyTenant = None,
    since: Since = None,
    until: Until = None,
    batch: Batch = None,
    all_states: AllStates = False,
    each: Annotated[bool, typer.Option("--each", envvar="HEADRACE_DLQ_EACH", help="One by one, not by cause.")] = False,
    limit: Limit = None,
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    registry: options.RegistryUrl = None,
    as_json: options.Json = False,
) -> None:
    """Show open dead letters, grouped by cause: stage, reason, handler and what the messages have in common.

    No payload is shown. Reads the dead letters of the stage, or of all of them, from --since on.
    """
    selection = _selection(None, stage, reason, document, tenant, since, until, batch, all_states=all_states)
    entries = DeadLetterLog(*clients(state_dir, kafka, registry)).select(selection)
    shown = entries if limit is None else entries[-limit:] if each else entries
    dlq_view.entries(shown, len(entries), each=each, as_json=as_json)


@command(commands, "show", "Print all of one, its payload included.")
def show(
    name: NamedId,
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    registry: options.RegistryUrl = None,
    as_json: options.Json = False,
) -> None:
    """Print everything of a dead letter: why, the record with its payload decoded, and the failures before.

    The payload may hold personal data: mind who reads the terminal.
    """
    identity = parse_id(name)
    settings, codec = clients(state_dir, kafka, registry)
    try:
        chain = DeadLetterLog(settings, codec).show(identity)
    except NoSuchDeadLetter as error:
        raise NotFound(error.message, remedy=error.remedy) from error
    dlq_view.one(codec, chain, as_json=as_json)


@command(commands, "redrive", "Send the records again.")
def redrive(
    ids: Ids = None,
    stage: Stage = None,
    reason: Reason = None,
    document: Document = None,
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
    why: Annotated[str, typer.Option("--why", envvar="HEADRACE_WHY", help="The reason, kept with the action.")] = "",
    dry_run: DryRun = False,
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    registry: options.RegistryUrl = None,
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Send the records of dead letters through their stage again, after the cause was removed.

    Each goes to the stage's retry topic as it was, in one transaction with the note that it did: a crash sends none
    twice. One that fails again becomes a new dead letter, which names this one.
    """
    selection = _selection(ids, stage, reason, document, tenant, since, until, batch, all_states=False)
    _check_asked(selection, everything=everything)
    if again:
        states = ANY_STATE if selection.ids else frozenset({State.OPEN, State.REDRIVEN})
        selection = replace(selection, states=states)
    _act("REDRIVEN", selection, why, limit, dry_run, again, True, options.Place(state_dir, kafka, registry), as_json)


@command(commands, "discard", "Note that nothing is to be done about them.")
def discard(
    why: Annotated[str, typer.Option("--why", envvar="HEADRACE_WHY", help="The reason, kept with the action.")],
    ids: Ids = None,
    stage: Stage = None,
    reason: Reason = None,
    document: Document = None,
    tenant: options.OnlyTenant = None,
    since: Since = None,
    until: Until = None,
    everything: All = False,
    limit: Limit = None,
    dry_run: DryRun = False,
    yes: options.Yes = False,
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    registry: options.RegistryUrl = None,
    as_json: options.Json = False,
) -> None:
    """Note that nothing is to be done about dead letters; they are open no longer.

    The records stay in their topic until its retention ends, and who discarded them, when and why stays for good.
    """
    if not why.strip():
        raise UsageError("a discard needs a reason", where="--why", remedy="Say why nothing is to be done.")
    selection = _selection(ids, stage, reason, document, tenant, since, until, None, all_states=False)
    _check_asked(selection, everything=everything)
    _act("DISCARDED", selection, why, limit, dry_run, False, yes, options.Place(state_dir, kafka, registry), as_json)


@command(commands, "export", "Write them as JSON lines.")
def export(
    target: Annotated[str, typer.Argument(metavar="FILE", help="A file that does not exist yet; - for stdout.")],
    stage: Stage = None,
    reason: Reason = None,
    document: Document = None,
    tenant: options.OnlyTenant = None,
    since: Since = None,
    until: Until = None,
    batch: Batch = None,
    all_states: AllStates = False,
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    registry: options.RegistryUrl = None,
    as_json: options.Json = False,
) -> None:
    """Write dead letters as JSON lines, nothing left out: bytes in base64, and decoded where they decode.

    The file holds payloads, so its owner alone may read it.
    """
    selection = _selection(None, stage, reason, document, tenant, since, until, batch, all_states=all_states)
    settings, codec = clients(state_dir, kafka, registry)
    count = dlq_export.export(settings, codec, selection, None if target == "-" else Path(target))
    if as_json and target != "-":
        output.emit({"file": target, "count": count})
    else:
        output.say(f"{count} dead letters written")


def _selection(
    ids: list[str] | None, stage: str | None, reason: str | None, document: str | None, tenant: str | None,
    since: str | None, until: str | None, batch: str | None, *, all_states: bool,
) -> Selection:  # fmt: skip
    """Return what the options ask for; a batch is never open."""
    now = datetime.now(UTC)
    named = frozenset(parse_id(one) for one in ids or ())
    conditions = (stage, reason, document, tenant, since, until, batch)
    if named and any(one is not None for one in conditions):
        raise UsageError("ids and conditions exclude each other", where="ID", remedy="Give either.")
    states = ANY_STATE if named or batch or all_states else frozenset({State.OPEN})
    made = Selection(
        named, stage, reason, document, tenant, moment(since, "--since", now), moment(until, "--until", now), batch,
        states,
    )  # fmt: skip
    return check(made, now)


def _check_asked(selection: Selection, *, everything: bool) -> None:
    if not selection.narrow and not everything:
        raise UsageError(
            "it is not said which dead letters are meant", where="dlq",
            remedy="Name ids, give a condition such as --stage or --reason, or --all.",
        )  # fmt: skip


def _act(
    action: str, selection: Selection, why: str, limit: int | None, dry_run: bool, again: bool, yes: bool,
    place: options.Place, as_json: bool,
) -> None:  # fmt: skip

    settings, codec = clients(*place)
    order = Order(action, uuid4().hex, getpass.getuser(), why, again)
    try:
        entries = DeadLetterLog(settings, codec).select(selection)
    except NoSuchDeadLetter as error:
        raise NotFound(error.message, remedy=error.remedy) from error
    planned = plan(entries, order, named=bool(selection.ids))
    planned = planned if limit is None else replace(planned, taken=planned.taken[:limit])
    _check_found(planned, selection)
    if dry_run:
        dlq_view.acted(planned, None, order, as_json=as_json)
        return
    if not yes:
        dlq_view.counts(planned.taken, "would be discarded", error=True)
    require_yes(f"Discard {len(planned.taken)} dead letters?", yes=yes)
    with dlq_view.progress(action, len(planned.taken)) as progress:
        done = Actor(settings, codec).carry_out(planned.taken, order, progress)
    dlq_view.acted(planned, done, order, as_json=as_json)
    if planned.refused:
        raise typer.Exit(ExitCode.SOME_FAILED)


def _check_found(planned: Plan, selection: Selection) -> None:
    """Raise :class:`NotFound` where nothing is meant, saying where to look."""
    if not planned.taken and not planned.refused:
        asked = "no open dead letter" if len(selection.states) == 1 else "no dead letter"
        raise NotFound(
            f"{asked} meets the conditions",
            remedy="`headrace dlq list` shows the stages, reasons and causes that there are; --each the documents.",
        )
