"""A stage's process loads what it needs, and nothing for people at a terminal."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.unit


def _loaded(statement: str) -> set[str]:
    program = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def test_structlog_and_httpx_load_without_rich() -> None:
    """Broken: every process of every stage spends its first half second on importing rich."""
    loaded = _loaded("import headrace.telemetry.lean, headrace.stage_process.main")
    assert {"structlog", "httpx"} <= loaded
    assert loaded.isdisjoint({"rich", "pygments", "torch", "sentence_transformers", "transformers", "alembic"})


def test_rich_can_be_imported_afterwards() -> None:
    """Broken: a process that shows tables cannot, because it imported a stage's modules first."""
    pytest.importorskip("rich")
    assert "rich.table" in _loaded("import headrace.telemetry.lean\nimport rich.table")
