"""Preparation of texts, keys of vectors, and the day of a cached vector's last use."""

from __future__ import annotations

from headrace.store.schema import run_sql_file

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Execute the SQL file of this revision."""
    run_sql_file("0004_preparation.sql")
