"""Reads runs, once or repeatedly until a given run is done."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from headrace_operations.cluster import Cluster
from headrace_operations.errors import NotThere
from headrace_operations.runs.fold import Item, Run
from headrace_operations.runs.reader import RunsReader
from headrace_operations.trace.log import Cost, Limits

if TYPE_CHECKING:
    from headrace.store.pool import Pool

_PAUSE_S = 2.0
_DEFAULT = timedelta(hours=24)
_STAMP = re.compile(r"(\d{8}T\d{6}Z)-[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class RunsRequest:
    """The runs to read: a named one or the latest, of one tenant or all; ``since_ms`` is in ms since 1970."""

    since_ms: int
    run: str | None = None
    tenant: str | None = None
    limit: int = 20


@dataclass(frozen=True, slots=True)
class Reading:
    """The runs, the changes of a named run, and the cost of reading; ``complete`` is False if a limit applied."""

    runs: Sequence[Run]
    items: Sequence[Item]
    cost: Cost
    complete: bool


class NoSuchRun(NotThere):
    """No change of this run was sent since that time."""

    code = "no-such-run"


async def follow(
    cluster: Cluster,
    pool: Pool | None,
    limits: Limits,
    request: RunsRequest,
    take: Callable[[Reading], None],
    *,
    watch: bool = False,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Reading:
    """Pass each reading to ``take``: one, or with ``watch`` all until the named run is done; return the last.

    Raises :class:`NoSuchRun` if the last reading has no change of the named run, and :class:`DependencyDown`.
    """
    reader = RunsReader(cluster.kafka, cluster.codec, pool, limits, since_ms=request.since_ms)
    while True:
        cost = await reader.read()
        runs = reader.runs(request.run, request.tenant)[: request.limit]
        items = [] if request.run is None else reader.items(request.run, request.tenant)
        found = Reading(runs, items, cost, reader.complete)
        if request.run is None or runs:
            take(found)
        finished = request.run is not None and not any(one.pending for one in runs)
        if not watch or finished:
            break
        await sleep(_PAUSE_S)
    if request.run is not None and not runs:
        since = datetime.fromtimestamp(request.since_ms / 1000, UTC)
        raise NoSuchRun(
            f"no change of run or request {request.run!r} since {since}",
            remedy="Search further back, for example with --since 7d. `headrace runs` lists the latest runs.",
        )
    return found


def reads_from(run: str | None, given: datetime | None, now: datetime) -> datetime:
    """Return from when on to read changes: the given time, or the start of the named run, or 24 hours ago."""
    own = begun(run, now) if run is not None else None
    return given or own or now - _DEFAULT


def begun(run: str, now: datetime) -> datetime | None:
    """Return when the run began, according to its name, but not later than now; None for another name."""
    match = _STAMP.fullmatch(run)
    if match is None:
        return None
    try:
        found = datetime.strptime(match[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None
    return min(found, now)
