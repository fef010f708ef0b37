"""Chunks of a section: a recursive split at paragraphs, lines, sentences, words, characters.

The split runs within a section, so that an edit moves no boundary of another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from semantic_text_splitter import TextSplitter

from headrace.errors import InvalidRecord
from headrace_chunker.sections import sections

SIZE = 500
OVERLAP = 50


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk as offsets: its text is ``text[start:end]``; ``section`` is the heading path."""

    section: tuple[str, ...]
    start: int
    end: int


def chunk(text: str, media_type: str, *, size: int = SIZE, overlap: int = OVERLAP) -> tuple[Piece, ...]:
    """Return the chunks of a text in order, each at most ``size`` characters and none of white space only.

    Every character that is not white space is covered; neighbours in a section share at most ``overlap`` characters.
    Raises :class:`InvalidRecord` for a text that UTF-8 cannot carry and for a media type that is not known.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRecord("content", f"contains a lone surrogate at character {error.start}") from error
    splitter = _splitter(size, overlap)
    pieces: list[Piece] = []
    for section in sections(text, media_type):
        for start, part in splitter.chunk_indices(text[section.start : section.end]):
            if part.strip():
                begin = section.start + start
                pieces.append(Piece(section.path, begin, begin + len(part)))
    return tuple(pieces)


@cache
def _splitter(size: int, overlap: int) -> TextSplitter:
    return TextSplitter(size, overlap=overlap)
