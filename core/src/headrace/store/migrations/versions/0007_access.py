"""Readers: who a key reads for, and what a reader may read."""

from __future__ import annotations

from headrace.store.schema import run_sql_file

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Execute the SQL file of this revision."""
    run_sql_file("0007_access.sql")
