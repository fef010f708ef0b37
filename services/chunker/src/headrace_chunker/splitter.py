"""Splits sections into chunks, recursively at paragraphs, lines, sentences, words and characters.

A split stays within one section, so an edit moves no chunk boundaries in other sections.
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
"""Chunks in the window that the splitter sees at a time. On a text without line or sentence ends, its time grows with
the square of the window."""
_WINDOW_AT_BLOCKS = 4
"""The same for sections with blocks: the splitter starts again after each block that it would have cut."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk as offsets. Its text is ``text[start:end]``; ``section`` is its heading path."""

    section: tuple[str, ...]
    start: int
    end: int


def chunk(text: str, media_type: str, *, size: int = SIZE, overlap: int = OVERLAP) -> tuple[Piece, ...]:
    """Return the chunks of a text in order: finds its sections and splits each with :func:`split`.

    Raises what :func:`split` raises, and :class:`InvalidRecord` for a text that UTF-8 cannot encode or an unsupported
    media type.
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
    """Return the chunks of the sections. Each has at most ``size`` characters, and not only white space.

    ``blocks`` are disjoint ranges in order; each block that fits in a chunk stays whole.
    The chunks cover every character that is not white space. A chunk begins at most ``overlap`` characters before the
    end of the previous chunk of the section, at a word if possible.
    Raises :class:`ConfigurationError` unless ``0 <= overlap < size``.
    """
    if not 0 <= overlap < size:
        raise ConfigurationError(
            f"invalid overlap {overlap} for chunks of {size} characters",
            where="size, overlap",
            remedy="Use an overlap of at least 0 that is less than the size.",
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
    """Yield the chunks of a section. A chunk that would end in a block ends before it; the block begins the next."""
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
    """Yield the chunks from ``start`` up to ``end``. Each window begins at the chunk that the previous window cut."""
    while start < end:
        seen_to = min(start + window, end)
        found = [(start + at, start + at + len(part)) for at, part in splitter.chunk_indices(text[start:seen_to])]
        cut = found.pop() if seen_to < end and len(found) > 1 else None
        yield from ((begin, until) for begin, until in found if not text[begin:until].isspace())
        start = cut[0] if cut else seen_to


@cache
def _splitter(size: int, overlap: int) -> TextSplitter:
    return TextSplitter(size, overlap=overlap)
