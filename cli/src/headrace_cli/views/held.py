"""Shows held records; lists do not show payloads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import typer

from headrace.codec.codec import Codec
from headrace.errors import PermanentError
from headrace.orders.holds import REVIEW, ends
from headrace.topology.stages import STAGES
from headrace_cli import output, tables
from headrace_cli.views.dlq import harmless
from headrace_operations.dead_letters.payload import encoded, envelope_document
from headrace_operations.held.decide import Decided
from headrace_operations.held.log import FoundHeld
from headrace_operations.held.model import HeldEntry

_WHY = 80
_MOST_ENDS = 10
"""Maximum number of scopes for which a list names the releasing command."""


def entries(shown: Sequence[HeldEntry], *, as_json: bool) -> None:
    """Print the held records."""
    if as_json:
        output.emit([_document(entry) for entry in shown])
        return
    rows = [
        (entry.id, _text(entry.waits_for), _text(entry.scope), _text(entry.tenant), _text(entry.document_id),
         entry.version, f"{entry.held_at:%Y-%m-%d %H:%M}", _text(output.one_line(entry.why, _WHY)))
        for entry in shown
    ]  # fmt: skip
    if rows:
        columns = ("id", "waits for", "scope", "tenant", "document", "version", "since", "reason")
        tables.console().print(tables.table(columns, rows, right=("version",)))
    typer.echo(f"{len(shown)} held records")
    for line in _what_to_do(shown):
        output.say(harmless(line))


def _what_to_do(shown: Sequence[HeldEntry]) -> list[str]:
    """Return a line for each scope that records wait for, with the command that releases them."""
    found = dict.fromkeys((entry.waits_for, "" if entry.kind == REVIEW else entry.scope) for entry in shown)
    lines = [f"what to do ({scope or waits_for}): {ends(waits_for, scope)}" for waits_for, scope in found]
    more = len(lines) - _MOST_ENDS
    return [*lines[:_MOST_ENDS], f"what to do: {more} more, see `headrace held list --json`"] if more > 0 else lines


def one(codec: Codec, found: FoundHeld, *, as_json: bool) -> None:
    """Print a held record completely, with its value decoded if possible."""
    document = {
        **_document(found.entry),
        "key": None if found.record.key is None else found.record.key.decode("utf-8", "replace"),
        "holds": _decoded(codec, found),
        "value_base64": encoded(found.record.value),
    }
    if as_json:
        output.emit(document)
        return
    for name in ("id", "waits_for", "scope", "why", "held_at", "tenant", "document", "version", "request_id", "origin",
                 "target", "bytes"):  # fmt: skip
        shown = "–" if document[name] is None else harmless(str(document[name]))
        typer.echo(f"{name.replace('_', ' ') + ':':<12} {shown}")
    typer.echo(harmless(json.dumps(document["holds"], ensure_ascii=False, indent=2, default=str)))
    output.say(f"what to do: {harmless(found.entry.ends)}")


def _decoded(codec: Codec, found: FoundHeld) -> dict[str, Any]:

    flow = STAGES[found.entry.id.stage]
    kind = flow.produces if found.entry.kind == "review" else flow.consumes
    try:
        if kind.__name__ == "ChangeEvent":
            return {"form": "change event", "value": (found.record.value or b"").decode("utf-8", "replace")}
        return {"form": kind.__name__, **envelope_document(codec, found.record.value, kind)}
    except PermanentError as error:
        return {"form": "bytes", "why": str(error)}


def decided(found: Decided, *, dry_run: bool, as_json: bool) -> None:
    """Print what was (or would be) decided, and what was left out and why."""
    done, request = found.done, found.request
    if as_json:
        output.emit(
            {
                "action": request.action,
                "dry_run": dry_run,
                "batch": None if dry_run else request.batch,
                "count": len(done.taken),
                "ids": [str(entry.id) for entry in done.taken],
                "left_out": [{"id": str(identity), "why": why} for identity, why in done.before],
                "overtaken": found.overtaken,
            }
        )
        return
    for entry in done.taken:
        whose = f"{entry.tenant or 'an unknown tenant'}, {entry.document_id or 'an unknown document'}"
        typer.echo(f"{entry.id} ({harmless(whose)}): {'would be ' if dry_run else ''}{request.action.lower()}")
    for identity, why in done.before:
        output.say(f"left out: {identity} {harmless(why)}")
    if found.overtaken:
        output.say(f"{found.overtaken} left out: another command decided on them meanwhile")


def _text(text: str | None) -> str | None:
    return None if text is None else harmless(text)


def _document(entry: HeldEntry) -> dict[str, Any]:
    return {
        "id": str(entry.id),
        "stage": entry.id.stage,
        "kind": entry.kind,
        "waits_for": entry.waits_for,
        "ends": entry.ends,
        "scope": entry.scope,
        "why": entry.why,
        "held_at": entry.held_at.isoformat(),
        "tenant": entry.tenant,
        "document": entry.document_id,
        "version": entry.version,
        "request_id": entry.request_id,
        "origin": entry.origin,
        "target": entry.target,
        "bytes": entry.size,
    }
