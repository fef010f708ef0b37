"""What random questions find in a tenant's passages, so that search can say that nothing fits."""

from __future__ import annotations

from headrace.store.schema import run_sql_file

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Execute the SQL file of this revision."""
    run_sql_file("0008_calibration.sql")
