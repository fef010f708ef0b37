"""``status``: the state of the stack or of one document."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace_cli import options, output
from headrace_cli.command import command, commands_of
from headrace_cli.exit_codes import ExitCode
from headrace_cli.failures import UNKNOWN_DOCUMENT, NotFound, ProblemError
from headrace_cli.state import AtGateway, Caller, find_state_dir

commands = commands_of()


@command(commands, "status", "Show the state of the stack, or of one document.")
def status(
    document_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="ID of a document.", show_default=False)
    ] = None,
    *,
    caller: AtGateway,
    as_json: options.Json = False,
) -> None:
    """Show the processes, whether they are ready and the lag of each stage; with ID, where that document is."""
    from headrace_cli.stack import observe
    from headrace_cli.views import status as status_view

    if document_id is not None:
        _document_status(document_id, caller, as_json=as_json)
        return
    view = observe.look(find_state_dir(caller.state_dir))
    if as_json:
        output.emit(view.document())
    else:
        status_view.show_stack(view)
    if not view.ready:
        raise typer.Exit(ExitCode.FAILED)


def _document_status(identifier: str, caller: Caller, *, as_json: bool) -> None:
    from headrace_cli.views import status as status_view

    try:
        found = caller.gateway(operator=True).document(identifier)
    except ProblemError as error:
        if error.status != 404:
            raise
        raise NotFound(error.message, where=error.where, remedy=UNKNOWN_DOCUMENT) from error
    if as_json:
        output.emit(found)
    else:
        status_view.show_document(found)
