"""${message}."""

from __future__ import annotations

from headrace.store.schema import run_sql_file

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    """Execute the SQL file of this revision."""
    run_sql_file("${up_revision}.sql")
