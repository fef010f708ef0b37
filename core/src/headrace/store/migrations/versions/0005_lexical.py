"""The lexical leg of search: BM25 over terms of our own, in place of PostgreSQL's text search."""

from __future__ import annotations

from headrace.store.schema import run_sql_file

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Execute the SQL file of this revision."""
    run_sql_file("0005_lexical.sql")
