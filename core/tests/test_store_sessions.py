"""Pooled connections are returned without a reset, so no statement may leave anything behind in its session."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import headrace

pytestmark = pytest.mark.unit
ROOT = Path(headrace.__file__).parents[3]
OUTLIVES_A_TRANSACTION = re.compile(
    r"set_config\([^)]*,\s*false\)|pg_(try_)?advisory_lock(_shared)?\(|\bLISTEN\s+\w|\bWITH HOLD\b|\bCREATE TEMP"
    r"|(?:^|[\"';]\s*)SET\s+(?!LOCAL\b|TRANSACTION\b)[\w.]+\s*(=|TO)\s",
    re.MULTILINE,
)
SESSION_OF_ITS_OWN = {"dense_index.py", "repairs.py"}
"""Modules whose statements run in a session that ends with them: the build of an index, and what an operator types."""


def test_no_statement_outlives_its_transaction() -> None:
    """Broken: a setting of one tenant's transaction is still there for the next user of the connection."""
    folders = [
        ROOT / "core/src/headrace/store",
        *ROOT.glob("services/*/src"),
        ROOT / "operations/src",
        ROOT / "cli/src",
    ]
    paths = [path for folder in folders for ending in ("py", "sql") for path in folder.rglob(f"*.{ending}")]
    assert len(paths) > 100
    found = [
        f"{path.relative_to(ROOT)}: {match.group(0)}"
        for path in paths
        if "migrations" not in path.parts and path.name not in SESSION_OF_ITS_OWN
        for match in OUTLIVES_A_TRANSACTION.finditer(path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("statement", "outlives"),
    [
        ("SELECT set_config('headrace.tenant', $1, false)", True),
        ("SELECT set_config('headrace.tenant', $1, true)", False),
        ("SELECT pg_advisory_lock(7)", True),
        ("SELECT pg_try_advisory_lock(7)", True),
        ("SELECT pg_advisory_xact_lock(7)", False),
        ("LISTEN changes", True),
        ("DECLARE rows CURSOR WITH HOLD FOR SELECT 1", True),
        ("SET headrace.tenant = 'acme'", True),
        ("SET LOCAL lock_timeout = 5", False),
        ("SET TRANSACTION READ ONLY", False),
        ("UPDATE document\nSET deleted", False),
    ],
)
def test_the_check_knows_what_outlives_a_transaction(statement: str, *, outlives: bool) -> None:
    """Broken: the check above finds nothing, whatever the statements are."""
    assert bool(OUTLIVES_A_TRANSACTION.search(statement)) == outlives
