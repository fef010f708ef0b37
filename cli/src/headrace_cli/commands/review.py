"""``review list|show|approve|reject``: the outputs that wait for a review."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from headrace_cli import options
from headrace_cli.command import command, commands_of
from headrace_cli.context import InLog, Operator
from headrace_cli.views.tracking import tracked

if TYPE_CHECKING:
    from headrace_operations.held.decide import Decision

Ids: TypeAlias = Annotated[list[str], typer.Argument(metavar="ID", help="IDs of held records: stage/partition/offset.")]
DryRun: TypeAlias = Annotated[
    bool, typer.Option("--dry-run", envvar="HEADRACE_DRY_RUN", help="Show the records without deciding on them.")
]
commands = commands_of("review", "Review the output of stages: approve or reject it.")


@command(commands, "list", "List the outputs that wait for a review.")
def show_reviews(
    stage: options.OnlyStage = None,
    tenant: options.OnlyTenant = None,
    document: options.OnlyDocument = None,
    *,
    operator: InLog,
    as_json: options.Json = False,
) -> None:
    """List the outputs that wait for a review, oldest first, without their payloads."""
    from headrace.orders.holds import REVIEW
    from headrace_cli.views import held as held_view
    from headrace_operations.held.decide import held_records
    from headrace_operations.held.model import HeldSelection, check

    selection = check(HeldSelection(stage=stage, kind=REVIEW, tenant=tenant, document=document))
    held_view.entries(held_records(operator.cluster(), selection), as_json=as_json)


@command(commands, "show", "Show a held record completely.")
def show(
    name: Annotated[str, typer.Argument(metavar="ID", help="ID of a held record: stage/partition/offset.")],
    *,
    operator: InLog,
    as_json: options.Json = False,
) -> None:
    """Show a held record completely: why it is held, and its payload.

    The payload may contain personal data; make sure that only authorized people can see the terminal.
    """
    from headrace_cli.views import held as held_view
    from headrace_operations.held.decide import held_record
    from headrace_operations.held.model import parse_id

    parse_id(name)  # refuses invalid IDs before connecting
    cluster = operator.cluster()
    held_view.one(cluster.codec, held_record(cluster, name), as_json=as_json)


@command(commands, "approve", "Approve outputs: they continue to the next stage.")
def approve(
    ids: Ids,
    why: Annotated[
        str, typer.Option("--why", envvar="HEADRACE_WHY", help="The reason, recorded with the decision.")
    ] = "",
    dry_run: DryRun = False,
    *,
    operator: InLog,
    as_json: options.Json = False,
) -> None:
    """Approve outputs that wait for a review: they continue unchanged to the next stage.

    Each is sent in one transaction with the decision; approving it again does nothing.
    """
    from headrace_operations.held.decide import decision
    from headrace_operations.held.model import APPROVED

    _decide(operator, decision(APPROVED, ids, why), dry_run=dry_run, as_json=as_json)


@command(commands, "reject", "Reject outputs: they become dead letters.")
def reject(
    ids: Ids,
    why: Annotated[
        str,
        typer.Option(
            "--why", envvar="HEADRACE_WHY", help="The reason, recorded with the decision and the dead letter."
        ),
    ],
    dry_run: DryRun = False,
    *,
    operator: InLog,
    as_json: options.Json = False,
) -> None:
    """Reject outputs that wait for a review: each becomes a dead letter with your name and the reason.

    The document keeps its previous version. A decision is final.
    """
    from headrace_operations.held.decide import decision
    from headrace_operations.held.model import REJECTED

    _decide(operator, decision(REJECTED, ids, why), dry_run=dry_run, as_json=as_json)


def _decide(operator: Operator, asked: Decision, *, dry_run: bool, as_json: bool) -> None:
    from headrace_cli.views import held as held_view
    from headrace_operations.held.decide import decide

    cluster = operator.cluster()
    if dry_run:
        held_view.decided(decide(cluster, asked, dry_run=True), dry_run=True, as_json=as_json)
        return
    with tracked(asked.action.lower(), len(asked.ids)) as progress:
        done = decide(cluster, asked, progress=progress)
    held_view.decided(done, dry_run=False, as_json=as_json)
