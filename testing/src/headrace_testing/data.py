"""The change events for benchmarks: a file of real edits if there is one, otherwise Python's language reference."""

from __future__ import annotations

import os
import pydoc_data.topics
import random
import sys
from pathlib import Path
from typing import Any

from headrace_testing.stream import read_changes

VARIABLE = "HEADRACE_CHANGES_FILE"
_BESIDE = Path(__file__).parents[4] / "shared" / "data" / "peps-changes.jsonl.xz"


def changes(limit: int | None = None) -> tuple[list[dict[str, Any]], str]:
    """Return at most ``limit`` change events, and a description of them.

    HEADRACE_CHANGES_FILE names a file of JSON lines. Without it, the topics of ``pydoc_data`` are used.
    """
    named = os.environ.get(VARIABLE)
    path = Path(named) if named else _BESIDE
    if path.exists():
        return read_changes(path, limit), path.name
    print(f"no change events at {path}; taking the language reference in pydoc_data.topics", file=sys.stderr)
    return reference()[:limit], "pydoc_data.topics"


def reference() -> list[dict[str, Any]]:
    """Return Python's language reference as change events, one for each topic."""
    return [_event(name, 1, text) for name, text in sorted(pydoc_data.topics.topics.items())]


def reference_with_edits(edits: int, seed: int, documents: int = 60) -> list[dict[str, Any]]:
    """Return the language reference as change events, followed by ``edits`` seeded edits, including deletes.

    An edit replaces, inserts or removes one paragraph. Every tenth event deletes its document, and a later event may
    create it again with a higher version.
    """
    chance = random.Random(seed)
    names = sorted(pydoc_data.topics.topics)[:documents]
    texts = {name: pydoc_data.topics.topics[name] for name in names}
    events = [_event(name, 1, texts[name]) for name in names]
    for number in range(edits):
        name = chance.choice(names)
        version = number + 2
        if number % 10 == 9:
            events.append({"op": "delete", "id": f"topics/{name}", "version": version})
            continue
        paragraphs = texts[name].split("\n\n")
        place = chance.randrange(len(paragraphs))
        new = f"Edit {number} of {name}, by seed {seed}: {chance.random()}"
        paragraphs[place : place + chance.choice((0, 1))] = chance.choice(([new], []))
        texts[name] = "\n\n".join(paragraphs) or new
        events.append(_event(name, version, texts[name]))
    return events


def _event(name: str, version: int, text: str) -> dict[str, Any]:
    return {
        "op": "upsert", "id": f"topics/{name}", "version": version, "title": name, "content": text, "source": "pydoc",
    }  # fmt: skip
