"""Chunks of a section: a recursive split at paragraphs, lines, sentences, words, characters.

The split runs within a section, so that an edit moves no boundary of another one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from semantic_text_splitter import TextSplitter

from headrace.errors import ConfigurationError, InvalidRecord
from headrace_chunker.sections import Section, outline

SIZE = 500
OVERLAP = 50
_WINDOW = 64
"""Chunks that the splitter sees at a time: over a text without line or sentence ends its time grows with the square of
what it is given."""
_WINDOW_AT_BLOCKS = 4
"""The same where blocks stand whole: it splits anew after each that it would have cut."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk as offsets: its text is ``text[start:end]``; ``section`` is the heading path."""

    section: tuple[str, ...]
    start: int
    end: int


def chunk(text: str, media_type: str, *, size: int = SIZE, overlap: int = OVERLAP) -> tuple[Piece, ...]:
    """Return the chunks of a text in order: its sections, each split by :func:`split`.

    Raises what :func:`split` raises, and :class:`InvalidRecord` for a text that UTF-8 cannot carry and for a media type
    that is not known.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRecord("content", f"contains a lone surrogate at character {error.start}") from error
    found = outline(text, media_type)
    return split(text, found.sections, found.blocks, size=size, overlap=overlap)


def split(
    text: str,
    parts: Iterable[Section],
    blocks: Sequence[tuple[int, int]] = (),
    *,
    size: int = SIZE,
    overlap: int = OVERLAP,
) -> tuple[Piece, ...]:
    """Return the chunks of these sections of a text, each at most ``size`` characters and none of white space only.

    ``blocks`` are ranges, in order and apart, of which each that fits in a chunk stands whole in one.
    Every character that is not white space is covered. A chunk begins at most ``overlap`` characters before the end of
    its predecessor in the section, at a word where there is one.
    Raises :class:`ConfigurationError` unless ``0 <= overlap < size``.
    """
    if not 0 <= overlap < size:
        raise ConfigurationError(
            f"A chunk of {size} characters cannot share {overlap} with its predecessor.",
            where="size, overlap",
            remedy="Take an overlap of at least 0 and below the size.",
        )
    splitter = _splitter(size, overlap)
    return tuple(
        Piece(section.path, start, end)
        for section in parts
        for start, end in _whole(splitter, text, section, _fitting(blocks, section, size), size)
    )


def _fitting(blocks: Sequence[tuple[int, int]], section: Section, size: int) -> list[tuple[int, int]]:
    inside = blocks[bisect_left(blocks, (section.start,)) : bisect_left(blocks, (section.end,))]
    return [(start, end) for start, end in inside if end - start <= size]


def _whole(
    splitter: TextSplitter, text: str, section: Section, blocks: Sequence[tuple[int, int]], size: int
) -> Iterator[tuple[int, int]]:
    """Yield the chunks of a section; one that would end inside a block ends before it, and the next begins with it."""
    start, at = section.start, 0
    window = size * (_WINDOW if not blocks else _WINDOW_AT_BLOCKS)
    while start < section.end:
        for begin, end in _windowed(splitter, text, start, section.end, window):
            while at < len(blocks) and blocks[at][1] <= end:
                at += 1
            block = blocks[at] if at < len(blocks) and blocks[at][0] < end else None
            if block is None:
                yield begin, end
                continue
            if block[0] > begin:
                yield from _windowed(splitter, text, begin, block[0], window)
                start = block[0]
            else:
                yield block
                start = block[1]
            break
        else:
            return


def _windowed(splitter: TextSplitter, text: str, start: int, end: int, window: int) -> Iterator[tuple[int, int]]:
    """Yield the chunks from ``start`` up to ``end``; each window begins at the chunk that the last one cut."""
    while start < end:
        seen_to = min(start + window, end)
        found = [(start + at, start + at + len(part)) for at, part in splitter.chunk_indices(text[start:seen_to])]
        cut = found.pop() if seen_to < end and len(found) > 1 else None
        yield from ((begin, until) for begin, until in found if not text[begin:until].isspace())
        start = cut[0] if cut else seen_to


@cache
def _splitter(size: int, overlap: int) -> TextSplitter:
    return TextSplitter(size, overlap=overlap)
