"""How replays are shown."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from headrace.avro.mapping import to_dict
from headrace.records import ReplayRun
from headrace_cli import output
from headrace_operations.replay.copier import Progress as Told
from headrace_operations.replay.plan import Estimate, Planned
from headrace_operations.replay.runs import in_all, to_read


def say_estimate(planned: Planned, found: Estimate, *, as_json: bool) -> None:
    """Say what a dry run found."""
    run = planned.run
    if as_json:
        output.emit({
            "dry_run": True, "stage": run.stage, "selection": run.selection, "records": found.records,
            "documents": found.documents, "model_calls": found.model_calls, "exact": found.exact,
            "cut_off": planned.cut_off,
        })  # fmt: skip
        return
    bound = "" if found.exact else " at most: the store that knows the cached vectors is not reachable"
    calls = "none for unchanged text" if found.model_calls is None else f"{found.model_calls}{bound}"
    typer.echo(f"{run.stage} would read {found.records} records of {found.documents} documents again")
    typer.echo(f"model calls: {calls}")


@contextmanager
def shown(run_id: str) -> Iterator[Told]:
    """Show a bar with rate and time left; where nobody watches, nothing."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"),
               TextColumn("{task.fields[more]}"), TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=output.messages(), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(run_id, total=None, more="")
        first: list[tuple[float, int]] = []

        def progress(run: ReplayRun, waiting: int) -> None:
            first[:] = first or [(time.monotonic(), run.sent)]
            rate = (run.sent - first[0][1]) / max(0.1, time.monotonic() - first[0][0])
            more = f"{run.state.lower()}, {run.sent} sent, {rate:.0f}/s, {waiting} in the side lanes"
            bar.update(task, total=max(1, in_all(run)), completed=in_all(run) - to_read(run), more=more)

        yield progress


def say_run(run: ReplayRun, *, as_json: bool) -> None:
    """Say how far the run is."""
    if as_json:
        output.emit(as_document(run))
        return
    typer.echo(f"replay {run.run_id} of {run.stage}: {run.state.lower()}, {percent(run)} % read, {run.sent} sent")


def percent(run: ReplayRun) -> int:
    """Return how much of what it covers the run has read."""
    total = in_all(run)
    return 100 if not total else 100 * (total - to_read(run)) // total


def as_document(run: ReplayRun) -> dict[str, Any]:
    """Return the run as ``--json`` shows it."""
    return {**to_dict(run), "percent": percent(run)}
