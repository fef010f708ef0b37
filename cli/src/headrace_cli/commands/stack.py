"""``up``, ``down``, ``status``, ``logs`` and ``bootstrap``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.embedding_models import PROVIDERS
from headrace_cli import options, output
from headrace_cli.exit_codes import ExitCode
from headrace_cli.failures import UsageError, told
from headrace_cli.state import find_state_dir

if TYPE_CHECKING:
    from headrace_cli.stack.launch import Launched
    from headrace_cli.stack.observe import StackView


def register(app: typer.Typer) -> None:
    """Add the commands."""
    panel = "The local stack"
    app.command("up", rich_help_panel=panel, short_help="Start the local stack and wait until it is ready.")(told(up))
    app.command("down", rich_help_panel=panel)(told(down))
    app.command("status", rich_help_panel=panel, short_help="Show what runs; with ID, where that document is.")(
        told(status)
    )
    app.command("logs", rich_help_panel=panel)(told(logs))
    app.command("bootstrap", rich_help_panel=panel, short_help="Create topics, schemas, tables and pipelines.")(
        told(bootstrap)
    )


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
            help=f"What embeds: {', '.join(PROVIDERS)} (no meaning; for load tests).",
        ),
    ] = "sentence-transformers",
    only: Annotated[
        str | None,
        typer.Option(
            "--only", envvar="HEADRACE_ONLY", help="infra: start and prepare the infrastructure, no service.",
            show_default=False,
        ),
    ] = None,
    scale: Annotated[
        list[str] | None,
        typer.Option(
            "--scale", envvar="HEADRACE_SCALE", metavar="STAGE=N", show_default=False,
            help="Run N instances of a service; may be repeated. Again on a running stack, it grows or shrinks.",
        ),
    ] = None,
    with_connect: Annotated[
        bool,
        typer.Option(
            "--with-connect", envvar="HEADRACE_WITH_CONNECT",
            help="Start Kafka Connect with Debezium as well, for `headrace capture`.",
        ),
    ] = False,
    tables: Annotated[
        Path | None,
        typer.Option(
            "--tables", envvar="HEADRACE_INGEST_TABLES", show_default=False,
            help="What becomes of captured tables' rows; ingest reads it when it starts.",
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Start Kafka, the schema registry, PostgreSQL and the services, and wait until all are ready.

    What runs already stays as it is; data is kept between runs. The first start fetches what it needs.
    """
    import os  # noqa: PLC0415
    import time  # noqa: PLC0415

    from headrace.capture import read_tables  # noqa: PLC0415
    from headrace_cli.stack import services  # noqa: PLC0415
    from headrace_cli.stack.launch import Launch, Launcher  # noqa: PLC0415
    from headrace_local.model import External  # noqa: PLC0415
    from headrace_local.progress import shown  # noqa: PLC0415

    if only not in (None, "infra"):
        raise UsageError(f"there is no part {only!r}", where="--only", remedy="Write --only infra, or leave it out.")
    if only is not None and with_connect:
        raise UsageError("--only infra starts no Kafka Connect", where="--with-connect", remedy="Leave one out.")
    output.quiet_logs()
    begun = time.monotonic()
    folder = state_dir or find_state_dir(None)
    environment = dict(os.environ)
    if tables is not None:
        read_tables(tables)  # refuses what is wrong in it before anything starts
        environment[services.TABLES] = str(tables.resolve())
    launch = Launch(
        folder, provider, External(kafka, registry, postgres), only_infrastructure=only == "infra", scale=scale or (),
        with_connect=with_connect, environment=environment,
    )  # fmt: skip
    with shown(output.messages()) as on_event:
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
    """Return what a person is told of a stack that runs."""
    verb = "started" if done.started else "runs"
    kafka = f"  Kafka {done.endpoints.kafka_bootstrap}"
    lines = [f"The stack {verb} ({seconds:.1f} s) in {done.endpoints.state_dir}"]
    if not done.url:
        return [*lines, kafka]
    return [
        *lines,
        f"  gateway {done.url}, tenant {done.tenant}; this folder's commands know its key",
        kafka,
        "  next: headrace ingest PATH --wait, then headrace search QUERY",
    ]


def down(state_dir: options.StateDir = None, as_json: options.Json = False) -> None:
    """Stop everything; the data stays."""
    from headrace_local.stack import Stack  # noqa: PLC0415

    folder = find_state_dir(state_dir)
    stopped = Stack(folder).down()
    if as_json:
        output.emit({"state_dir": str(folder), "stopped": stopped})
    else:
        typer.echo(f"Stopped what ran in {folder}; the data stays." if stopped else f"Nothing ran in {folder}.")


def status(
    document_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="A document: where is it now?", show_default=False)
    ] = None,
    state_dir: options.StateDir = None,
    url: options.Url = None,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Show what runs, whether it is ready and how far each stage is behind; with ID, where that document is now."""
    if document_id is not None:
        _document_status(document_id, url, api_key, state_dir, as_json=as_json)
        return
    from headrace_cli.stack import observe  # noqa: PLC0415

    view = observe.look(find_state_dir(state_dir))
    if as_json:
        output.emit(view.document())
    else:
        _show_stack(view)
    if not view.ready:
        raise typer.Exit(ExitCode.FAILED)


def _show_stack(view: StackView) -> None:
    console = output.console()
    rows = [
        (one.name, one.state, one.pid, one.restarts, f"{one.uptime_s:.0f} s", "yes" if one.ready else "no", one.waiting)
        for one in view.processes
    ]
    columns = ("process", "state", "pid", "restarts", "up", "ready", "waits for")
    console.print(output.table(columns, rows, right=("pid", "restarts", "up")))
    if view.stages is not None:
        stages = [(one["stage"], one["topic"], one["behind"]) for one in view.stages]
        console.print(output.table(("stage", "reads", "records behind"), stages, right=("records behind",)))
    if view.index is not None:
        index = view.index
        typer.echo(
            f"index: {index['documents']} documents, {index['passages']} passages of tenant {index['tenant']}, "
            f"generation {index['generation']}"
        )
    if view.url:
        typer.echo(f"gateway: {view.url}; Kafka: {view.kafka}; embeddings: {view.provider}")
    typer.echo(f"PostgreSQL: {view.postgres} (password in {view.state_dir}/stack.json)")
    for note in view.notes:
        output.say(f"note: {note}")


def _document_status(
    identifier: str, url: str | None, api_key: str | None, state_dir: Path | None, *, as_json: bool
) -> None:
    from headrace_cli.failures import UNKNOWN_DOCUMENT, NotFound, ProblemError  # noqa: PLC0415
    from headrace_cli.stack.observe import history_rows  # noqa: PLC0415
    from headrace_cli.state import connect  # noqa: PLC0415
    from headrace_cli.views.dlq import harmless  # noqa: PLC0415

    try:
        found = connect(url, api_key, state_dir).document(identifier)
    except ProblemError as error:
        if error.status != 404:
            raise
        raise NotFound(error.message, where=error.where, remedy=UNKNOWN_DOCUMENT) from error
    if as_json:
        output.emit(found)
        return
    held = found["held"]
    waiting = f", waits for {found['waiting_for']}" if found["waiting_for"] and not held else ""
    typer.echo(f"{found['id']}: {found['state']}, version {found['version']}{waiting}")
    if held:
        why = f": {held['why']}" if held["why"] else ""
        typer.echo(harmless(f"held at {held['stage']} for a {held['waits_for']} ({held['scope']}{why})"))
        typer.echo(f"what to do: {harmless(held['ends'])}")
    if stored := found["stored"]:
        holds = "deleted" if stored["deleted"] else f"{stored['chunks']} passages, model {stored['model']}"
        typer.echo(f"in the index: version {stored['version']}, {holds}, since {stored['indexed_at']}")
    if letter := found["dead_letter"]:
        message = letter["message"].removesuffix(letter["remedy"] or "").rstrip()
        typer.echo(f"given up by {letter['stage']} ({letter['reason']}): {message}")
        typer.echo(f"what to do: {letter['remedy']}")
    if found["stages"]:
        columns = ("stage", "handlers", "worker", "attempt", "started", "took")
        output.console().print(output.table(columns, history_rows(found), right=("attempt", "took")))
    for note in found["notes"]:
        output.say(f"note: {note}")


def logs(
    service: Annotated[
        str | None, typer.Argument(metavar="SERVICE", help="A process; without it, all.", show_default=False)
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", envvar="HEADRACE_LOGS_FOLLOW", help="Go on until Ctrl-C.")
    ] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", envvar="HEADRACE_LOGS_LINES", min=0, help="Last lines of each process.")
    ] = 50,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """Show what the processes of the local stack wrote."""
    from headrace_cli.stack.logs import read_logs  # noqa: PLC0415

    for name, line in read_logs(find_state_dir(state_dir), service, lines, follow=follow):
        if as_json:
            output.emit({"process": name, "line": line})
        else:
            typer.echo(line if service else f"{name:<12} {line}")


def bootstrap(
    state_dir: options.StateDir = None,
    postgres: options.PostgresDsn = None,
    as_json: options.Json = False,
) -> None:
    """Create topics, schemas, tables and the shipped pipelines, and begin the object store; a repeat changes nothing.

    With --postgres, all settings come from the environment (see the settings reference); without it, it is done for
    the running local stack.
    """
    import os  # noqa: PLC0415

    from headrace_cli.failures import NotReachable  # noqa: PLC0415
    from headrace_cli.stack import launch  # noqa: PLC0415
    from headrace_local.stack import Stack  # noqa: PLC0415

    output.quiet_logs()
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
