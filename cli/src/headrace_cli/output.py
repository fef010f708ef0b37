"""Results go to stdout, for people or as JSON; everything else goes to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence


def emit(value: object) -> None:
    """Print one JSON document on one line."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """Print a message for people; results use :func:`emit`."""
    print(text, file=sys.stderr, flush=True)


def one_line(text: str, length: int) -> str:
    """Return the text with whitespace collapsed, cut to ``length`` characters."""
    folded = " ".join(text.split())
    return folded if len(folded) <= length else f"{folded[: length - 1]}…"


def section_of(path: Sequence[str]) -> str:
    """Return a heading path on one line."""
    return " › ".join(path) or "–"
