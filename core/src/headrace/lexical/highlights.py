"""Where the terms of a query stand in a text: the analyzer's own terms, so that stems and pairs of characters match."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterator, Sequence

from headrace.lexical.analyzer import DROPPED, PIECE, Analyzer

Range = tuple[int, int]
"""Characters (Unicode code points) from the first up to the second, which is not included."""


def highlights(analyzer: Analyzer, terms: Collection[str], text: str) -> list[Range]:
    """Return where the terms stand in the text, in its order; ranges that touch or overlap are one.

    ``terms`` are the analyzer's, as of a query (:func:`headrace.lexical.weights.query`). An identifier that matches as
    a whole is one range; one that matches by parts, a range for each.
    """
    wanted = frozenset(terms)
    if not wanted:
        return []
    plain, starts, ends = with_offsets(text)
    found = sorted({(starts[first], ends[end - 1]) for term, first, end in analyzer.placed(plain) if term in wanted})
    return list(_joined(found))


def with_offsets(text: str) -> tuple[str, Sequence[int], Sequence[int]]:
    """Return the text as :func:`headrace.lexical.analyzer.normalized` does, and where each of its characters is from.

    The second and third value say for each character at which character of ``text`` its origin begins and ends.
    """
    plain: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    for base in range(0, len(text), PIECE):
        for at, cluster in _clusters(text[base : base + PIECE]):
            for character in unicodedata.normalize("NFKC", cluster):
                if ord(character) not in DROPPED:
                    plain.append(character)
                    starts.append(base + at)
                    ends.append(base + at + len(cluster))
    return "".join(plain), starts, ends


def _clusters(piece: str) -> Iterator[tuple[int, str]]:
    """Yield the smallest parts of a piece that normalize alone as they do together, with their places.

    A part begins at a character that is no combining mark and does not compose with what stands before it.
    """
    if unicodedata.is_normalized("NFKC", piece):
        yield from enumerate(piece)
        return
    start = 0
    for at in range(1, len(piece)):
        if _begins(piece[start:at], piece[at]):
            yield start, piece[start:at]
            start = at
    yield start, piece[start:]


def _begins(before: str, character: str) -> bool:
    if character.isascii():
        return True
    alone = unicodedata.normalize("NFKC", character)
    if unicodedata.combining(unicodedata.normalize("NFKD", character)[0]):
        return False
    return unicodedata.normalize("NFKC", before + character) == unicodedata.normalize("NFKC", before) + alone


def _joined(ranges: Sequence[Range]) -> Iterator[Range]:
    """Yield sorted ranges, those that touch or overlap as one."""
    at = 0
    while at < len(ranges):
        start, end = ranges[at]
        at += 1
        while at < len(ranges) and ranges[at][0] <= end:
            end = max(end, ranges[at][1])
            at += 1
        yield start, end
