"""``capture check|start|list|reconcile|stop``: tables of a database become documents, by Debezium."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from headrace.errors import sentences
from headrace_cli import options, output
from headrace_cli import tables as shown
from headrace_cli.asking import require_yes
from headrace_cli.command import command, commands_of
from headrace_cli.context import InFolder, Operator
from headrace_cli.failures import NotReachable
from headrace_cli.options import Found

if TYPE_CHECKING:
    from headrace.config.captured_tables import Table
    from headrace_operations.capture.connector import Connect
    from headrace_operations.capture.database import Problem

File: TypeAlias = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", help="The file that maps each table's rows to documents; ingest reads the same file."
    ),
]
Database: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--database", envvar="HEADRACE_CAPTURE_DATABASE", show_default=False,
        help="URL of the source PostgreSQL, with a role that may replicate. Default: the local stack's. "
        "Prefer the variable: other users of the machine can see the command line.",
    ),
]  # fmt: skip
ConnectUrl: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--connect", envvar="HEADRACE_CONNECT_URL", show_default=False,
        help="URL of the REST API of a Kafka Connect with Debezium. Default: the local stack's.",
    ),
]  # fmt: skip
Name: TypeAlias = Annotated[
    str, typer.Option("--name", envvar="HEADRACE_CAPTURE_NAME", help="Name of the connector, slot and publication.")
]
InKafka: TypeAlias = Annotated[Operator, Found("kafka", "state_dir")]
InLog: TypeAlias = Annotated[Operator, Found("kafka", "registry", "state_dir")]
commands = commands_of("capture", "Capture PostgreSQL tables as documents.")


@command(commands, "check", "Check whether a database can be captured as mapped.")
def check(
    file: File,
    name: Name = "captured",
    database: Database = None,
    *,
    operator: InFolder,
    as_json: options.Json = False,
) -> None:
    """Compare FILE with the database: columns, keys, replica identity, and the permission to replicate.

    Exits with code 1 if a capture would fail or lose data.
    """
    from headrace_operations.capture import control as operations

    tables = _tables(file, name)
    found = operations.find_problems(_database(database, operator), tables)
    if as_json:
        output.emit({"tables": sorted(tables), "problems": [asdict(one) for one in found]})
    elif not found:
        typer.echo(f"{len(tables)} tables can be captured: {', '.join(tables)}")
    if found:
        _say_others(found)
        raise operations.UnfitDatabase(found)


@command(commands, "start", "Start capturing the mapped tables.")
def start(
    file: File,
    name: Name = "captured",
    database: Database = None,
    connect: ConnectUrl = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", envvar="HEADRACE_DRY_RUN", help="Show the connector's settings without starting it."),
    ] = False,
    *,
    operator: InKafka,
    as_json: options.Json = False,
) -> None:
    """Check as `check` does, then start Debezium, which writes every existing row and every change to topic changes.

    Run it again with the same name to apply a changed FILE. Ingest needs FILE too: set HEADRACE_INGEST_TABLES.
    """
    from headrace_operations.capture import control as operations
    from headrace_operations.capture.control import CaptureRequest, UnfitDatabase

    dsn, tables = _database(database, operator), _tables(file, name)
    request = CaptureRequest(name, tables, dsn, operator.kafka_settings().topic("changes"))
    try:
        if dry_run:
            output.emit(operations.shown(operations.plan_start(request)))
            return
        status = operations.start(_connect(connect, operator), request, str(file))
    except UnfitDatabase as error:
        _say_others(error.problems)
        raise
    if as_json:
        output.emit(asdict(status))
    else:
        typer.echo(f"{name}: {status.state.lower()}, tables {', '.join(status.tables)}")


@command(commands, "list", "List the captures and their state.")
def show_all(connect: ConnectUrl = None, *, operator: InFolder, as_json: options.Json = False) -> None:
    """List every connector of Kafka Connect with its tables and state."""
    client = _connect(connect, operator)
    found = [status for name in client.names() if (status := client.status(name)) is not None]
    if as_json:
        output.emit([asdict(one) for one in found])
        return
    rows = [(one.name, one.state.lower(), ", ".join(one.tables), one.reason) for one in found]
    columns = ("Capture", "State", "Tables", "Reason")
    shown.console().print(shown.table(columns, rows) if rows else "No captures.")


@command(commands, "reconcile", "Delete documents whose rows no longer exist.")
def reconcile(
    file: File,
    name: Name = "captured",
    database: Database = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", envvar="HEADRACE_DRY_RUN", help="Show what would be deleted without deleting it."),
    ] = False,
    yes: options.Yes = False,
    *,
    operator: InLog,
    as_json: options.Json = False,
) -> None:
    """Compare the documents of a capture with its tables, and delete the documents whose rows no longer exist.

    Use it for rows that were deleted by TRUNCATE or while no capture was running. If a table has lost rows, its writers
    are blocked while the command reads its keys.
    """
    from headrace_operations.capture.reconcile import ReconcileRequest, plan_reconcile, reconcile_planned

    request = ReconcileRequest(name, _tables(file, name), _database(database, operator))
    cluster = operator.cluster()
    planned = asyncio.run(plan_reconcile(cluster, request))
    found = planned.tables
    if planned.gone and not dry_run:
        require_yes(f"Delete {planned.gone} documents whose rows no longer exist?", yes=yes)
        found = asyncio.run(reconcile_planned(cluster, planned))
    if as_json:
        output.emit({"dry_run": dry_run, "tables": [asdict(one) for one in found]})
        return
    for one in found:
        verb = "would be" if dry_run else "are"
        typer.echo(f"{one.table}: {one.documents} documents, {len(one.gone)} without a row {verb} deleted")
        for tenant, document in one.gone:
            typer.echo(f"  {tenant}/{document}")
        for tenant, document in one.left:
            output.say(f"note: {tenant}/{document} was redriven, so its offset is unknown; use `headrace delete`")


@command(commands, "stop", "Stop a capture and drop its slot.")
def stop(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the capture, as `capture list` shows it.")],
    yes: options.Yes = False,
    database: Annotated[
        str | None,
        typer.Option(
            "--database",
            envvar="HEADRACE_CAPTURE_DATABASE",
            show_default=False,
            help="URL of the source PostgreSQL. Default: the connector's.",
        ),
    ] = None,
    connect: ConnectUrl = None,
    *,
    operator: InFolder,
    as_json: options.Json = False,
) -> None:
    """Stop the capture and drop its slot and publication: an unused slot makes PostgreSQL keep its log forever.

    The documents stay. A later capture with the same name reads every row again.
    """
    from headrace_operations.capture import control as operations

    client = _connect(connect, operator)
    planned = operations.plan_stop(client, name, database)
    require_yes(f"Stop {name} and drop its slot? Later changes will not be captured.", yes=yes)
    operations.stop(client, planned)
    if as_json:
        output.emit({"name": name, "slot": planned.slot})
    else:
        typer.echo(f"{name}: stopped; slot {planned.slot} dropped")


def _tables(file: Path, name: str) -> Mapping[str, Table]:
    from headrace.config.captured_tables import of_capture, read_tables

    return of_capture(read_tables(file), name)


def _say_others(found: Sequence[Problem]) -> None:
    for one in found[1:]:
        output.say(sentences(f"also: {one.where} {one.what}", one.remedy))


def _database(given: str | None, operator: Operator) -> str:
    from headrace_local.stack import Stack

    if given is not None:
        return given
    if operator.running is None:
        raise NotReachable("no source database given", where="HEADRACE_CAPTURE_DATABASE", remedy="Pass --database.")
    return Stack(operator.folder).endpoints().postgres_dsn


def _connect(given: str | None, operator: Operator) -> Connect:
    from headrace_cli.quiet import quiet_logs
    from headrace_operations.capture.connector import Connect

    known = operator.running
    url = given or (known.connect if known else None)
    if url is None:
        raise NotReachable(
            "no Kafka Connect address found", where="HEADRACE_CONNECT_URL",
            remedy="Start one with `headrace up --with-connect`, or pass --connect.",
        )  # fmt: skip
    quiet_logs()
    return Connect(url)
