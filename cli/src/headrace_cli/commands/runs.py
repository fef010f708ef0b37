"""``runs``: how far batches of work are, read from the log."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from headrace.avro.codec import Codec
from headrace.settings import KafkaSettings
from headrace.store.pool import StoreSettings
from headrace_cli import context as operator_access
from headrace_cli import options, output, times
from headrace_cli.command import command, commands_of
from headrace_cli.commands import pipelines as pipeline_commands
from headrace_cli.commands.trace import Records, Seconds
from headrace_cli.context import opened_store
from headrace_cli.exit_codes import ExitCode
from headrace_cli.failures import NotFound, UsageError
from headrace_cli.views.trace import cost_line
from headrace_operations.runs.fold import Item, Run
from headrace_operations.runs.reader import RunsReader
from headrace_operations.trace.log import Cost, Limits

_PAUSE_S = 2.0
_SHOWN = 10
_DAY = "24h"
_STAMP = re.compile(r"(\d{8}T\d{6}Z)-[0-9a-f]+")
_COLUMNS = ("run", "tenant", "begun", "total", "done", "pending", "failed", "%", "per s", "left")
_NUMBERS = ("total", "done", "pending", "failed", "%", "per s", "left")


commands = commands_of()


@command(commands, "runs", "Show how far batches of work are.")
def runs(
    run: Annotated[
        str | None,
        typer.Argument(metavar="RUN", help="A run, or a request's id; without it, the latest.", show_default=False),
    ] = None,
    tenant: Annotated[
        str | None,
        typer.Option(
            "--tenant", envvar="HEADRACE_TENANT", help="Only this tenant's; without it, all.", show_default=False
        ),
    ] = None,
    since: Annotated[
        str,
        typer.Option(
            "--since", envvar="HEADRACE_RUNS_SINCE", metavar="TIME",
            help="Changes sent since then: 90m, 24h, 7d, or a date and time. A run's own name tells more exactly.",
        ),
    ] = _DAY,
    limit: Annotated[int, typer.Option("--limit", envvar="HEADRACE_RUNS_LIMIT", min=1, help="Most runs shown.")] = 20,
    watch: Annotated[
        bool,
        typer.Option("--watch", envvar="HEADRACE_RUNS_WATCH", help="Go on: a named run until it is done, else Ctrl-C."),
    ] = False,
    records: Records = 50_000,
    seconds: Seconds = 30.0,
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    registry: options.RegistryUrl = None,
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Show how far batches of work are: each `headrace ingest`, or each request that took changes over HTTP.

    Reads what was sent since the time given, and what came of it: an outcome in the index, superseded ones too, is
    done; an open or discarded dead letter is failed. All tenants, unless one is named.
    """
    begin = since_ms(since if run is None or since != _DAY else begun(run) or since, datetime.now(UTC))
    clients = pipeline_commands.clients(state_dir, kafka, registry)
    store = operator_access.store_settings(state_dir)
    show = _Show(run, tenant, limit, as_json=as_json)
    asyncio.run(_follow(clients, store, Limits(records, seconds), begin, show, watch=watch))
    if run is not None and not show.found:
        raise NotFound(
            f"no change of a run or request {run!r} was sent since {datetime.fromtimestamp(begin / 1000, UTC)}",
            remedy="Look further back with --since 7d; `headrace runs` lists the latest.",
        )
    if watch and any(one.failed for one in show.found):
        raise typer.Exit(ExitCode.SOME_FAILED)


async def _follow(
    clients: tuple[KafkaSettings, Codec],
    store: StoreSettings | None,
    limits: Limits,
    begin: int,
    show: _Show,
    *,
    watch: bool,
) -> None:

    async with opened_store(store) as pool:
        reader = RunsReader(*clients, pool, limits, since_ms=begin)
        while True:
            cost = await reader.read()
            show(reader, cost)
            finished = show.run is not None and not any(one.pending for one in show.found)
            if not watch or finished:
                return
            await asyncio.sleep(_PAUSE_S)


class _Show:
    """Prints what was read; ``found`` are the runs of the last reading."""

    def __init__(self, run: str | None, tenant: str | None, limit: int, *, as_json: bool) -> None:
        self.run = run
        self.found: Sequence[Run] = ()
        self._tenant = tenant
        self._limit = limit
        self._as_json = as_json

    def __call__(self, reader: RunsReader, cost: Cost) -> None:

        self.found = reader.runs(self.run, self._tenant)[: self._limit]
        if self.run is not None and not self.found:
            return
        items = reader.items(self.run, self._tenant) if self.run is not None else []
        if self._as_json:
            output.emit(_document(self.found, items, cost, complete=reader.complete))
            return
        output.console().print(output.table(_COLUMNS, map(_row, self.found), right=_NUMBERS))
        for line in _reasons(items):
            typer.echo(line)
        output.say(cost_line(cost))
        if not reader.complete:
            output.say("note: totals may be too small, since not everything was read")


def _document(runs: Sequence[Run], items: Sequence[Item], cost: Cost, *, complete: bool) -> dict[str, Any]:
    return {
        "runs": [asdict(one) for one in runs],
        "failed": [
            {"tenant": item.change.tenant, "id": item.change.document_id, "version": item.change.version,
             "dead_letter": item.letter.id, "reason": item.letter.reason, "message": item.letter.message}
            for item in items if item.letter is not None
        ],
        "pending": [
            {"tenant": item.change.tenant, "id": item.change.document_id, "version": item.change.version}
            for item in items if item.fate == "pending"
        ],
        "complete": complete,
        "read": asdict(cost),
    }  # fmt: skip


def _row(run: Run) -> tuple[object, ...]:
    begun = datetime.fromtimestamp(run.begun_ms / 1000, UTC).isoformat(timespec="seconds")
    left = None if run.seconds_left is None else f"{run.seconds_left:.0f} s"
    return (
        run.run, run.tenant, begun, run.total, run.done, run.pending, run.failed, f"{run.percent:.1f}",
        run.per_second, left,
    )  # fmt: skip


def _reasons(items: Sequence[Item]) -> list[str]:
    """Return what failed and what is pending, a few of each, with the command that tells more."""
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
        lines.append("what to do: headrace trace DOCUMENT tells of each where it is, why, and the command")
    return lines


def since_ms(text: str, now: datetime) -> int:
    """Return a time in milliseconds since 1970 from ``90m``, ``24h``, ``7d`` or ISO 8601 (UTC without an offset).

    Raises :class:`UsageError` for anything else, and for a time in the future.
    """
    found = times.moment(text, "--since", now)
    assert found is not None
    if found > now:
        raise UsageError(f"{text!r} lies in the future", where="--since", remedy="Name a time that is past.")
    return max(0, int(found.timestamp() * 1000))


def begun(run: str) -> str | None:
    """Return when the run began, as its name tells it (ISO 8601), and never later than now; else None."""
    match = _STAMP.fullmatch(run)
    if match is None:
        return None
    try:
        begun = datetime.strptime(match[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None
    return min(begun, datetime.now(UTC)).isoformat()
