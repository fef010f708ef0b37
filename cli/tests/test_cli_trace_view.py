"""What `headrace trace` says of a document that stands in the index."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from headrace.store.documents import DocumentRow
from headrace_cli.views import trace as trace_view
from headrace_operations.trace.log import Cost
from headrace_operations.trace.model import DocumentTrace, Traces

pytestmark = pytest.mark.unit


def test_passages_without_a_whole_vector_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """Broken: nobody can tell why a passage is not found by its meaning."""
    metadata = {"embedder.model": "m", "embedder.skipped": "4 (empty)", "embedder.split": "7, 9"}
    row = DocumentRow(
        "d", 1, False, b"", "", "", "", (), {}, "default", "1", "r", (), metadata, "m", ("g1",),
        datetime(2026, 1, 2, tzinfo=UTC), 12,
    )  # fmt: skip
    trace_view.show(Traces([DocumentTrace("acme", "d", "indexed", 1, row, (), ())], Cost(0, 0, 0.0)))
    said = capsys.readouterr().out
    assert "chunks without a vector, found by lexical search only: 4 (empty)" in said
    assert "chunks embedded in parts: 7, 9" in said
    assert "beginning" not in said
