"""The analyzer: a text as terms, the same for passages and queries and for every language.

Words of alphabets become stems. Scripts written without spaces, and Hangul, become pairs of neighbouring characters:
they need no dictionary, so index and query cannot drift apart. An identifier (``ERR-7731``, ``max_connections``,
``10.0.0.1``, a path) is one term as a whole and one for each of its parts.

A generation of the index has one analyzer, named by :data:`DEFAULT`; another analyzer requires another generation.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from itertools import chain

import Stemmer

from headrace.errors import ConfigurationError

DEFAULT = "words-1/english"
"""Version 1 of the rules below, with English stems for words in Latin script."""
MAX_TERM_CHARACTERS = 64
"""A longer word keeps its beginning; a longer identifier has only its parts."""
_VERSION = "words-1"
_NO_STEMS = "none"
_LATIN = "latin"
_OTHER_ALPHABETS = {"CYRILLIC": "russian", "GREEK": "greek", "ARABIC": "arabic"}
"""Unicode's name of an alphabet to the stemmer for its words."""
_UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\u1780-\u17ff"  # Burmese, Khmer
    "\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3"  # Hangul
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"  # Kana, and marks of repetition
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
)
_POINTS = (0x640, 0x670, *range(0x591, 0x5C8), *range(0x64B, 0x660), *range(0x6D6, 0x6EE))
DROPPED = dict.fromkeys([0xAD, 0x200C, 0x200D, 0x2060, 0xFEFF, *_POINTS])
"""Soft hyphens and joiners, and the points of Hebrew and Arabic, which most writers leave out."""
PIECE = 1000
"""Characters to normalize at once, because a run of combining marks takes quadratic time."""
_CACHED_TEXT = 200
"""Texts up to so many characters are kept with their terms: titles and headings occur in many passages."""
_PARTS = re.compile(r"[^\W_]+(?:\+\+|#)?")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z0-9])(?=[A-Z][a-z])(?!.s\b)")
_JOINED = re.compile(r"[\W_]")
_APOSTROPHES = re.compile(r"['’]")
_SHORTEST_ELIDED = 3
"""Letters of a part beside an apostrophe that is a term of its own: hôtel in l'hôtel, Brien in O'Brien."""


@cache
def _runs() -> re.Pattern[str]:
    """Return what finds the runs of a text: of a script without spaces, or words joined by signs, or a single word.

    A word may contain combining marks, without which many scripts cannot write a vowel.
    """
    marks = "".join(chr(code) for code in range(0x300, 0x10000) if unicodedata.category(chr(code)).startswith("M"))
    word = rf"(?![{_UNSPACED}])\w(?:(?![{_UNSPACED}])[\w{marks}])*"
    return re.compile(rf"[{_UNSPACED}]+|{word}(?:[-./\\:@'’&+#]{{1,3}}{word})*(?:\+\+|#)?")


class Analyzer:
    """Splits texts into terms. ``name`` is ``words-1/`` and the language of the stems, or ``words-1/none``.

    Raises :class:`ConfigurationError` for any other name.
    """

    def __init__(self, name: str = DEFAULT) -> None:
        version, _, language = name.partition("/")
        known = sorted([_NO_STEMS, *Stemmer.algorithms()])
        if version != _VERSION or language not in known:
            raise ConfigurationError(
                f"unknown analyzer {name!r}",
                where="analyzer",
                remedy=f"Use {_VERSION}/ and one of {', '.join(known)}; the default is {DEFAULT}.",
            )
        self.name = name
        self._stem = lru_cache(maxsize=1 << 16)(self._stemmed)
        self._short = lru_cache(maxsize=1 << 12)(lambda text: tuple(self._split(text)))
        self._stemmers = {alphabet: Stemmer.Stemmer(stems) for alphabet, stems in _OTHER_ALPHABETS.items()}
        if language != _NO_STEMS:
            self._stemmers[_LATIN] = Stemmer.Stemmer(language)

    def terms(self, text: str) -> Iterable[str]:
        """Return the terms of the text in its order; a term that occurs several times is returned several times."""
        return self._short(text) if len(text) <= _CACHED_TEXT else self._split(text)

    def singles(self, text: str) -> Iterable[str]:
        """Return each character of a script without spaces that is written together with others.

        A passage has them as terms, too: a question for a word of one character finds it with its particle.
        """
        return chain.from_iterable(run for run in _UNSPACED_RUN.findall(normalized(text)) if len(run) > 1)

    def placed(self, text: str) -> Iterator[tuple[str, int, int]]:
        """Yield the terms and singles of a :func:`normalized` text, each with the place that it stands for.

        A term of several places in a word is yielded for each of them, perhaps more than once.
        """
        for found in _runs().finditer(text):
            run, start = found.group(), found.start()
            if not _UNSPACED_RUN.match(run):
                yield from ((term, start + first, start + end) for term, first, end in self._placed_in_word(run))
                continue
            if len(run) > 1:
                yield from ((single, at, at + 1) for at, single in enumerate(run, start))
            yield from ((pair, at, at + len(pair)) for at, pair in enumerate(_pairs(run), start))

    def _placed_in_word(self, run: str) -> Iterator[tuple[str, int, int]]:
        parts = [(self._stem(part), start, end) for part, start, end in self._parts(run)]
        of_parts = {part for part, _, _ in parts}
        for term in filter(None, self._of_word(run)):
            if term in of_parts:
                yield from (part for part in parts if part[0] == term)
            else:
                yield term, 0, len(run)

    def _split(self, text: str) -> Iterator[str]:
        for found in _runs().finditer(normalized(text)):
            run = found.group()
            if _UNSPACED_RUN.match(run):
                yield from _pairs(run)
            else:
                yield from filter(None, self._of_word(run))

    def _of_word(self, run: str) -> Iterator[str]:
        whole = _APOSTROPHES.sub("", run.casefold())
        if len(whole) == len(run) and whole.isalpha() and not _CAMEL.search(run):
            yield self._stem(whole[:MAX_TERM_CHARACTERS])
            return
        if _has_marks(whole):
            yield whole[:MAX_TERM_CHARACTERS]
            return
        parts = [part for part, _, _ in self._parts(run)]
        head = ""
        if whole.isalpha():  # written in camel case, or with an apostrophe
            head = self._stem(whole[:MAX_TERM_CHARACTERS])
        elif _JOINED.search(whole):
            head = whole if len(whole) <= MAX_TERM_CHARACTERS else ""
        elif len(parts) > 1:
            head = whole[:MAX_TERM_CHARACTERS]
        yield head
        yield from (term for part in parts if (term := self._stem(part)) != head)

    def _parts(self, run: str) -> Iterator[tuple[str, int, int]]:
        """Return the parts of words that are joined by signs or by camel case, not yet stemmed, with their places."""
        elided = _APOSTROPHES.search(run) is not None
        for joined in _PARTS.finditer(run):
            start = joined.start()
            for part in _CAMEL.split(joined.group()):
                if not elided or len(part) >= _SHORTEST_ELIDED:
                    yield part.casefold()[:MAX_TERM_CHARACTERS], start, start + len(part)
                start += len(part)

    def _stemmed(self, word: str) -> str:
        if not word.isalpha():
            return word
        stemmer = self._stemmers.get(_LATIN if word[0] < "\u0250" else _alphabet(word[0]))
        return word if stemmer is None else str(stemmer.stemWord(word))


@lru_cache(maxsize=8)
def analyzer_of(name: str) -> Analyzer:
    """Return the analyzer with this name, always the same; raises as :class:`Analyzer` does."""
    return Analyzer(name)


def unspaced(term: str) -> bool:
    """Whether the term is of a script that is written without spaces, or Hangul."""
    return _UNSPACED_RUN.match(term) is not None


def _has_marks(word: str) -> bool:
    """Whether the word has vowel signs or accents that no single character contains."""
    return not word.isascii() and any(unicodedata.category(character).startswith("M") for character in word)


def normalized(text: str) -> str:
    """Return the text in NFKC, each piece of it alone (:data:`PIECE`), without :data:`DROPPED`."""
    if not unicodedata.is_normalized("NFKC", text[:PIECE]) or len(text) > PIECE:
        pieces = (text[start : start + PIECE] for start in range(0, len(text), PIECE))
        text = "".join(unicodedata.normalize("NFKC", piece) for piece in pieces)
    return text.translate(DROPPED)


_UNSPACED_RUN = re.compile(f"[{_UNSPACED}]+")


def _pairs(run: str) -> Iterator[str]:
    """Yield each pair of neighbouring characters; a single character stands for itself."""
    if len(run) == 1:
        yield run
    for at in range(len(run) - 1):
        yield run[at : at + 2]


@lru_cache(maxsize=1 << 12)
def _alphabet(character: str) -> str:
    return unicodedata.name(character, "").partition(" ")[0]
