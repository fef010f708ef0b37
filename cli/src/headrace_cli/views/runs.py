"""Shows runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import typer

from headrace_cli import output, tables
from headrace_cli.views.trace import cost_line
from headrace_operations.runs.fold import Item, Run
from headrace_operations.runs.follow import Reading

_SHOWN = 10
_COLUMNS = ("run", "tenant", "started", "total", "done", "pending", "failed", "%", "per s", "left")
_NUMBERS = ("total", "done", "pending", "failed", "%", "per s", "left")


def show(reading: Reading, *, as_json: bool) -> None:
    """Print the runs and, for a named run, its failed and pending changes."""
    if as_json:
        output.emit(_document(reading))
        return
    tables.console().print(tables.table(_COLUMNS, map(_row, reading.runs), right=_NUMBERS))
    for line in _reasons(reading.items):
        typer.echo(line)
    output.say(cost_line(reading.cost))
    if not reading.complete:
        output.say("note: totals may be too low, because not everything was read")


def _document(reading: Reading) -> dict[str, Any]:
    return {
        "runs": [asdict(one) for one in reading.runs],
        "failed": [
            {"tenant": item.change.tenant, "id": item.change.document_id, "version": item.change.version,
             "dead_letter": item.letter.id, "reason": item.letter.reason, "message": item.letter.message}
            for item in reading.items if item.letter is not None
        ],
        "pending": [
            {"tenant": item.change.tenant, "id": item.change.document_id, "version": item.change.version}
            for item in reading.items if item.fate == "pending"
        ],
        "complete": reading.complete,
        "read": asdict(reading.cost),
    }  # fmt: skip


def _row(run: Run) -> tuple[object, ...]:
    begun = datetime.fromtimestamp(run.begun_ms / 1000, UTC).isoformat(timespec="seconds")
    left = None if run.seconds_left is None else f"{run.seconds_left:.0f} s"
    return (
        run.run, run.tenant, begun, run.total, run.done, run.pending, run.failed, f"{run.percent:.1f}",
        run.per_second, left,
    )  # fmt: skip


def _reasons(items: Sequence[Item]) -> list[str]:
    """Return some of the failed and pending changes, with the command that shows more."""
    failed = [item for item in items if item.letter is not None]
    pending = [item for item in items if item.fate == "pending"]
    lines = [
        f"failed: {item.change.document_id} version {item.change.version}: {item.letter.reason} in "
        f"{item.letter.stage} ({item.letter.id}): {output.one_line(item.letter.message, 160)}"
        for item in failed[:_SHOWN]
        if item.letter is not None
    ]
    lines += [f"pending: {item.change.document_id} version {item.change.version}" for item in pending[:_SHOWN]]
    more = max(0, len(failed) - _SHOWN) + max(0, len(pending) - _SHOWN)
    if more:
        lines.append(f"and {more} more, see --json")
    if lines:
        lines.append("what to do: run headrace trace DOCUMENT to see where it is, why, and which command helps")
    return lines
