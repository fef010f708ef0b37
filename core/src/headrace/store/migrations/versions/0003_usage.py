"""The ledger of embedding costs."""

from __future__ import annotations

from headrace.store.schema import run_sql_file

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Execute the SQL file of this revision."""
    run_sql_file("0003_usage.sql")
