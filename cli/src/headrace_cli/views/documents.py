"""Shows documents and what a command did with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import typer

from headrace.errors import sentences
from headrace_cli import output, tables
from headrace_cli.exit_codes import ExitCode
from headrace_cli.ingest.delivery import Outcome
from headrace_cli.ingest.sources import Change
from headrace_cli.ingest.waiting import Arrivals


def show(found: Sequence[dict[str, Any]], *, more: bool) -> None:
    """Print documents that have attributes."""
    rows = [
        (one["id"], one["version"], " ".join(f"{name}={value}" for name, value in sorted(one["attributes"].items())),
         one["title"], one["indexed_at"][:19])
        for one in found
    ]  # fmt: skip
    tables.console().print(tables.table(("document", "version", "attributes", "title", "indexed"), rows))
    output.say(f"{len(found)} documents{', and more: see --limit' if more else ''}")


def planned(as_json: bool) -> Callable[[Change], None]:
    """Return a function that prints each change of a dry run, or nothing if JSON follows."""

    def one(change: Change) -> None:
        if not as_json:
            typer.echo(f"{change.item.get('op', '?'):<7} {change.document_id}  from {change.origin}")

    return one


def finish(outcome: Outcome, *, as_json: bool, verb: str, arrived: str = "searchable") -> None:
    """Print the outcome and exit with its exit code."""
    if as_json:
        output.emit(outcome.document())
    else:
        typer.echo(f"{outcome.accepted} changes {verb}" + _waited(outcome.waited, arrived))
        if outcome.run is not None:
            output.say(f"run {outcome.run}: follow it with `headrace runs {outcome.run} --watch`")
    for name in outcome.skipped:
        output.say(f"skipped: {name}: unsupported file type")
    for failure in outcome.failures:
        named = f" (document {failure.document_id})" if failure.document_id else ""
        output.say(sentences(f"failed: {failure.origin}{named}: {failure.reason}", failure.remedy))
    if outcome.failures:
        output.say(f"{len(outcome.failures)} failed; the others succeeded")
    if outcome.exit_code is not ExitCode.OK:
        raise typer.Exit(outcome.exit_code)


def _waited(waited: Arrivals | None, arrived: str) -> str:
    if waited is None:
        return ""
    text = f", {waited.indexed} documents {arrived}"
    if waited.given_up:
        text += f", {waited.given_up} dead-lettered: see `headrace dlq list`"
    if waited.pending:
        text += f"; {len(waited.pending)} still in progress, see `headrace status` and `headrace trace ID`"
    return text
