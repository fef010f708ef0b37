"""Read-only views for those who query PostgreSQL themselves."""

from __future__ import annotations

from headrace.store.schema import run_sql_file

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Execute the SQL file of this revision."""
    run_sql_file("0010_views.sql")
