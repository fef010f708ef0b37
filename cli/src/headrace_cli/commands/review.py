"""``review list|show|approve|reject``: the records that wait for a person."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

from headrace_cli import options, output
from headrace_cli.command import command, commands_of
from headrace_cli.commands.held import _list, order
from headrace_cli.context import clients
from headrace_cli.failures import NotFound, UsageError
from headrace_cli.views import held as held_view
from headrace_cli.views.tracking import tracked
from headrace_operations.held.act import HeldActor
from headrace_operations.held.log import HeldLog
from headrace_operations.held.model import NoSuchHeldRecord, parse_id

Ids: TypeAlias = Annotated[list[str], typer.Argument(metavar="ID", help="Held records: stage/partition/offset.")]
Stage: TypeAlias = Annotated[
    str | None, typer.Option("--stage", envvar="HEADRACE_STAGE", help="Only of this stage.", show_default=False)
]
Kind: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--kind", envvar="HEADRACE_HELD_KIND", show_default=False,
        help="Only what waits for this: pause (its end, a cap's too), cap, or review.",
    ),
]  # fmt: skip
Document: TypeAlias = Annotated[
    str | None,
    typer.Option("--document", envvar="HEADRACE_DOCUMENT", help="Only of this document.", show_default=False),
]
DryRun: TypeAlias = Annotated[
    bool, typer.Option("--dry-run", envvar="HEADRACE_DRY_RUN", help="Say which, decide nothing.")
]
commands = commands_of("review", "Outputs that wait for a review.")
_REMEDY = "`headrace review list` shows those that wait."


@command(commands, "list", "Show what waits for a review.")
def show_reviews(
    stage: Stage = None,
    tenant: options.OnlyTenant = None,
    document: Document = None,
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    registry: options.RegistryUrl = None,
    as_json: options.Json = False,
) -> None:
    """Show the outputs that wait for a review, the oldest first, without their payloads."""
    _list(stage, "review", tenant, document, options.Place(state_dir, kafka, registry), as_json)


@command(commands, "show", "Print all of one, its payload included.")
def show(
    name: Annotated[str, typer.Argument(metavar="ID", help="A held record: stage/partition/offset.")],
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    registry: options.RegistryUrl = None,
    as_json: options.Json = False,
) -> None:
    """Print everything of a held record: why it waits, and what it holds.

    The payload may hold personal data: mind who reads the terminal.
    """
    identity = parse_id(name)
    output.quiet_logs()
    settings, codec = clients(state_dir, kafka, registry)
    try:
        found = HeldLog(settings, codec).one(identity)
    except NoSuchHeldRecord as error:
        raise NotFound(error.message, remedy=_REMEDY) from error
    held_view.one(codec, found, as_json=as_json)


@command(commands, "approve", "Have outputs go on.")
def approve(
    ids: Ids,
    why: Annotated[str, typer.Option("--why", envvar="HEADRACE_WHY", help="The reason, kept with the decision.")] = "",
    dry_run: DryRun = False,
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    registry: options.RegistryUrl = None,
    as_json: options.Json = False,
) -> None:
    """Have outputs that wait for a review go on to the next stage, as they are.

    Each goes on in one transaction with the note that it did; approving it a second time does nothing.
    """
    _decide("APPROVED", ids, why, dry_run, options.Place(state_dir, kafka, registry), as_json)


@command(commands, "reject", "Turn outputs down: they become dead letters.")
def reject(
    ids: Ids,
    why: Annotated[
        str,
        typer.Option("--why", envvar="HEADRACE_WHY", help="The reason, kept with the decision and the dead letter."),
    ],
    dry_run: DryRun = False,
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    registry: options.RegistryUrl = None,
    as_json: options.Json = False,
) -> None:
    """Turn outputs that wait for a review down: each becomes a dead letter with your name and the reason.

    The document stays as it was before that version. A decision is final.
    """
    if not why.strip():
        raise UsageError("a rejection needs a reason", where="--why", remedy="Say what is wrong with it.")
    _decide("REJECTED", ids, why, dry_run, options.Place(state_dir, kafka, registry), as_json)


def _decide(action: str, names: list[str], why: str, dry_run: bool, place: options.Place, as_json: bool) -> None:

    ids = frozenset(parse_id(name) for name in names)
    output.quiet_logs()
    made = order(action, why)
    actor = HeldActor(*clients(*place))
    try:
        if dry_run:
            held_view.decided(actor.plan(ids, made), made, len(ids), dry_run=True, as_json=as_json)
            return
        with tracked(action.lower(), len(ids)) as progress:
            done = actor.decide(ids, made, progress)
    except NoSuchHeldRecord as error:
        raise NotFound(error.message, remedy=_REMEDY) from error
    held_view.decided(done, made, len(ids), dry_run=False, as_json=as_json)
