"""Alembic's entry point: one migration at a time, in one transaction, in the schema that the caller names.

:func:`headrace.store.schema.migrate` passes an open connection and the schema in ``Config.attributes``. An advisory
lock makes concurrent bootstrap jobs wait for each other.
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import text

MIGRATION_LOCK = 0x68656164  # "head": any constant works if every migration uses the same one

connection = context.config.attributes["connection"]
schema = context.config.attributes["schema"]

context.configure(connection=connection, version_table="schema_version", version_table_schema=schema)
with context.begin_transaction():
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
    context.run_migrations()
