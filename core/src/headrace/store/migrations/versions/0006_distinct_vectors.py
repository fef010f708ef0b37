"""One row for each distinct text of a tenant in a generation; chunks refer to it."""

from __future__ import annotations

from headrace.store.schema import run_sql_file

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Execute the SQL file of this revision."""
    run_sql_file("0006_distinct_vectors.sql")
