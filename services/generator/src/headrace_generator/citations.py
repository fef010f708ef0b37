"""Checks the citations in a text: which passages it cites, and which numbers have no passage. Pure functions."""

from __future__ import annotations

import re
from dataclasses import dataclass

_MARKER = re.compile(r"[ \t]?\[\s*(\d{1,4}(?:\s*[,;]\s*\d{1,4})*)\s*\]")


def neutralised(text: str) -> str:
    """Return the text with each ``[1]`` replaced by ``(1)``, so that footnotes of a source are not citations."""
    return _MARKER.sub(lambda match: match[0].replace("[", "(").replace("]", ")"), text)


@dataclass(frozen=True, slots=True)
class CheckedText:
    """The text with its valid markers, the cited numbers (ascending), and how many numbers were removed."""

    text: str
    cited: tuple[int, ...]
    removed: int


def check_citations(text: str, passages: int) -> CheckedText:
    """Keep the markers 1 to ``passages``, write each as ``[n]``, and remove the others.

    Removing a marker can make another one of what was around it (``[[9]1]``), so this repeats until nothing changes.
    """
    cited: set[int] = set()
    removed = 0

    def keep(match: re.Match[str]) -> str:
        nonlocal removed
        numbers = [int(number) for number in re.findall(r"\d+", match[1])]
        good = [number for number in numbers if 1 <= number <= passages]
        removed += len(numbers) - len(good)
        cited.update(good)
        space = match[0][: len(match[0]) - len(match[0].lstrip())] if good else ""
        return space + "".join(f"[{number}]" for number in good)

    before = None
    while text != before:
        before, text = text, _MARKER.sub(keep, text)
    return CheckedText(text, tuple(sorted(cited)), removed)
