"""Sections of a text from its headings, as character offsets that tile the text without gap or overlap."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from markdown_it import MarkdownIt

from headrace.errors import InvalidRecord

_ADORNMENT = re.compile(r"([!-/:-@\[-`{-~])\1*")
"""reStructuredText's adornment: one printable non-alphanumeric character of ASCII, repeated."""
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
"""A line with its end; other separators of Unicode end none, in Markdown as here."""
_SHORTEST_ADORNMENT = 4
"""docutils takes an adornment shorter than its title for text, unless it has four characters at least."""


@dataclass(frozen=True, slots=True)
class Section:
    """A heading path, outermost first, and the characters from ``start`` up to ``end``; the heading belongs to it."""

    path: tuple[str, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading: the offset of its first line, its level from 1, and its words."""

    start: int
    level: int
    title: str


def sections(text: str, media_type: str) -> tuple[Section, ...]:
    """Return the sections in order; text before the first heading has the path ().

    Raises :class:`InvalidRecord` for a media type that is not known.
    """
    find = _FINDERS.get(media_type)
    if find is None:
        raise InvalidRecord("media_type", f"{media_type!r} is not known; known are {', '.join(_FINDERS)}")
    found: list[Section] = []
    open_headings: list[Heading] = []
    start = 0
    for heading in find(text):
        if heading.start > start:
            found.append(Section(tuple(h.title for h in open_headings), start, heading.start))
        open_headings = [h for h in open_headings if h.level < heading.level] + [heading]
        start = heading.start
    if start < len(text):
        found.append(Section(tuple(h.title for h in open_headings), start, len(text)))
    return tuple(found)


def _markdown(text: str) -> Iterator[Heading]:
    starts = _line_starts(text)
    tokens = MarkdownIt("commonmark").parse(text)
    for token, inline in pairwise(tokens):
        if token.type == "heading_open" and token.map is not None and token.level == 0:
            yield Heading(starts[token.map[0]], int(token.tag[1:]), inline.content.strip())


def _adorned(text: str, shortest: int) -> Iterator[Heading]:
    """Underlined headings, with or without an overline; levels by the order in which the styles first appear.

    The rules are those of docutils' states Body, Line and Text: a title stands after a blank line or another title,
    its underline is at least as long as the title (or four characters), and an overline equals the underline.
    """
    lines = _LINE.findall(text)
    starts = _line_starts(text)
    styles: list[tuple[str, bool]] = []
    free = True  # whether a title may begin on this line
    index = 0
    while index < len(lines):
        title = _title_at(lines, index, shortest) if free else None
        if title is None:
            free = not lines[index].strip()
            index += 1
            continue
        words, style, height = title
        if style not in styles:
            styles.append(style)
        yield Heading(starts[index], styles.index(style) + 1, words)
        index += height
        free = True


def _title_at(lines: list[str], index: int, shortest: int) -> tuple[str, tuple[str, bool], int] | None:
    """Return words, style and number of lines of the title that begins on this line, if one does."""
    first, second, third = (lines[i].rstrip() if i < len(lines) else "" for i in (index, index + 1, index + 2))
    if _is_adornment(first, second, shortest) and first == third and second.strip():
        return second.strip(), (first[0], True), 3
    if first and not first[0].isspace() and _is_adornment(second, first, shortest) and not _ADORNMENT.fullmatch(first):
        return first.strip(), (second[0], False), 2
    return None


def _is_adornment(line: str, title: str, shortest: int) -> bool:
    return bool(_ADORNMENT.fullmatch(line)) and len(line) >= min(len(title.strip()), shortest) and len(line) > 1


def _line_starts(text: str) -> list[int]:
    starts = [0]
    for line in _LINE.findall(text):
        starts.append(starts[-1] + len(line))
    return starts


def _restructured_text(text: str) -> Iterator[Heading]:
    return _adorned(text, _SHORTEST_ADORNMENT)


def _plain(text: str) -> Iterator[Heading]:
    return _adorned(text, _SHORTEST_ADORNMENT)


_FINDERS: dict[str, Callable[[str], Iterator[Heading]]] = {
    "text/markdown": _markdown,
    "text/x-rst": _restructured_text,
    "text/plain": _plain,
}
