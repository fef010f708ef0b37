"""How dead letters are shown; the lists show no payloads."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import typer

from headrace.avro.codec import Codec
from headrace_cli import output
from headrace_cli.views.tracking import tracked
from headrace_operations.dead_letters.act import Order, Plan
from headrace_operations.dead_letters.log import Found
from headrace_operations.dead_letters.model import Entry, Id, counted, grouped
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
        output.console().print(output.table(columns, rows, right=("count",)))
    typer.echo(f"{len(shown)} of {total} dead letters" if len(shown) < total else f"{total} dead letters")
    if shown and not each:
        output.say("One of them in full: headrace dlq show ID. One by one: --each.")


def _each(shown: Sequence[Entry]) -> None:
    rows = [
        (one.id, _minute(one.failed_at), one.state, one.reason, _name(one.tenant), _name(one.document_id),
         one.version, one.attempt, harmless(output.one_line(one.message, _MESSAGE)))
        for one in shown
    ]  # fmt: skip
    columns = ("id", "given up", "state", "reason", "tenant", "document", "version", "attempt", "message")
    output.console().print(output.table(columns, rows, right=("version", "attempt")))


def _name(text: str | None) -> str | None:
    return None if text is None else harmless(text)


def _minute(moment: Any) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def one(codec: Codec, chain: Sequence[Found], *, as_json: bool) -> None:
    """Print everything of a dead letter, and the failures before it."""
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
        _echo(f"the payload lies in the object store: {lies['uri']}, {lies['size']} bytes")
    value = decoded["value"]
    _echo(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2))


def _echo(text: str) -> None:
    """Print what others wrote without what a terminal would obey."""
    typer.echo(harmless(text))


def harmless(text: str) -> str:
    """Return the text with its control characters but line ends and tabs as escapes."""
    return "".join(char if char in "\n\t" or char.isprintable() else ascii(char)[1:-1] for char in text)


def counts(taken: Sequence[Entry], verb: str, *, error: bool = False) -> None:
    """Say how many dead letters, by stage and tenant."""
    for stage, tenant, count in counted(taken):
        whose = f"tenant {harmless(tenant)}" if tenant is not None else "an unknown tenant"
        typer.echo(f"{stage}, {whose}: {count} {verb}", err=error)


def progress(action: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    """Return what shows how far an order is."""
    return tracked(action.lower(), total)


def acted(planned: Plan, done: Sequence[Id] | None, order: Order, *, as_json: bool) -> None:
    """Say what was done, or, where ``done`` is None, what would be; and what was left out, with why."""
    ids = set(done or ())
    taken = planned.taken if done is None else [entry for entry in planned.taken if entry.id in ids]
    if as_json:
        output.emit(
            {
                "action": order.action,
                "dry_run": done is None,
                "batch": None if done is None else order.batch,
                "count": len(taken),
                "by": [{"stage": stage, "tenant": tenant, "count": count} for stage, tenant, count in counted(taken)],
                "ids": [str(entry.id) for entry in taken],
                "left_out": [{"id": str(entry.id), "why": why} for entry, why in planned.refused],
                "overtaken": 0 if done is None else len(planned.taken) - len(taken),
            }
        )
        return
    verb = order.action.lower()
    counts(taken, f"would be {verb}" if done is None else verb)
    typer.echo(f"{len(taken)} dead letters {'would be ' if done is None else ''}{verb}"
               f"{'' if done is None else f', batch {order.batch}'}")  # fmt: skip
    if done is not None and len(taken) < len(planned.taken):
        output.say(f"{len(planned.taken) - len(taken)} left out: another command acted upon them meanwhile")
    for entry, why in planned.refused[:_SHOWN_REFUSED]:
        output.say(f"left out: {entry.id}: {why}")
    if len(planned.refused) > _SHOWN_REFUSED:
        print(f"left out: {len(planned.refused) - _SHOWN_REFUSED} more (--json lists them)", file=sys.stderr)
