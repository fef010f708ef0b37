"""Writes a file's blocks as Markdown, the form of every parsed file, and records where each page begins."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

HEADING, PARAGRAPH, ITEM, TABLE, CODE = "heading", "paragraph", "item", "table", "code"
DEEPEST_HEADING = 6
_LEADING = re.compile(r"\A(?:#{1,6}(?=\s|\Z)|(?:=++|-++)(?=\s*\Z)|```|~~~|<(?=[!?/A-Za-z]))")
"""Line starts that would begin a heading, a fence or a raw block that continues over blank lines."""


@dataclass(frozen=True, slots=True)
class Block:
    """A heading (``level`` from 1), paragraph, list item, code block, or table of ``rows`` with the header first.

    ``page`` counts from 1; it is 0 for files without pages.
    """

    kind: str
    text: str = ""
    level: int = 0
    rows: Sequence[Sequence[str]] = ()
    page: int = 0


@dataclass(frozen=True, slots=True)
class Parsed:
    """A file's title (empty if none), text as Markdown, language, and the first character of each page."""

    title: str
    text: str
    language: str | None = None
    pages: tuple[int, ...] = ()


def write(blocks: Iterable[Block]) -> tuple[str, tuple[int, ...]]:
    """Return the blocks as Markdown, and the first character of each page; pure.

    A blank line separates blocks; a line break separates list items. Plain text stays plain text: a paragraph that
    begins with ``#`` does not become a heading.
    """
    parts: list[str] = []
    pages: list[int] = []
    at, last = 0, ""
    for block in blocks:
        body = _written(block)
        if not body:
            continue
        gap = "" if not parts else "\n" if last == block.kind == ITEM else "\n\n"
        parts += [gap, body]
        at += len(gap)
        while len(pages) < block.page:
            pages.append(at if pages else 0)
        at += len(body)
        last = block.kind
    return "".join([*parts, "\n"]) if parts else "", tuple(pages)


def _written(block: Block) -> str:
    match block.kind:
        case "heading":
            words = " ".join(block.text.split())
            return f"{'#' * max(1, min(block.level, DEEPEST_HEADING))} {words}" if words else ""
        case "item":
            return "- " + "\n  ".join(_lines(block.text)) if block.text.strip() else ""
        case "table":
            return _table(block.rows)
        case "code":
            return _fenced(block.text)
    return "\n".join(_lines(block.text))


def _lines(text: str) -> list[str]:
    """Return the lines that are not blank, escaped so that none of them begins another block."""
    return [_LEADING.sub(r"\\\g<0>", line.strip()) for line in text.splitlines() if line.strip()]


def _fenced(code: str) -> str:
    code = code.strip("\r\n")
    longest = max((len(run) for run in re.findall(r"`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{code}\n{fence}" if code.strip() else ""


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Return the table without padding. With padding, a longer cell would change every row and every chunk."""
    width = max((len(row) for row in rows), default=0)
    cells = [[_cell(cell) for cell in [*row, *[""] * (width - len(row))]] for row in rows]
    if not any(cell for row in cells for cell in row):
        return ""
    head, *rest = (f"| {' | '.join(row)} |" for row in cells)
    return "\n".join([head, f"|{' --- |' * width}", *rest])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
