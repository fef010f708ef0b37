"""The life of a generation: where its embedder answers, which replay fills it, and how complete it is."""

from __future__ import annotations

from headrace.store.schema import run_sql_file

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Execute the SQL file of this revision."""
    run_sql_file("0009_reindex.sql")
