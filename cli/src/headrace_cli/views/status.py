"""Shows the status of the stack and of a document."""

from __future__ import annotations

from typing import Any

import typer

from headrace_cli import output, tables
from headrace_cli.stack.observe import StackView, history_rows
from headrace_cli.views.dlq import harmless


def show_stack(view: StackView) -> None:
    """Print the processes, the progress of the stages, and the size of the index."""
    console = tables.console()
    rows = [
        (one.name, one.state, one.pid, one.restarts, f"{one.uptime_s:.0f} s", "yes" if one.ready else "no", one.waiting)
        for one in view.processes
    ]
    columns = ("process", "state", "pid", "restarts", "up", "ready", "waits for")
    console.print(tables.table(columns, rows, right=("pid", "restarts", "up")))
    if view.stages is not None:
        stages = [(one["stage"], one["topic"], one["behind"]) for one in view.stages]
        console.print(tables.table(("stage", "reads", "records behind"), stages, right=("records behind",)))
    if view.index is not None:
        index = view.index
        typer.echo(
            f"index: {index['documents']} documents, {index['passages']} chunks of tenant {index['tenant']}, "
            f"generation {index['generation']}"
        )
    if view.url:
        typer.echo(f"gateway: {view.url}; Kafka: {view.kafka}; embeddings: {view.provider}")
    typer.echo(f"PostgreSQL: {view.postgres} (password in {view.state_dir}/stack.json)")
    for note in view.notes:
        output.say(f"note: {note}")


def show_document(found: dict[str, Any]) -> None:
    """Print where a document is, why it waits or was dead-lettered, and its history."""
    held = found["held"]
    waiting = f", waits for {found['waiting_for']}" if found["waiting_for"] and not held else ""
    typer.echo(f"{found['id']}: {found['state']}, version {found['version']}{waiting}")
    if held:
        why = f": {held['why']}" if held["why"] else ""
        typer.echo(harmless(f"held at {held['stage']} for a {held['waits_for']} ({held['scope']}{why})"))
        typer.echo(f"what to do: {harmless(held['ends'])}")
    if stored := found["stored"]:
        holds = "deleted" if stored["deleted"] else f"{stored['chunks']} chunks, model {stored['model']}"
        typer.echo(f"in the index: version {stored['version']}, {holds}, since {stored['indexed_at']}")
    if letter := found["dead_letter"]:
        message = letter["message"].removesuffix(letter["remedy"] or "").rstrip()
        typer.echo(f"dead-lettered by {letter['stage']} ({letter['reason']}): {message}")
        typer.echo(f"what to do: {letter['remedy']}")
    if found["stages"]:
        columns = ("stage", "handlers", "worker", "attempt", "started", "took")
        tables.console().print(tables.table(columns, history_rows(found), right=("attempt", "took")))
    for note in found["notes"]:
        output.say(f"note: {note}")
