"""Shows dead letters; lists do not show payloads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import typer

from headrace.codec.codec import Codec
from headrace_cli import output, tables
from headrace_operations.actions import ActionRequest
from headrace_operations.dead_letters.carry_out import Done, Planned
from headrace_operations.dead_letters.log import Found
from headrace_operations.dead_letters.model import Entry, counted, grouped
from headrace_operations.dead_letters.payload import entry_document, full_document, plain

_MESSAGE = 100
_SHOWN_REFUSED = 10


def entries(shown: Sequence[Entry], total: int, *, each: bool, as_json: bool) -> None:
    """Print the dead letters, one by one or by cause."""
    if each:
        if as_json:
            output.emit([entry_document(entry) for entry in shown])
            return
        _each(shown)
    else:
        groups = grouped(shown)
        if as_json:
            output.emit([{**plain(group), "example": str(group.example)} for group in groups])
            return
        rows = [
            (group.count, group.stage, group.reason, group.handler, harmless(group.cause), _minute(group.first),
             _minute(group.last), group.example)
            for group in groups
        ]  # fmt: skip
        columns = ("count", "stage", "reason", "handler", "cause", "first", "last", "example")
        tables.console().print(tables.table(columns, rows, right=("count",)))
    typer.echo(f"{len(shown)} of {total} dead letters" if len(shown) < total else f"{total} dead letters")
    if shown and not each:
        output.say("To show one in full: headrace dlq show ID. To list them individually: --each.")


def _each(shown: Sequence[Entry]) -> None:
    rows = [
        (one.id, _minute(one.failed_at), one.state, one.reason, _name(one.tenant), _name(one.document_id),
         one.version, one.attempt, harmless(output.one_line(one.message, _MESSAGE)))
        for one in shown
    ]  # fmt: skip
    columns = ("id", "failed at", "state", "reason", "tenant", "document", "version", "attempt", "message")
    tables.console().print(tables.table(columns, rows, right=("version", "attempt")))


def _name(text: str | None) -> str | None:
    return None if text is None else harmless(text)


def _minute(moment: Any) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def one(codec: Codec, chain: Sequence[Found], *, as_json: bool) -> None:
    """Print a dead letter completely, and the failures before it."""
    newest = full_document(codec, chain[0])
    earlier = [entry_document(found.entry) for found in chain[1:]]
    if as_json:
        output.emit({**newest, "earlier": earlier})
        return
    record, carrier = newest.pop("record"), newest.pop("carrier")
    stack, action = newest.pop("stack"), newest.pop("action")
    for name, value in newest.items():
        if value not in (None, ""):
            _echo(f"{name.replace('_', ' ')}: {value}")
    if action:
        why = f": {action['why']}" if action["why"] else ""
        done = f"{action['action'].lower()} by {action['acted_by']} at {action['acted_at']}"
        _echo(f"{done}, batch {action['batch']}{why}")
    if record is None:
        _echo(f"carrier, base64: {carrier['value_base64']}")
    else:
        _record(record)
    if stack:
        _echo(f"\nstack:\n{stack.rstrip()}")
    for number, before in enumerate(earlier, 1):
        heading = "\nfailures before:\n" if number == 1 else ""
        _echo(f"{heading}  {before['id']} at {before['failed_at']}, attempt {before['attempt']}: "
                   f"{before['reason']}: {before['message']}")  # fmt: skip


def _record(record: dict[str, Any]) -> None:
    _echo(f"\nrecord of {record['timestamp']}, key {record['key']!r}, headers:")
    for header in record["headers"]:
        _echo(f"  {header['name']}: {header['text']}")
    decoded = record["decoded"]
    _echo(f"payload ({decoded['form']}{', ' + decoded['why'] if decoded.get('why') else ''}):")
    if "value" not in decoded:
        _echo(record["value_base64"] or "")
        return
    if "object" in decoded:
        lies = decoded["object"]
        _echo(f"the payload is in the object store: {lies['uri']}, {lies['size']} bytes")
    value = decoded["value"]
    _echo(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2))


def _echo(text: str) -> None:
    """Print text from other systems without terminal control sequences."""
    typer.echo(harmless(text))


def harmless(text: str) -> str:
    """Return the text with control characters escaped, except line ends and tabs."""
    return "".join(char if char in "\n\t" or char.isprintable() else ascii(char)[1:-1] for char in text)


def counts(taken: Sequence[Entry], verb: str, *, error: bool = False) -> None:
    """Print the number of dead letters by stage and tenant."""
    for stage, tenant, count in counted(taken):
        whose = f"tenant {harmless(tenant)}" if tenant is not None else "an unknown tenant"
        typer.echo(f"{stage}, {whose}: {count} {verb}", err=error)


def planned(found: Planned, *, as_json: bool) -> None:
    """Print what would be done, and what would be left out and why."""
    request, plan = found.request, found.plan
    if as_json:
        output.emit(_document(request, plan.taken, plan.refused, batch=None, overtaken=0))
        return
    verb = f"would be {request.action.lower()}"
    counts(plan.taken, verb)
    typer.echo(f"{len(plan.taken)} dead letters {verb}")
    left_out(plan.refused)


def done(found: Done, *, as_json: bool) -> None:
    """Print what was done, and what was left out and why."""
    request, refused = found.planned.request, found.planned.plan.refused
    if as_json:
        output.emit(_document(request, found.taken, refused, batch=request.batch, overtaken=found.overtaken))
        return
    verb = request.action.lower()
    counts(found.taken, verb)
    typer.echo(f"{len(found.taken)} dead letters {verb}, batch {request.batch}")
    if found.overtaken:
        output.say(f"{found.overtaken} left out: another command acted on them meanwhile")
    left_out(refused)


def left_out(refused: Sequence[tuple[Entry, str]]) -> None:
    """Print the dead letters that are left out and why, the first few only."""
    for entry, why in refused[:_SHOWN_REFUSED]:
        output.say(f"left out: {entry.id}: {why}")
    if len(refused) > _SHOWN_REFUSED:
        output.say(f"left out: {len(refused) - _SHOWN_REFUSED} more (--json lists them)")


def _document(
    request: ActionRequest,
    taken: Sequence[Entry],
    refused: Sequence[tuple[Entry, str]],
    *,
    batch: str | None,
    overtaken: int,
) -> dict[str, Any]:
    return {
        "action": request.action,
        "dry_run": batch is None,
        "batch": batch,
        "count": len(taken),
        "by": [{"stage": stage, "tenant": tenant, "count": count} for stage, tenant, count in counted(taken)],
        "ids": [str(entry.id) for entry in taken],
        "left_out": [{"id": str(entry.id), "why": why} for entry, why in refused],
        "overtaken": overtaken,
    }
