"""Whether a PostgreSQL and its tables can be captured as they are mapped: looked at first, judged apart from it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg

from headrace.config.captured_tables import Table
from headrace.errors import ConfigurationError, DependencyDown

_COLUMNS = """
SELECT a.attname FROM pg_attribute a
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
_TABLE = """
SELECT c.oid, c.relreplident::text AS identity, c.relkind::text AS kind, pg_has_role(c.relowner, 'USAGE') AS owned
FROM pg_class c WHERE c.oid = to_regclass($1)
"""
_KEYS = """
SELECT array_agg(a.attname::text ORDER BY a.attnum) AS columns
FROM pg_index i CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, place)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
AND k.place <= i.indnkeyatts GROUP BY i.indexrelid
"""
_NAMES = """
SELECT n.nspname || '.' || c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
ORDER BY n.nspname, c.relname LIMIT $1
"""
_NAMES_SHOWN = 20
_FULL = "f"
_ORDINARY = "r"
_DROP = "End whoever reads it, then SELECT pg_drop_replication_slot('…')."
_TIMEOUT_S = 10.0
_COMMAND_S = 60.0


@dataclass(frozen=True, slots=True)
class Found:
    """A table as the database has it; ``keys`` are the columns of its unique indexes, ``owned`` is by the role.

    ``identity`` and ``kind`` are pg_class's relreplident and relkind.
    """

    columns: tuple[str, ...]
    keys: tuple[frozenset[str], ...]
    identity: str
    kind: str = "r"
    owned: bool = True


@dataclass(frozen=True, slots=True)
class Database:
    """What capturing rests on: ``tables`` has those that there are, by ``schema.table``.

    Where a mapped one is missing, ``names`` are the first of all tables, one more than are shown.
    """

    wal_level: str
    may_replicate: bool
    tables: Mapping[str, Found]
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a capture would fail or lose something, and what to do."""

    where: str
    what: str
    remedy: str


async def look(dsn: str, names: Sequence[str]) -> Database:
    """Return what the database has of the mapped tables; raises :class:`DependencyDown` where it does not answer."""
    async with opened(dsn) as connection:
        level = await connection.fetchval("SHOW wal_level")
        may = await connection.fetchval("SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user")
        found = {name: await _found(connection, name) for name in names}
        tables = {name: table for name, table in found.items() if table is not None}
        rows = await connection.fetch(_NAMES, _NAMES_SHOWN + 1) if len(tables) < len(found) else []
        return Database(level, may, tables, tuple(row["name"] for row in rows))


async def drop_slot(dsn: str, slot: str, publication: str, within: float = 30.0) -> None:
    """Drop the slot and the publication of a capture that ended; raises :class:`DependencyDown`.

    The connector may hold its slot for a moment more: that is waited for.
    """
    deadline = time.monotonic() + within
    async with opened(dsn) as connection:
        while await connection.fetchval("SELECT active FROM pg_replication_slots WHERE slot_name = $1", slot):
            if time.monotonic() > deadline:
                raise DependencyDown("the source database", f"somebody still reads the slot {slot}", remedy=_DROP)
            await asyncio.sleep(0.2)
        await connection.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1", slot
        )
        await connection.execute(f"DROP PUBLICATION IF EXISTS {quoted(publication)}")


async def _found(connection: asyncpg.Connection, name: str) -> Found | None:
    schema, _, table = name.partition(".")
    row = await connection.fetchrow(_TABLE, f"{quoted(schema)}.{quoted(table)}")
    if row is None:
        return None
    columns = tuple(record["attname"] for record in await connection.fetch(_COLUMNS, row["oid"]))
    keys = tuple(frozenset(record["columns"]) for record in await connection.fetch(_KEYS, row["oid"]))
    return Found(columns, keys, row["identity"], row["kind"], row["owned"])


@asynccontextmanager
async def opened(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """Yield a connection that sees all rows or fails: a policy must not pass for rows that are gone.

    Raises :class:`DependencyDown`, and :class:`ConfigurationError` for a URL or a right that is wrong; the URL, which
    holds a password, is in no message.
    """
    try:
        connection = await asyncpg.connect(
            dsn, timeout=_TIMEOUT_S, command_timeout=_COMMAND_S, server_settings={"row_security": "off"}
        )
    except ValueError:
        raise ConfigurationError(
            "the source database is no URL", where="--database",
            remedy="Write postgresql://user:password@host/name, what is special in them in percent.",
        ) from None  # fmt: skip
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise _down(error) from error
    try:
        yield connection
    except asyncpg.InsufficientPrivilegeError as error:
        raise ConfigurationError(
            f"the role may not: {error}", where="the source database", remedy="Use the role that owns the tables."
        ) from error
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise _down(error) from error
    finally:
        await connection.close()


def _down(error: Exception) -> DependencyDown:
    return DependencyDown(
        "the source database", str(error) or type(error).__name__, remedy="Check that it runs, then run this again."
    )


def quoted(name: str) -> str:
    """Return the name as an identifier of SQL."""
    return '"' + name.replace('"', '""') + '"'


def problems(database: Database, tables: Mapping[str, Table]) -> list[Problem]:
    """Return all that stands against a capture, in the order in which to mend it."""
    found = []
    if database.wal_level != "logical":
        found.append(
            Problem(
                "wal_level", f"is {database.wal_level}, and only logical tells of rows",
                "ALTER SYSTEM SET wal_level = logical, then restart PostgreSQL.",
            )
        )  # fmt: skip
    if not database.may_replicate:
        found.append(Problem("role", "may not replicate", "ALTER ROLE … REPLICATION, or use another role."))
    for name, table in tables.items():
        there = database.tables.get(name)
        found += [_missing(name, database.names)] if there is None else _of_table(name, table, there)
    return found


def _missing(name: str, names: tuple[str, ...]) -> Problem:
    if not names:
        return Problem(name, "is no table of the database, which has none", "Name another database.")
    more = ", …" if len(names) > _NAMES_SHOWN else ""
    there = ", ".join(names[:_NAMES_SHOWN])
    return Problem(name, "is no table of the database", f"Name one that there is, as schema.table: {there}{more}")


def _of_table(name: str, table: Table, found: Found) -> list[Problem]:
    if found.kind != _ORDINARY:
        return [Problem(name, "is no ordinary table", "Capture the partitions, or the table behind the view.")]
    if not found.owned:
        return [Problem(name, "is not owned by the role, so no publication of it can be made", "Use its owner's role.")]
    if missing := table.missing(found.columns):
        there = ", ".join(found.columns)
        return [
            Problem(f"{name}.{column}", f"is no column; there are {there}", "Name one of them.") for column in missing
        ]
    identity = frozenset(table.identity)
    result = []
    if not any(key <= identity for key in found.keys):
        result.append(
            Problem(
                name, f"two rows may be one document: no unique index is of {', '.join(table.identity)} alone",
                "Put the columns of the primary key into id.",
            )
        )  # fmt: skip
    if found.identity != _FULL:
        result.append(
            Problem(
                name, "does not log whole rows, so an update that leaves a large text alone would not carry it",
                f"ALTER TABLE {name} REPLICA IDENTITY FULL.",
            )
        )  # fmt: skip
    return result
