"""``status``: what runs; with an id, where that document is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headrace_cli import options, output
from headrace_cli.command import command, commands_of
from headrace_cli.exit_codes import ExitCode
from headrace_cli.failures import UNKNOWN_DOCUMENT, NotFound, ProblemError
from headrace_cli.stack import observe
from headrace_cli.stack.observe import StackView, history_rows
from headrace_cli.state import connect, find_state_dir
from headrace_cli.views.dlq import harmless

commands = commands_of()


@command(commands, "status", "Show what runs; with ID, where that document is.")
def status(
    document_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="A document: where is it now?", show_default=False)
    ] = None,
    state_dir: options.StateDir = None,
    url: options.Url = None,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Show what runs, whether it is ready and how far each stage is behind; with ID, where that document is now."""
    if document_id is not None:
        _document_status(document_id, url, api_key, state_dir, as_json=as_json)
        return

    view = observe.look(find_state_dir(state_dir))
    if as_json:
        output.emit(view.document())
    else:
        _show_stack(view)
    if not view.ready:
        raise typer.Exit(ExitCode.FAILED)


def _show_stack(view: StackView) -> None:
    console = output.console()
    rows = [
        (one.name, one.state, one.pid, one.restarts, f"{one.uptime_s:.0f} s", "yes" if one.ready else "no", one.waiting)
        for one in view.processes
    ]
    columns = ("process", "state", "pid", "restarts", "up", "ready", "waits for")
    console.print(output.table(columns, rows, right=("pid", "restarts", "up")))
    if view.stages is not None:
        stages = [(one["stage"], one["topic"], one["behind"]) for one in view.stages]
        console.print(output.table(("stage", "reads", "records behind"), stages, right=("records behind",)))
    if view.index is not None:
        index = view.index
        typer.echo(
            f"index: {index['documents']} documents, {index['passages']} passages of tenant {index['tenant']}, "
            f"generation {index['generation']}"
        )
    if view.url:
        typer.echo(f"gateway: {view.url}; Kafka: {view.kafka}; embeddings: {view.provider}")
    typer.echo(f"PostgreSQL: {view.postgres} (password in {view.state_dir}/stack.json)")
    for note in view.notes:
        output.say(f"note: {note}")


def _document_status(
    identifier: str, url: str | None, api_key: str | None, state_dir: Path | None, *, as_json: bool
) -> None:

    try:
        found = connect(url, api_key, state_dir).document(identifier)
    except ProblemError as error:
        if error.status != 404:
            raise
        raise NotFound(error.message, where=error.where, remedy=UNKNOWN_DOCUMENT) from error
    if as_json:
        output.emit(found)
        return
    held = found["held"]
    waiting = f", waits for {found['waiting_for']}" if found["waiting_for"] and not held else ""
    typer.echo(f"{found['id']}: {found['state']}, version {found['version']}{waiting}")
    if held:
        why = f": {held['why']}" if held["why"] else ""
        typer.echo(harmless(f"held at {held['stage']} for a {held['waits_for']} ({held['scope']}{why})"))
        typer.echo(f"what to do: {harmless(held['ends'])}")
    if stored := found["stored"]:
        holds = "deleted" if stored["deleted"] else f"{stored['chunks']} passages, model {stored['model']}"
        typer.echo(f"in the index: version {stored['version']}, {holds}, since {stored['indexed_at']}")
    if letter := found["dead_letter"]:
        message = letter["message"].removesuffix(letter["remedy"] or "").rstrip()
        typer.echo(f"given up by {letter['stage']} ({letter['reason']}): {message}")
        typer.echo(f"what to do: {letter['remedy']}")
    if found["stages"]:
        columns = ("stage", "handlers", "worker", "attempt", "started", "took")
        output.console().print(output.table(columns, history_rows(found), right=("attempt", "took")))
    for note in found["notes"]:
        output.say(f"note: {note}")
