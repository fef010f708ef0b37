"""Language and pages of documents."""

from __future__ import annotations

from headrace.store.schema import run_sql_file

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Execute the SQL file of this revision."""
    run_sql_file("0002_pages.sql")
