"""Alembic's entry: one migration at a time, in one transaction, in the schema that the caller names.

:func:`headrace.store.schema.migrate` hands over an open connection and the schema through
``Config.attributes``; the advisory lock makes bootstrap jobs that start together wait for each other.
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import text

MIGRATION_LOCK = 0x68656164  # "head": any constant will do, as long as every migration takes the same one

connection = context.config.attributes["connection"]
schema = context.config.attributes["schema"]

context.configure(connection=connection, version_table="schema_version", version_table_schema=schema)
with context.begin_transaction():
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
    context.run_migrations()
