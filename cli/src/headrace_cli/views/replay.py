"""Shows replays."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from headrace.codec.mapping import to_dict
from headrace.payloads import ReplayRun
from headrace.topology.generation_names import GENERATION_STAGES
from headrace_cli import output, tables
from headrace_cli.exit_codes import ExitCode
from headrace_operations.replay.copier import Copier
from headrace_operations.replay.copier import Progress as Told
from headrace_operations.replay.plan import Estimate, Planned
from headrace_operations.replay.runs import CANCELLED, in_all, to_read


def say_estimate(planned: Planned, found: Estimate, *, as_json: bool) -> None:
    """Print the result of a dry run."""
    run = planned.run
    if as_json:
        output.emit({
            "dry_run": True, "stage": run.stage, "selection": run.selection, "records": found.records,
            "documents": found.documents, "model_calls": found.model_calls, "exact": found.exact,
            "cut_off": planned.cut_off,
        })  # fmt: skip
        return
    bound = "" if found.exact else " at most: the store with the cached vectors is not reachable"
    calls = "none for unchanged text" if found.model_calls is None else f"{found.model_calls}{bound}"
    typer.echo(f"{run.stage} would read {found.records} records of {found.documents} documents again")
    typer.echo(f"model calls: {calls}")


@contextmanager
def shown(run_id: str) -> Iterator[Told]:
    """Show a bar with rate and time left, on a terminal only."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"),
               TextColumn("{task.fields[more]}"), TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=tables.messages(), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(run_id, total=None, more="")
        first: list[tuple[float, int]] = []

        def progress(run: ReplayRun, waiting: int) -> None:
            first[:] = first or [(time.monotonic(), run.sent)]
            rate = (run.sent - first[0][1]) / max(0.1, time.monotonic() - first[0][0])
            more = f"{run.state.lower()}, {run.sent} sent, {rate:.0f}/s, {waiting} in the side lanes"
            bar.update(task, total=max(1, in_all(run)), completed=in_all(run) - to_read(run), more=more)

        yield progress


def say_run(run: ReplayRun, *, as_json: bool) -> None:
    """Print the progress of the replay."""
    if as_json:
        output.emit(as_document(run))
        return
    typer.echo(f"replay {run.run_id} of {run.stage}: {run.state.lower()}, {percent(run)} % read, {run.sent} sent")


def percent(run: ReplayRun) -> int:
    """Return the percentage of its records that the replay has read."""
    total = in_all(run)
    return 100 if not total else 100 * (total - to_read(run)) // total


def as_document(run: ReplayRun) -> dict[str, Any]:
    """Return the run as ``--json`` shows it."""
    return {**to_dict(run), "percent": percent(run)}


def say_cut_off(planned: Planned) -> None:
    """Report the partitions whose older records have expired."""
    for number, offset in planned.cut_off.items():
        output.say(
            f"{planned.run.source}[{number}] starts at offset {offset}: older records expired and are not replayed; "
            "the compacted topics documents and chunks keep the newest version of every document"
        )


def carry_out(copier: Copier, run_id: str, *, as_json: bool) -> None:
    """Carry out a replay, showing its progress and outcome; raises :class:`typer.Exit` if it was cancelled."""
    with shown(run_id) as progress:
        run = copier.carry_out(run_id, progress)
    say_run(run, as_json=as_json)
    if run.state == CANCELLED:
        raise typer.Exit(ExitCode.FAILED)


def say_begun(run_id: str) -> None:
    """Report that a replay started, and how to control it."""
    output.say(f"replay {run_id} started; to control it from elsewhere: headrace replay status|pause|cancel {run_id}")


def say_paused(run: ReplayRun, *, as_json: bool) -> None:
    """Report that a replay is pausing."""
    if as_json:
        output.emit(as_document(run))
    else:
        typer.echo(f"replay {run.run_id}: pausing")


def show_runs(runs: Sequence[ReplayRun], *, as_json: bool) -> None:
    """Print every run."""
    if as_json:
        output.emit([as_document(run) for run in runs])
        return
    columns = ("Replay", "Stage", "Into", "Selection", "State", "Read", "Sent", "By", "Requested at")
    rows = [
        (run.run_id, run.stage, run.generation if run.stage in GENERATION_STAGES else "", run.selection, run.state,
         f"{percent(run)} %", run.sent, run.asked_by, f"{run.asked_at:%Y-%m-%d %H:%M:%S}")
        for run in runs
    ]  # fmt: skip
    tables.console().print(tables.table(columns, rows, right=("Read", "Sent")) if rows else "No replays yet.")
