"""``capture check|start|list|reconcile|stop``: tables of a database become documents, by Debezium."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from headrace.capture import Table, of_capture, read_tables
from headrace.errors import sentences
from headrace_cli import options, output
from headrace_cli.asking import require_yes
from headrace_cli.command import command, commands_of
from headrace_cli.context import clients, kafka_settings
from headrace_cli.failures import CommandError, NotFound, NotReachable
from headrace_cli.state import find_state_dir, read_services
from headrace_local.stack import Stack
from headrace_operations.capture.connector import FAILED, Connect, configuration, dsn_of, is_ours, unread
from headrace_operations.capture.database import Problem, drop_slot, look, problems
from headrace_operations.capture.reconcile import Reconciled
from headrace_operations.capture.reconcile import reconcile as run

File: TypeAlias = Annotated[
    Path, typer.Argument(metavar="FILE", help="What becomes of each table's rows; ingest reads the same file.")
]
Database: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--database", envvar="HEADRACE_CAPTURE_DATABASE", show_default=False,
        help="URL of the source PostgreSQL, of a role that may replicate; without it, the local stack's. "
        "Prefer the variable: other users of the machine can see a command line.",
    ),
]  # fmt: skip
ConnectUrl: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--connect", envvar="HEADRACE_CONNECT_URL", show_default=False,
        help="REST interface of a Kafka Connect that has Debezium; without it, the local stack's.",
    ),
]  # fmt: skip
Name: TypeAlias = Annotated[
    str, typer.Option("--name", envvar="HEADRACE_CAPTURE_NAME", help="Names connector, slot and publication.")
]
_START_S = 60.0
commands = commands_of("capture", "Tables of a database become documents.")


@command(commands, "check", "Say whether a database can be captured as mapped.")
def check(
    file: File,
    name: Name = "captured",
    database: Database = None,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """Compare FILE with the database's tables: columns, keys, what is logged of a row, and whether one may replicate.

    Ends with exit code 1 where a capture would fail or lose something.
    """
    tables, found = _looked(file, name, _database(database, state_dir))
    if as_json:
        output.emit({"tables": sorted(tables), "problems": [asdict(one) for one in found]})
    elif not found:
        typer.echo(f"{len(tables)} tables can be captured: {', '.join(tables)}")
    if found:
        raise _refused(found)


@command(commands, "start", "Capture the mapped tables from now on.")
def start(
    file: File,
    name: Name = "captured",
    database: Database = None,
    connect: ConnectUrl = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", envvar="HEADRACE_DRY_RUN", help="Show the connector's settings, start nothing.")
    ] = False,
    kafka: options.KafkaUrl = None,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """Check as `check` does, then have Debezium write every row that there is, and every change, to the topic changes.

    Again with the same name, it takes over what FILE says now. Ingest has to know FILE: HEADRACE_INGEST_TABLES.
    """
    dsn = _database(database, state_dir)
    tables, found = _looked(file, name, dsn)
    if found:
        raise _refused(found)
    config = configuration(name, dsn, tables, kafka_settings(state_dir, kafka).topic("changes"))
    if dry_run:
        output.emit({key: "***" if key == "database.password" else value for key, value in config.items()})
        return
    client = _connect(connect, state_dir)
    before = client.configuration(name)
    if before is not None:
        _require_ours(name, before)
        if (why := unread(before, config)) is not None:
            raise CommandError(
                f"{name} runs, and {why}", where=str(file),
                remedy=f"`headrace capture stop {name}`, then start it again: all rows are read anew.",
            )  # fmt: skip
    client.put(name, config)
    status = client.wait_running(name, _START_S)
    if status.state == FAILED:
        raise CommandError(
            f"the capture failed: {status.reason}", where=name,
            remedy="Mend that and run this again; the log of Kafka Connect has the rest.",
        )  # fmt: skip
    if as_json:
        output.emit(asdict(status))
    else:
        typer.echo(f"{name}: {status.state.lower()}, of {', '.join(status.tables)}")


@command(commands, "list", "Show what is captured, and whether it runs.")
def show_all(connect: ConnectUrl = None, state_dir: options.StateDir = None, as_json: options.Json = False) -> None:
    """Show every connector of Kafka Connect with its tables and its state."""
    client = _connect(connect, state_dir)
    found = [status for name in client.names() if (status := client.status(name)) is not None]
    if as_json:
        output.emit([asdict(one) for one in found])
        return
    rows = [(one.name, one.state.lower(), ", ".join(one.tables), one.reason) for one in found]
    columns = ("Capture", "State", "Tables", "Why")
    output.console().print(output.table(columns, rows) if rows else "Nothing is captured.")


@command(commands, "reconcile", "Delete the documents whose rows are gone without a trace.")
def reconcile(
    file: File,
    name: Name = "captured",
    database: Database = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", envvar="HEADRACE_DRY_RUN", help="Say what would be deleted, delete nothing.")
    ] = False,
    yes: options.Yes = False,
    kafka: options.KafkaUrl = None,
    registry: options.RegistryUrl = None,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """Compare the documents of a capture with the tables, and delete those whose rows are no longer there.

    For rows that were deleted while nothing captured, or by TRUNCATE. Writers of a table wait while its keys are read,
    where it has lost any.
    """
    tables, dsn = of_capture(read_tables(file), name), _database(database, state_dir)
    settings, codec = clients(state_dir, kafka, registry)

    def each(*, dry: bool) -> list[Reconciled]:
        return [
            asyncio.run(run(settings, codec, dsn, name, mapped, table, dry_run=dry)) for mapped, table in tables.items()
        ]

    found = each(dry=True)
    gone = sum(len(one.gone) for one in found)
    if gone and not dry_run:
        require_yes(f"Delete {gone} documents whose rows are gone?", yes=yes)
        found = each(dry=False)
    if as_json:
        output.emit({"dry_run": dry_run, "tables": [asdict(one) for one in found]})
        return
    for one in found:
        verb = "would be" if dry_run else "are"
        typer.echo(f"{one.table}: {one.documents} documents, {len(one.gone)} without a row {verb} deleted")
        for tenant, document in one.gone:
            typer.echo(f"  {tenant}/{document}")
        for tenant, document in one.left:
            output.say(f"note: {tenant}/{document} was redriven, so its place is not known; use `headrace delete`")


@command(commands, "stop", "End a capture, and drop its slot.")
def stop(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `capture list` has it.")],
    yes: options.Yes = False,
    database: Annotated[
        str | None,
        typer.Option(
            "--database",
            envvar="HEADRACE_CAPTURE_DATABASE",
            show_default=False,
            help="URL of the source PostgreSQL; without it, as the connector has it.",
        ),
    ] = None,
    connect: ConnectUrl = None,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """End the capture, and drop its slot and publication, for a slot that nobody reads keeps the log for ever.

    The documents stay. A later capture of the same name reads every row again.
    """
    client = _connect(connect, state_dir)
    config = client.configuration(name)
    if config is None:
        raise NotFound(
            f"there is no capture {name!r}", where="NAME",
            remedy=f"There are: {', '.join(client.names()) or 'none'}.",
        )  # fmt: skip
    _require_ours(name, config)
    dsn = database or dsn_of(config)
    asyncio.run(look(dsn, []))  # before anything ends: a slot that cannot be dropped keeps the log for ever
    require_yes(f"End {name} and drop its slot? Changes from now on are not captured.", yes=yes)
    client.delete(name)
    asyncio.run(drop_slot(dsn, config["slot.name"], config["publication.name"]))
    if as_json:
        output.emit({"name": name, "slot": config["slot.name"]})
    else:
        typer.echo(f"{name}: ended; the slot {config['slot.name']} is dropped")


def _require_ours(name: str, config: Mapping[str, str]) -> None:

    if not is_ours(name, config):
        raise CommandError(
            f"the connector {name} is none that `headrace capture start` made", where="NAME",
            remedy="Take another name, or change it by Kafka Connect's own means.",
        )  # fmt: skip


def _looked(file: Path, name: str, dsn: str) -> tuple[Mapping[str, Table], list[Problem]]:

    tables = of_capture(read_tables(file), name)
    return tables, problems(asyncio.run(look(dsn, list(tables))), tables)


def _refused(found: list[Problem]) -> CommandError:
    for one in found[1:]:
        output.say(sentences(f"also: {one.where} {one.what}", one.remedy))
    first = found[0]
    return CommandError(f"{first.where} {first.what}", where="FILE and --database", remedy=first.remedy)


def _database(given: str | None, state_dir: Path | None) -> str:

    if given is not None:
        return given
    folder = find_state_dir(state_dir)
    if read_services(folder) is None:
        raise NotReachable(
            "no source database is known", where="HEADRACE_CAPTURE_DATABASE", remedy="Name it with --database."
        )
    return Stack(folder).endpoints().postgres_dsn


def _connect(given: str | None, state_dir: Path | None) -> Connect:

    known = read_services(find_state_dir(state_dir))
    url = given or (known.connect if known else None)
    if url is None:
        raise NotReachable(
            "no Kafka Connect is known", where="HEADRACE_CONNECT_URL",
            remedy="Start one with `headrace up --with-connect`, or name one with --connect.",
        )  # fmt: skip
    output.quiet_logs()
    return Connect(url)
