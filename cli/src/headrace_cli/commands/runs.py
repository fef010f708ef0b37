"""``runs``: the progress of runs, computed from the log."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from headrace_cli import options, times
from headrace_cli.command import command, commands_of
from headrace_cli.context import InLog, opened_store
from headrace_cli.exit_codes import ExitCode
from headrace_cli.failures import UsageError

if TYPE_CHECKING:
    from headrace.store.pool import StoreSettings
    from headrace_operations.cluster import Cluster
    from headrace_operations.runs.follow import Reading, RunsRequest
    from headrace_operations.trace.log import Limits

commands = commands_of()


@command(commands, "runs", "Show the progress of runs.")
def runs(
    run: Annotated[
        str | None,
        typer.Argument(metavar="RUN", help="A run or a request ID. Default: the latest runs.", show_default=False),
    ] = None,
    tenant: Annotated[
        str | None,
        typer.Option(
            "--tenant", envvar="HEADRACE_TENANT", help="Only this tenant. Default: all tenants.", show_default=False
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since", envvar="HEADRACE_RUNS_SINCE", metavar="TIME", show_default=False,
            help="Only changes sent since: 90m, 24h, 7d ago, or a date and time. Default: 24h; for a named run, its "
            "start.",
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", envvar="HEADRACE_RUNS_LIMIT", min=1, help="Maximum number of runs.")
    ] = 20,
    watch: Annotated[
        bool,
        typer.Option("--watch", envvar="HEADRACE_RUNS_WATCH", help="Update until the named run is done, or Ctrl-C."),
    ] = False,
    records: options.Records = 50_000,
    seconds: options.Seconds = 30.0,
    *,
    operator: InLog,
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Show the progress of runs: of each `headrace ingest`, and of each HTTP request that sent changes.

    The command reads the changes since the given time and their outcomes. A change with an outcome in the index, even
    superseded, is done; one with an open or discarded dead letter has failed. Default: all tenants.
    """
    from headrace_operations.runs import follow as operations
    from headrace_operations.runs.follow import RunsRequest
    from headrace_operations.trace.log import Limits

    now = datetime.now(UTC)
    start = operations.reads_from(run, None if since is None else past(since, now), now)
    request = RunsRequest(max(0, int(start.timestamp() * 1000)), run, tenant, limit)
    reading = _follow(operator.cluster(), operator.store(), Limits(records, seconds), request, watch, as_json)
    found = asyncio.run(reading)
    if watch and any(one.failed for one in found.runs):
        raise typer.Exit(ExitCode.SOME_FAILED)


async def _follow(
    cluster: Cluster, store: StoreSettings | None, limits: Limits, request: RunsRequest, watch: bool, as_json: bool
) -> Reading:
    from headrace_cli.views import runs as runs_view
    from headrace_operations.runs.follow import follow

    async with opened_store(store) as pool:
        return await follow(
            cluster, pool, limits, request, lambda one: runs_view.show(one, as_json=as_json), watch=watch
        )


def past(text: str, now: datetime) -> datetime:
    """Return the time that ``90m``, ``24h``, ``7d`` or ISO 8601 (UTC without an offset) means.

    Raises :class:`UsageError` for anything else, and for a time in the future.
    """
    found = times.moment(text, "--since", now)
    assert found is not None
    if found > now:
        raise UsageError(f"{text!r} is in the future", where="--since", remedy="Pass a time in the past.")
    return found
