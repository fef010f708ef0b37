"""Traces for people and as JSON."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import typer

from headrace_cli import output, tables
from headrace_operations.trace.log import Cost
from headrace_operations.trace.model import DocumentTrace, Letter, Place, Traces, VersionTrace
from headrace_operations.trace.request import RequestTrace

_PATH = ("stage", "handlers", "attempt", "worker", "read from", "started", "took")


_LISTED = {
    "embedder.skipped": "chunks without a vector, found by lexical search only",
    "embedder.cut": "chunks embedded only from their beginning",
    "embedder.split": "chunks embedded in parts",
    "embedder.unread_language": "language that the model does not know, so only words find the document; use a "
    "multilingual model such as multilingual-e5-small",
}
"""The embedder's notes on what vector search does not find, or not well; chunks are numbered from 0."""


def documents(traces: Traces) -> dict[str, Any]:
    """Return the traces for ``--json``."""
    return {"documents": [_document(one) for one in traces.documents], "read": asdict(traces.cost)}


def show(traces: Traces) -> None:
    """Print the traces for people."""
    for document in traces.documents:
        _show_document(document)
    output.say(cost_line(traces.cost))


def request(trace: RequestTrace) -> dict[str, Any]:
    """Return a request's trace for ``--json``."""
    return {
        "request": trace.request,
        "tenant": trace.tenant,
        "runs": [asdict(one) for one in trace.runs],
        "changes": [
            {
                "id": item.change.document_id,
                "version": item.change.version,
                "fate": item.fate,
                "settled_at": moment(item.settled_ms),
                "dead_letter": None if item.letter is None else item.letter.id,
            }
            for item in trace.changes
        ],
        "documents": [_document(one) for one in trace.documents],
        "not_shown": trace.not_shown,
        "notes": list(trace.notes),
        "read": asdict(trace.cost),
    }


def show_request(trace: RequestTrace) -> None:
    """Print a request's trace for people."""
    for run in trace.runs:
        typer.echo(
            f"{trace.request}: run {run.run} of tenant {run.tenant}, {run.total} changes: {run.done} done, "
            f"{run.pending} pending, {run.failed} failed"
        )
    if not trace.changes:
        typer.echo(f"{trace.request}: its changes expired from the log; these documents still have its version")
    for document in trace.documents:
        typer.echo()
        _show_document(document)
    if trace.not_shown:
        typer.echo(f"\nand {trace.not_shown} more documents, completed ones last: use --json, or trace one document")
    for note in trace.notes:
        output.say(f"note: {note}")
    output.say(cost_line(trace.cost))


def cost_line(cost: Cost) -> str:
    """Return the cost of reading the log."""
    cut = "" if cost.complete else "; the log has more records (raise --records or --seconds)"
    return (
        f"read {cost.records} records ({cost.megabytes:.1f} MB) from {cost.partitions} partitions "
        f"in {cost.seconds:.1f} s{cut}"
    )


def moment(milliseconds: int | None) -> str | None:
    """Return a time in UTC to the millisecond."""
    if milliseconds is None:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")


def _document(trace: DocumentTrace) -> dict[str, Any]:
    stored = None
    if trace.stored is not None:
        stored = asdict(trace.stored) | {"content_hash": trace.stored.content_hash.hex()}
        del stored["history"]  # shown by the steps of its version
    return asdict(trace) | {"stored": stored}


def _show_document(trace: DocumentTrace) -> None:
    version = "" if trace.version is None else f", version {trace.version}"
    typer.echo(f"{trace.tenant}/{trace.document_id}: {trace.state}{version}")
    if trace.stored is not None:
        row = trace.stored
        held = "deleted" if row.deleted else f"{row.chunks} chunks, model {row.model}"
        typer.echo(f"in the index: version {row.version}, {held}, since {row.indexed_at.isoformat()}")
        for key, what in _LISTED.items():
            if key in row.metadata:
                typer.echo(f"  {what}: {row.metadata[key]}")
    for one in trace.versions:
        _show_version(one)
    for note in trace.notes:
        output.say(f"note: {note}")


def _show_version(trace: VersionTrace) -> None:
    named = "unknown until its body is read" if trace.version is None else str(trace.version)
    outcome = f", outcome {trace.outcome} at {moment(trace.indexed_ms)}" if trace.outcome else ""
    typer.echo(f"\nversion {named}: {trace.operation or 'change'}, {trace.state}{outcome}")
    if trace.request_ids:
        run = f", run {', '.join(trace.runs)}" if trace.runs else ""
        typer.echo(f"  request {', '.join(trace.request_ids)}{run}")
    if trace.steps:
        rows = [
            (
                step.stage,
                ", ".join(step.handlers),
                step.attempt,
                step.worker,
                f"{step.topic}/{step.partition}/{step.offset}",
                step.started_at.isoformat(timespec="milliseconds"),
                f"{step.duration_us / 1000:.1f} ms",
            )
            for step in trace.steps
        ]
        tables.console().print(tables.table(_PATH, rows, right=("attempt", "took")))
    for place in trace.waiting:
        typer.echo(f"  now: {_place(place)}")
    for letter in trace.dead_letters:
        _show_letter(letter)
    _show_advice(trace.advice)


def _place(place: Place) -> str:
    where = f"{place.topic}/{place.partition}/{place.offset}"
    if place.held is not None:
        why = f": {place.held.why}" if place.held.why else ""
        return f"held at {where} for a {place.held.kind} ({place.held.scope}{why})"
    queue = f"{place.behind} offsets ahead of it" if place.behind else "next in its partition"
    text = f"waits for {place.stage} at {where}, {queue}"
    if place.due_ms is not None:
        left = place.due_ms / 1000 - time.time()
        due = f"due in {left:.1f} s" if left > 0 else "due now"
        text += f"; attempt {place.attempt}, {due} ({moment(place.due_ms)})"
    if place.lane == "replay":
        text += "; sent by a replay"
    return f"{text}; the stage is {place.paused}" if place.paused else text


def _show_letter(letter: Letter) -> None:
    message = letter.message.removesuffix(letter.remedy or "").rstrip()
    typer.echo(
        f"  dead letter {letter.id} ({letter.state}): {letter.reason} in {letter.handler or letter.stage}, "
        f"attempt {letter.attempt}, {letter.failed_at.isoformat(timespec='milliseconds')}: {message}"
    )
    if letter.redrive_of:
        typer.echo(f"    redriven from {letter.redrive_of}")
    if letter.acted_by:
        why = f": {letter.why}" if letter.why else ""
        typer.echo(f"    {letter.state} by {letter.acted_by} at {letter.acted_at}{why}")


def _show_advice(advice: Sequence[str]) -> None:
    for line in advice:
        typer.echo(f"  what to do: {line}")
