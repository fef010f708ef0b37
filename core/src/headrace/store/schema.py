"""Creates and migrates the store's schema, and creates logins, for the bootstrap job (extra ``bootstrap``).

Runs as the schema's owner. Services log in as members of ``headrace_runtime``, which owns nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources

import psycopg
from alembic import command, op
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from psycopg import sql
from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import NullPool

from headrace.errors import ConfigurationError, DependencyDown

MINIMUM_PGVECTOR = (0, 8, 5)  # CVE-2026-3172 and fixes for vacuum
RUNTIME_ROLE = "headrace_runtime"
_IDENTIFIER = re.compile(r"[a-z_][a-z0-9_]{0,62}")


@dataclass(frozen=True, slots=True)
class Applied:
    """The result of a migration: the revision before it (None for a new schema) and after it."""

    previous: str | None
    current: str | None

    @property
    def changed(self) -> bool:
        """Whether the migration changed anything."""
        return self.previous != self.current


def migrate(dsn: str, schema: str = "headrace", revision: str = "head") -> Applied:
    """Migrate ``schema`` to ``revision``, the newest by default; idempotent. Creates it and the roles if needed.

    Raises :class:`ConfigurationError` for a name that is not a valid identifier, or if pgvector is missing or too old,
    and :class:`DependencyDown` if PostgreSQL does not answer.
    """
    _require_identifier("schema", schema)
    with _connect(dsn) as connection:
        _prepare(connection, schema)
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn), poolclass=NullPool)
    with engine.connect() as migration, migration.begin():
        # pg_temp is last, so that a table that a session creates there cannot replace one of Headrace.
        migration.exec_driver_sql(f'SET LOCAL search_path TO "{schema}", pg_temp')
        previous = _revision(migration, schema)
        command.upgrade(_alembic(migration, schema), revision)
        return Applied(previous, _revision(migration, schema))


def create_login(dsn: str, name: str, password: str) -> None:
    """Create the login ``name`` with the rights of a service, or set the password of the existing one.

    The password is hashed (SCRAM-SHA-256) before it leaves this process, so server logs never contain it. Raises
    :class:`ConfigurationError` for a name that is not a valid identifier.
    """
    _require_identifier("login", name)
    with _connect(dsn) as connection:
        secret = connection.pgconn.encrypt_password(password.encode(), name.encode(), b"scram-sha-256").decode()
        exists = connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [name]).fetchone() is not None
        verb = sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}" if exists else "CREATE ROLE {} LOGIN PASSWORD {}")
        connection.execute(verb.format(sql.Identifier(name), sql.Literal(secret)))
        connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(RUNTIME_ROLE), sql.Identifier(name)))


def run_sql_file(name: str) -> None:
    """Execute a file of ``migrations/versions`` in the running migration; called by the revisions."""
    folder = resources.files("headrace.store.migrations.versions")
    statements = (folder / name).read_text(encoding="utf-8")
    driver = op.get_bind().connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    driver.execute(statements.encode())


def _prepare(connection: psycopg.Connection, schema: str) -> None:
    """Create the schema and the extension; reject a pgvector that is too old or in another schema."""
    connection.execute("SELECT pg_advisory_xact_lock(hashtext('headrace.prepare'))")
    if connection.execute("SELECT FROM pg_namespace WHERE nspname = %s", [schema]).fetchone() is None:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
    found = connection.execute(
        "SELECT extversion, extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'vector'"
    ).fetchone()
    if found is None:
        try:
            connection.execute("CREATE EXTENSION vector SCHEMA public")
        except (psycopg.errors.FeatureNotSupported, psycopg.errors.UndefinedFile) as missing:
            raise ConfigurationError(
                "PostgreSQL does not have the extension pgvector",
                remedy="Install pgvector 0.8.5 or newer on the database server.",
            ) from missing
        except psycopg.errors.InsufficientPrivilege as refused:
            raise ConfigurationError(
                "this login is not allowed to create the extension vector",
                remedy="Have a superuser run `CREATE EXTENSION vector SCHEMA public` once.",
            ) from refused
        found = connection.execute(
            "SELECT extversion, extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'vector'"
        ).fetchone()
    assert found is not None
    require_pgvector(*found)


def require_pgvector(version: str, namespace: str) -> None:
    """Reject a pgvector that is older than 0.8.5 or not in ``public``."""
    if tuple(int(part) for part in version.split(".")) < MINIMUM_PGVECTOR:
        raise ConfigurationError(
            f"pgvector {version} is too old; version 0.8.5 or newer is required (CVE-2026-3172)",
            remedy="Upgrade it on the server, then run `ALTER EXTENSION vector UPDATE`.",
        )
    if namespace != "public":
        raise ConfigurationError(
            f"the extension vector is in schema {namespace}, not in public",
            remedy="Run `ALTER EXTENSION vector SET SCHEMA public` as its owner.",
        )


def _require_identifier(setting: str, value: str) -> None:
    if not _IDENTIFIER.fullmatch(value):
        raise ConfigurationError(
            f"{setting} {value!r} is not a valid identifier",
            remedy="Use 1 to 63 lower-case letters, digits and underscores, starting with a letter.",
        )


def _alembic(connection: Connection, schema: str) -> Config:
    config = Config()
    config.set_main_option("script_location", "headrace.store:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes.update(connection=connection, schema=schema)
    return config


def _revision(connection: Connection, schema: str) -> str | None:
    options = {"version_table": "schema_version", "version_table_schema": schema}
    return MigrationContext.configure(connection, opts=options).get_current_revision()


@contextmanager
def _connect(dsn: str) -> Iterator[psycopg.Connection]:
    """Open a connection whose transaction is committed at the end of the block."""
    try:
        connection = psycopg.connect(dsn)
    except psycopg.OperationalError as refused:
        raise DependencyDown("postgresql", f"PostgreSQL does not answer: {refused}") from refused
    with connection:
        yield connection
