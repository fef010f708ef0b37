"""``embeddings schedule``: batch, incremental or release at the times of a cron expression."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from headrace_cli import options, output
from headrace_cli.context import InFolder
from headrace_cli.failures import UsageError

if TYPE_CHECKING:
    from headrace_operations.alerts.alerter import Alerter
    from headrace_operations.embeddings.schedule import Memory, Plan

_SHOWN = 5
"""Number of times that a dry run shows."""
_STDERR = 2
"""Output of the job goes to stderr; stdout is for the schedule."""
_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")


class Job(StrEnum):
    """What can be scheduled."""

    BATCH = "batch"
    INCREMENTAL = "incremental"
    RELEASE = "release"


class SystemClock:
    """System time; :meth:`stop` ends a wait."""

    def __init__(self) -> None:
        self._ended = threading.Event()

    def now(self) -> datetime:
        """Return the time in UTC."""
        return datetime.now(UTC)

    def wait(self, seconds: float) -> bool:
        """Wait for the given time, or until stopped."""
        return self._ended.wait(seconds)

    def stop(self) -> None:
        """End the schedule after the current execution."""
        self._ended.set()


def schedule(
    job: Annotated[Job, typer.Argument(help="The job to run: batch, incremental or release.")],
    cron: Annotated[
        str,
        typer.Option("--cron", envvar="HEADRACE_SCHEDULE_CRON", help='Minute, hour, day, month, weekday: "0 2 * * *".'),
    ],
    timezone: Annotated[
        str, typer.Option("--timezone", envvar="HEADRACE_SCHEDULE_TIMEZONE", help="Time zone, such as Asia/Seoul.")
    ] = "UTC",
    missed: Annotated[
        bool,
        typer.Option(
            "--missed/--no-missed", envvar="HEADRACE_SCHEDULE_MISSED",
            help="Run the job once if scheduled times passed while the command was down or busy.",
        ),
    ] = True,
    name: Annotated[
        str | None,
        typer.Option(
            "--name", envvar="HEADRACE_SCHEDULE_NAME", show_default=False,
            help="Name of the schedule within its state folder. Default: the job's name.",
        ),
    ] = None,
    runs: Annotated[
        int | None,
        typer.Option(
            "--runs",
            envvar="HEADRACE_SCHEDULE_RUNS",
            min=1,
            help="Exit after this many executions.",
            show_default=False,
        ),
    ] = None,
    into: Annotated[
        str | None,
        typer.Option(
            "--into", envvar="HEADRACE_REPLAY_INTO", help="The generation to fill.", show_default=False
        ),
    ] = None,
    tenant: Annotated[
        str | None, typer.Option("--tenant", envvar="HEADRACE_TENANT", help="Only this tenant.", show_default=False)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", envvar="HEADRACE_DRY_RUN", help="Show the next five times; run nothing.")
    ] = False,
    *,
    operator: InFolder,
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Run a job on a cron schedule until Ctrl-C or SIGTERM.

    Executions never overlap, not even with another process of the same name and state folder. Each one sends an alert
    when it ends, if webhooks are configured. Kafka, registry and PostgreSQL come from the environment or the local
    stack.
    """
    from headrace_operations.alerts.alerter import Alerter, AlertSettings
    from headrace_operations.embeddings.schedule import Memory, plan
    from headrace_operations.generations.listing import require_generation

    own = name or job.value
    if not own or not set(own) <= _NAME_CHARACTERS:
        raise UsageError(f"invalid name {own!r}", where="--name", remedy="Use lower-case letters, digits, '-' and '_'.")
    if into is not None and job is Job.RELEASE:
        raise UsageError(
            "release has no option --into: it releases the held records of all generations", where="--into",
            remedy="Leave out --into (HEADRACE_REPLAY_INTO), or schedule batch or incremental.",
        )  # fmt: skip
    asyncio.run(require_generation(operator.store(), into, "--into"))
    planned = plan(cron, timezone)
    if dry_run:
        times = [one.isoformat() for one in planned.upcoming(datetime.now(UTC), _SHOWN)]
        output.emit(times) if as_json else typer.echo("\n".join(times))
        return
    words = [*(("--into", into) if into else ()), *(("--tenant", tenant) if tenant else ())]
    folder = operator.folder
    argv = [sys.executable, "-m", "headrace_cli.app", "embeddings", job.value, *words, "--state-dir", str(folder)]
    alerter = Alerter(AlertSettings())
    try:
        memory = Memory(folder / f"schedule-{own}.json")
        _run(planned, memory, job, runner(job, argv, alerter, as_json=as_json), missed=missed, runs=runs)
    finally:
        alerter.close()


def _run(
    planned: Plan, memory: Memory, job: Job, each: Callable[[datetime], None], *, missed: bool, runs: int | None
) -> None:
    from headrace_operations.embeddings.schedule import run

    clock = SystemClock()
    with memory.alone():
        before = signal.signal(signal.SIGTERM, lambda *_: clock.stop())
        try:
            output.say(f"{job.value}: next at {planned.next(clock.now()).isoformat()}")
            run(planned, memory, clock, each, missed=missed, runs=runs)
        finally:
            signal.signal(signal.SIGTERM, before)


def runner(job: Job, argv: list[str], alerter: Alerter, *, as_json: bool) -> Callable[[datetime], None]:
    """Return a function that runs the job in a subprocess, reports the outcome and sends an alert.

    A failure does not end the schedule.
    """
    from headrace_operations.alerts.alerter import Alert

    def go(due: datetime) -> None:
        begun = datetime.now(UTC)
        code = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=_STDERR, check=False).returncode
        seconds = (datetime.now(UTC) - begun).total_seconds()
        if as_json:
            output.emit({"job": job.value, "due": due.isoformat(), "exit_code": code, "seconds": round(seconds, 1)})
        else:
            typer.echo(f"{due.isoformat()} {job.value}: exit code {code} after {seconds:.0f} s")
        ended = "finished" if code == 0 else f"failed with exit code {code}"
        alerter.send(
            Alert(f"run/{job.value}/{due.isoformat()}", f"embeddings {job.value} {ended}",
                  f"due {due.isoformat()}, took {seconds:.0f} s", good=code == 0)
        )  # fmt: skip

    return go
