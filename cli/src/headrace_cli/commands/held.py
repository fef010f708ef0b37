"""``held list`` and ``review list|show|approve|reject``: the records that wait for a person."""

from __future__ import annotations

import getpass
from typing import Annotated, TypeAlias
from uuid import uuid4

import typer

from headrace_cli import options, output
from headrace_cli.command import command, commands_of
from headrace_cli.context import clients
from headrace_cli.views import held as held_view
from headrace_operations.held.log import HeldLog
from headrace_operations.held.model import HeldOrder, HeldSelection, check

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
commands = commands_of("held", "Records that wait for a person or a cap.")
_REMEDY = "`headrace review list` shows those that wait."


@command(commands, "list", "Show what waits for the end of a pause, for a cap or for a review.")
def show_held(
    stage: Stage = None,
    kind: Kind = None,
    tenant: options.OnlyTenant = None,
    document: Document = None,
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    registry: options.RegistryUrl = None,
    as_json: options.Json = False,
) -> None:
    """Show the records that wait, the oldest first: for the end of a pause, for room in a cap, or for a review.

    No payload is shown. The last lines say which command lets them go on.
    """
    _list(stage, kind, tenant, document, options.Place(state_dir, kafka, registry), as_json)


def _list(
    stage: str | None, kind: str | None, tenant: str | None, document: str | None, place: options.Place, as_json: bool
) -> None:

    selection = check(HeldSelection(stage=stage, kind=kind, tenant=tenant, document=document))
    output.quiet_logs()
    held_view.entries(HeldLog(*clients(*place)).select(selection), as_json=as_json)


def order(action: str, why: str) -> HeldOrder:
    """Return an order of whoever runs this."""
    return HeldOrder(action, uuid4().hex, getpass.getuser(), why)
