"""Finds the sections of a text by its headings, as character offsets that cover the text without gap or overlap."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.token import Token

from headrace.errors import InvalidRecord

_ADORNMENT = re.compile(r"([!-/:-@\[-`{-~])\1*")
"""An adornment in reStructuredText: one printable non-alphanumeric ASCII character, repeated."""
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
"""A line with its line break. As in Markdown, other Unicode separators do not end a line."""
_SHORTEST_ADORNMENT = 4
"""docutils reads an adornment that is shorter than its title as text, unless it has at least four characters."""
_NO_TITLE = re.compile(r"(?:[-+*\u2022\u2023\u2043]|\.\.|__|\||>>>)(?:[ \t]|$)|:(?![: ])(?:[^:\\]|\\.)+:(?: |$)")
"""Bullets, explicit markup, line blocks, doctests and fields: docutils tries these before a title."""
_MARKDOWN = (
    "text/markdown",
    "application/pdf",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "text/html",
    "application/json",
)
"""Markdown, and the kinds of files that ingest converts to Markdown."""
_DELIMITERS = re.compile(r" {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*")
"""The delimiter row below a table's header (GitHub Flavored Markdown, section 4.10)."""


def _table(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Parse a table as one block. The parser's own rule makes tokens of each cell: gigabytes from a small file."""
    if start + 2 > end or state.sCount[start + 1] < state.blkIndent or state.is_code_block(start):
        return False
    head, under = (state.src[state.bMarks[at] : state.eMarks[at]] for at in (start, start + 1))
    if "|" not in head or "|" not in under or not _DELIMITERS.fullmatch(under):
        return False
    if silent:
        return True
    line = start + 2
    while line < end and not state.isEmpty(line) and "|" in state.src[state.bMarks[line] : state.eMarks[line]]:
        line += 1
    token = state.push("table_open", "table", 0)
    token.map = [start, line]
    state.line = line
    return True


_BLOCKS = MarkdownIt("commonmark").disable("inline")
_BLOCKS.block.ruler.before("paragraph", "table", _table, {"alt": ["paragraph", "reference"]})
"""Headings need block rules only. On a malicious text, the time of inline rules grows faster than the text."""


@dataclass(frozen=True, slots=True)
class Section:
    """A heading path, outermost first, and the text from ``start`` up to ``end``, including the heading."""

    path: tuple[str, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading: the offset of its first line, its level from 1, and its text."""

    start: int
    level: int
    title: str


@dataclass(frozen=True, slots=True)
class Outline:
    """A text's sections, and the ranges of tables and code, which become hard to read if a chunk cuts them."""

    sections: tuple[Section, ...]
    blocks: tuple[tuple[int, int], ...] = ()


def outline(text: str, media_type: str) -> Outline:
    """Return sections and blocks in order. Text before the first heading has the path ().

    Plain text and reStructuredText yield no blocks. Raises :class:`InvalidRecord` for an unsupported media type.
    """
    if media_type in _MARKDOWN:
        starts, tokens = _line_starts(text), _BLOCKS.parse(text)
        return Outline(_sections(text, _headings(tokens, starts)), tuple(_blocks(text, tokens, starts)))
    find = _ADORNED.get(media_type)
    if find is None:
        known = ", ".join((*_MARKDOWN, *_ADORNED))
        raise InvalidRecord("media_type", f"{media_type!r} is not supported; use one of {known}")
    return Outline(_sections(text, find(text)))


def sections(text: str, media_type: str) -> tuple[Section, ...]:
    """Return the sections of :func:`outline`."""
    return outline(text, media_type).sections


def _sections(text: str, headings: Iterable[Heading]) -> tuple[Section, ...]:
    found: list[Section] = []
    open_headings: list[Heading] = []
    start = 0
    for heading in headings:
        if heading.start > start:
            found.append(Section(tuple(h.title for h in open_headings), start, heading.start))
        open_headings = [h for h in open_headings if h.level < heading.level] + [heading]
        start = heading.start
    if start < len(text):
        found.append(Section(tuple(h.title for h in open_headings), start, len(text)))
    return tuple(found)


def _headings(tokens: Sequence[Token], starts: Sequence[int]) -> Iterator[Heading]:
    for token, inline in pairwise(tokens):
        if token.type == "heading_open" and token.map is not None and token.level == 0:
            yield Heading(starts[token.map[0]], int(token.tag[1:]), inline.content.strip())


def _blocks(text: str, tokens: Sequence[Token], starts: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the ranges of tables and code, without surrounding white space."""
    for token in tokens:
        if token.type in ("table_open", "fence", "code_block") and token.level == 0 and token.map is not None:
            start, end = starts[token.map[0]], starts[token.map[1]]
            while end > start and text[end - 1].isspace():
                end -= 1
            while start < end and text[start].isspace():
                start += 1
            yield start, end


def _adorned(text: str, *, long_only: bool) -> Iterator[Heading]:
    """Yield underlined headings, with or without an overline. Styles get levels in the order of their first appearance.

    The rules follow docutils' states Body, Line and Text (docutils/parsers/rst/states.py): a title begins after a
    blank line, an indented block or another title; its underline is at least as long as the title (or four
    characters); an overline equals the underline. ``long_only`` rejects any adornment shorter than four characters.
    One difference is intended: a new style that skips a level is an error in docutils and a heading here.
    """
    lines = _LINE.findall(text)
    starts = _line_starts(text)
    styles: list[tuple[str, bool]] = []
    free = True  # whether a title may begin on this line
    index = 0
    while index < len(lines):
        title = _title_at(lines, index, long_only) if free else None
        if title is None:
            free = not lines[index].strip() or lines[index][0] in " \t"
            index += 1
            continue
        words, style, height = title
        if style not in styles:
            styles.append(style)
        yield Heading(starts[index], styles.index(style) + 1, words)
        index += height
        free = True


def _title_at(lines: list[str], index: int, long_only: bool) -> tuple[str, tuple[str, bool], int] | None:
    """Return text, style and number of lines of the title that begins on this line, or None."""
    first, second, third = (lines[i].rstrip() if i < len(lines) else "" for i in (index, index + 1, index + 2))
    if first == third and second.strip() and _is_adornment(first, second, long_only):
        return second.strip(), (first[0], True), 3
    if not first or first[0].isspace() or _ADORNMENT.fullmatch(first) or _NO_TITLE.match(first):
        return None
    return (first, (second[0], False), 2) if _is_adornment(second, first, long_only) else None


def _is_adornment(line: str, title: str, long_only: bool) -> bool:
    if not _ADORNMENT.fullmatch(line):
        return False
    return len(line) >= _SHORTEST_ADORNMENT or (not long_only and len(line) >= _columns(title))


def _columns(text: str) -> int:
    """Return the width of a text in columns, as in docutils: wide characters count two, combining characters none."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.combining(character) > 0 for character in text)


def _line_starts(text: str) -> list[int]:
    starts = [0]
    for line in _LINE.findall(text):
        starts.append(starts[-1] + len(line))
    return starts


def _restructured_text(text: str) -> Iterator[Heading]:
    return _adorned(text, long_only=False)


def _plain(text: str) -> Iterator[Heading]:
    return _adorned(text, long_only=True)


_ADORNED: dict[str, Callable[[str], Iterator[Heading]]] = {
    "text/x-rst": _restructured_text,
    "text/plain": _plain,
}
