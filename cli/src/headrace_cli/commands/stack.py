"""``up``, ``down``, ``status``, ``logs`` and ``bootstrap``."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.embeddings.models import PROVIDERS
from headrace_cli import options, output
from headrace_cli.command import command, commands_of
from headrace_cli.failures import NotReachable, UsageError
from headrace_cli.stack import services
from headrace_cli.stack.logs import read_logs
from headrace_cli.state import find_state_dir
from headrace_cli.tables import messages
from headrace_local.model import External
from headrace_local.progress import shown

if TYPE_CHECKING:
    from headrace_cli.stack.launch import Launched

commands = commands_of()


@command(commands, "up", "Start the local stack and wait until it is ready.")
def up(
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    registry: options.RegistryUrl = None,
    postgres: options.PostgresDsn = None,
    provider: Annotated[
        str,
        typer.Option(
            "--provider",
            envvar="HEADRACE_EMBEDDER_PROVIDER",
            help=f"Embedding provider: {', '.join(PROVIDERS)} (vectors without meaning, for load tests).",
        ),
    ] = "sentence-transformers",
    only: Annotated[
        str | None,
        typer.Option(
            "--only", envvar="HEADRACE_ONLY", help="infra: start and prepare the infrastructure without the services.",
            show_default=False,
        ),
    ] = None,
    scale: Annotated[
        list[str] | None,
        typer.Option(
            "--scale", envvar="HEADRACE_SCALE", metavar="STAGE=N", show_default=False,
            help="Run N instances of a service; may be repeated. On a running stack, this adds or stops instances.",
        ),
    ] = None,
    with_connect: Annotated[
        bool,
        typer.Option(
            "--with-connect", envvar="HEADRACE_WITH_CONNECT",
            help="Also start Kafka Connect with Debezium, for `headrace capture`.",
        ),
    ] = False,
    tables: Annotated[
        Path | None,
        typer.Option(
            "--tables", envvar="HEADRACE_INGEST_TABLES", show_default=False,
            help="The file that maps captured tables to documents; ingest reads it when it starts.",
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Start Kafka, the schema registry, PostgreSQL and the services, and wait until all are ready.

    Running processes stay as they are, and data is kept. The first start downloads what it needs.
    """
    from headrace.config.captured_tables import read_tables
    from headrace_cli.quiet import quiet_logs
    from headrace_cli.stack.launch import Launch, Launcher

    if only not in (None, "infra"):
        raise UsageError(f"unknown value {only!r}", where="--only", remedy="Use --only infra, or omit the option.")
    if only is not None and with_connect:
        raise UsageError(
            "--only infra does not start Kafka Connect",
            where="--with-connect",
            remedy="Remove one of the two options.",
        )
    quiet_logs()
    begun = time.monotonic()
    folder = state_dir or find_state_dir(None)
    environment = dict(os.environ)
    if tables is not None:
        read_tables(tables)  # refuses an invalid file before starting anything
        environment[services.TABLES] = str(tables.resolve())
    launch = Launch(
        folder, provider, External(kafka, registry, postgres), only_infrastructure=only == "infra", scale=scale or (),
        with_connect=with_connect, environment=environment,
    )  # fmt: skip
    with shown(messages()) as on_event:
        done = Launcher(launch, output.say).up(on_event)
    seconds = time.monotonic() - begun
    if as_json:
        output.emit(
            {"state_dir": str(done.endpoints.state_dir), "started": done.started, "url": done.url,
             "tenant": done.tenant, "kafka": done.endpoints.kafka_bootstrap, "registry": done.endpoints.registry_url,
             "processes": done.processes, "seconds": round(seconds, 1)}
        )  # fmt: skip
        return
    for line in _launched(done, seconds):
        typer.echo(line)


def _launched(done: Launched, seconds: float) -> list[str]:
    """Return the message about a running stack."""
    verb = "started" if done.started else "runs"
    kafka = f"  Kafka {done.endpoints.kafka_bootstrap}"
    lines = [f"The stack {verb} ({seconds:.1f} s) in {done.endpoints.state_dir}"]
    if not done.url:
        return [*lines, kafka]
    return [
        *lines,
        f"  gateway {done.url}, tenant {done.tenant}; commands in this folder use its API key",
        kafka,
        "  next: headrace ingest PATH --wait, then headrace search QUERY",
    ]


@command(commands, "down")
def down(state_dir: options.StateDir = None, as_json: options.Json = False) -> None:
    """Stop the local stack and keep its data."""
    from headrace_local.stack import Stack

    folder = find_state_dir(state_dir)
    stopped = Stack(folder).down()
    if as_json:
        output.emit({"state_dir": str(folder), "stopped": stopped})
    else:
        typer.echo(
            f"Stopped the stack in {folder}; its data is kept." if stopped else f"No stack was running in {folder}."
        )


@command(commands, "logs")
def logs(
    service: Annotated[
        str | None, typer.Argument(metavar="SERVICE", help="Name of a process. Default: all.", show_default=False)
    ] = None,
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", envvar="HEADRACE_LOGS_FOLLOW", help="Keep printing new lines until Ctrl-C."),
    ] = False,
    lines: Annotated[
        int,
        typer.Option(
            "--lines", "-n", envvar="HEADRACE_LOGS_LINES", min=0, help="Number of last lines to show from each process."
        ),
    ] = 50,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """Show the logs of the local stack."""
    for name, line in read_logs(find_state_dir(state_dir), service, lines, follow=follow):
        if as_json:
            output.emit({"process": name, "line": line})
        else:
            typer.echo(line if service else f"{name:<12} {line}")


@command(commands, "bootstrap", "Create topics, schemas, tables and pipelines.")
def bootstrap(
    state_dir: options.StateDir = None,
    postgres: options.PostgresDsn = None,
    as_json: options.Json = False,
) -> None:
    """Create topics, schemas, tables and the default pipelines, and set up the object store.

    Running the command again changes nothing.

    With --postgres, all settings come from the environment (see the settings reference). Without it, the command
    prepares the running local stack.
    """
    from headrace_cli.quiet import quiet_logs
    from headrace_cli.stack import launch
    from headrace_local.stack import Stack

    quiet_logs()
    steps: list[str] = []

    def report(line: str) -> None:
        steps.append(line)
        if not as_json:
            typer.echo(line)

    if postgres is not None:
        os.environ["HEADRACE_BOOTSTRAP_POSTGRES_DSN"] = postgres
        launch.bootstrap_from_environment(report)
    else:
        folder = find_state_dir(state_dir)
        running = Stack(folder).state()
        if running is None:
            raise NotReachable("no stack is running here", where=str(folder))
        launch.Launcher(launch.Launch(folder), report).prepare(running.endpoints)
    if as_json:
        output.emit({"steps": steps})
