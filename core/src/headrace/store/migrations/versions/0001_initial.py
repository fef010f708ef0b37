"""Documents, chunks, the vector cache, artifacts, generations, API keys; roles and row-level security."""

from __future__ import annotations

from headrace.store.schema import run_sql_file

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Execute the SQL file of this revision."""
    run_sql_file("0001_initial.sql")
