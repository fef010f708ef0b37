"""Checks whether a PostgreSQL database and its mapped tables can be captured: reads first, then a pure check."""

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
_DROP = "Stop the process that reads it, then run SELECT pg_drop_replication_slot('…')."
_TIMEOUT_S = 10.0
_COMMAND_S = 60.0


@dataclass(frozen=True, slots=True)
class Found:
    """A table in the database; ``keys`` has the columns of each unique index, ``owned`` is whether the role owns it.

    ``identity`` and ``kind`` are relreplident and relkind of pg_class.
    """

    columns: tuple[str, ...]
    keys: tuple[frozenset[str], ...]
    identity: str
    kind: str = "r"
    owned: bool = True


@dataclass(frozen=True, slots=True)
class Database:
    """The requirements of a capture; ``tables`` has the existing mapped tables, by ``schema.table``.

    If a mapped table is missing, ``names`` has the first of all tables, one more than the message shows.
    """

    wal_level: str
    may_replicate: bool
    tables: Mapping[str, Found]
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a capture would fail or lose data, and what to do."""

    where: str
    what: str
    remedy: str


async def look(dsn: str, names: Sequence[str]) -> Database:
    """Return the state of the database and the mapped tables; raises :class:`DependencyDown`."""
    async with opened(dsn) as connection:
        level = await connection.fetchval("SHOW wal_level")
        may = await connection.fetchval("SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user")
        found = {name: await _found(connection, name) for name in names}
        tables = {name: table for name, table in found.items() if table is not None}
        rows = await connection.fetch(_NAMES, _NAMES_SHOWN + 1) if len(tables) < len(found) else []
        return Database(level, may, tables, tuple(row["name"] for row in rows))


async def drop_slot(dsn: str, slot: str, publication: str, within: float = 30.0) -> None:
    """Drop the slot and the publication of a stopped capture; raises :class:`DependencyDown`.

    The connector may use its slot a moment longer; this waits for it.
    """
    deadline = time.monotonic() + within
    async with opened(dsn) as connection:
        while await connection.fetchval("SELECT active FROM pg_replication_slots WHERE slot_name = $1", slot):
            if time.monotonic() > deadline:
                raise DependencyDown(
                    "the source database", f"the replication slot {slot} is still in use", remedy=_DROP
                )
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
    """Yield a connection that sees all rows or fails: rows hidden by a policy must not look like deleted rows.

    Raises :class:`DependencyDown`, and :class:`ConfigurationError` for an invalid URL or a missing privilege. No
    message contains the URL, which has a password.
    """
    try:
        connection = await asyncpg.connect(
            dsn, timeout=_TIMEOUT_S, command_timeout=_COMMAND_S, server_settings={"row_security": "off"}
        )
    except ValueError:
        raise ConfigurationError(
            "the source database is not a PostgreSQL URL", where="--database",
            remedy="Use the form postgresql://user:password@host/name, and percent-encode special characters.",
        ) from None  # fmt: skip
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise _down(error) from error
    try:
        yield connection
    except asyncpg.InsufficientPrivilegeError as error:
        raise ConfigurationError(
            f"the role lacks a privilege: {error}",
            where="the source database",
            remedy="Use the role that owns the tables.",
        ) from error
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise _down(error) from error
    finally:
        await connection.close()


def _down(error: Exception) -> DependencyDown:
    return DependencyDown(
        "the source database",
        str(error) or type(error).__name__,
        remedy="Check that it is running, then run the command again.",
    )


def quoted(name: str) -> str:
    """Return the name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def problems(database: Database, tables: Mapping[str, Table]) -> list[Problem]:
    """Return all problems of a capture, in the order in which to fix them."""
    found = []
    if database.wal_level != "logical":
        found.append(
            Problem(
                "wal_level", f"is {database.wal_level}; capturing rows requires logical",
                "Run ALTER SYSTEM SET wal_level = logical, then restart PostgreSQL.",
            )
        )  # fmt: skip
    if not database.may_replicate:
        found.append(Problem("role", "lacks the attribute REPLICATION", "Run ALTER ROLE … REPLICATION."))
    for name, table in tables.items():
        there = database.tables.get(name)
        found += [_missing(name, database.names)] if there is None else _of_table(name, table, there)
    return found


def _missing(name: str, names: tuple[str, ...]) -> Problem:
    if not names:
        return Problem(name, "does not exist; the database has no tables", "Use another database.")
    more = ", …" if len(names) > _NAMES_SHOWN else ""
    there = ", ".join(names[:_NAMES_SHOWN])
    return Problem(name, "does not exist in the database", f"Use an existing table, as schema.table: {there}{more}")


def _of_table(name: str, table: Table, found: Found) -> list[Problem]:
    if found.kind != _ORDINARY:
        return [Problem(name, "is not an ordinary table", "Capture its partitions, or the table behind the view.")]
    if not found.owned:
        return [Problem(name, "cannot be published: the role does not own it", "Use the role that owns the table.")]
    if missing := table.missing(found.columns):
        there = ", ".join(found.columns)
        return [
            Problem(f"{name}.{column}", "is not a column of the table", f"Use one of: {there}.") for column in missing
        ]
    identity = frozenset(table.identity)
    result = []
    if not any(key <= identity for key in found.keys):
        result.append(
            Problem(
                name, f"two rows may become one document: no unique index covers only {', '.join(table.identity)}",
                "Use all columns of the primary key in id.",
            )
        )  # fmt: skip
    if found.identity != _FULL:
        result.append(
            Problem(
                name, "does not log complete rows: updates would lack large texts that they leave unchanged",
                f"Run ALTER TABLE {name} REPLICA IDENTITY FULL.",
            )
        )  # fmt: skip
    return result
