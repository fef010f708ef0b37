"""The events that benchmarks run on: a file of real edits where there is one, else the language reference."""

from __future__ import annotations

import os
import pydoc_data.topics
import sys
from pathlib import Path
from typing import Any

from headrace_testing.stream import read_changes

VARIABLE = "HEADRACE_CHANGES_FILE"
_BESIDE = Path(__file__).parents[4] / "shared" / "data" / "peps-changes.jsonl.xz"


def changes(limit: int | None = None) -> tuple[list[dict[str, Any]], str]:
    """Return change events, at most ``limit``, and what they are.

    HEADRACE_CHANGES_FILE names a file of JSON lines; where there is none, the topics of ``pydoc_data`` serve.
    """
    named = os.environ.get(VARIABLE)
    path = Path(named) if named else _BESIDE
    if path.exists():
        return read_changes(path, limit), path.name
    print(f"no change events at {path}; taking the language reference in pydoc_data.topics", file=sys.stderr)
    found = [
        {"op": "upsert", "id": f"topics/{name}", "version": 1, "title": name, "content": text, "source": "pydoc"}
        for name, text in sorted(pydoc_data.topics.topics.items())
    ]
    return found[:limit], "pydoc_data.topics"
