"""``held list``: the held records."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

from headrace_cli import options
from headrace_cli.command import command, commands_of
from headrace_cli.context import InLog

Kind: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--kind", envvar="HEADRACE_HELD_KIND", show_default=False,
        help="Only records held for this reason: pause (which includes cap), cap, or review.",
    ),
]  # fmt: skip
commands = commands_of("held", "List held records.")


@command(commands, "list", "List records held by a pause, a cap or a review.")
def show_held(
    stage: options.OnlyStage = None,
    kind: Kind = None,
    tenant: options.OnlyTenant = None,
    document: options.OnlyDocument = None,
    *,
    operator: InLog,
    as_json: options.Json = False,
) -> None:
    """List held records, oldest first: those that wait for the end of a pause, room in a cap, or a review.

    Payloads are not shown. The last lines name the command that releases them.
    """
    from headrace_cli.views import held as held_view
    from headrace_operations.held.decide import held_records
    from headrace_operations.held.model import HeldSelection, check

    selection = check(HeldSelection(stage=stage, kind=kind, tenant=tenant, document=document))
    held_view.entries(held_records(operator.cluster(), selection), as_json=as_json)
