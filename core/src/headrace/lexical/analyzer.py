"""The analyzer: a text as terms, the same for passages and queries and for every language.

Words of alphabets become stems. Scripts written without spaces, and Hangul, become pairs of neighbouring characters:
they need no dictionary, so index and query cannot drift apart. An identifier (``ERR-7731``, ``max_connections``,
``10.0.0.1``, a path) is one term as a whole and one for each of its parts.

A generation of the index has one analyzer, named by :data:`DEFAULT`; another analyzer requires another generation.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

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
    "\u3040-\u30ff\u31f0-\u31ff"  # Kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
)
_WORD = rf"(?:(?![{_UNSPACED}])\w)+"
_RUNS = re.compile(rf"[{_UNSPACED}]+|{_WORD}(?:[-./\\:@'’&+#]{{1,3}}{_WORD})*(?:\+\+|#)?")
"""A run of a script without spaces, or an identifier: words joined by signs, or a single word."""
_PARTS = re.compile(r"[^\W_]+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_JOINED = re.compile(r"[\W_]")
_APOSTROPHES = re.compile(r"['’]")


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
        self._stemmers = {alphabet: Stemmer.Stemmer(stems) for alphabet, stems in _OTHER_ALPHABETS.items()}
        if language != _NO_STEMS:
            self._stemmers[_LATIN] = Stemmer.Stemmer(language)

    def terms(self, text: str) -> Iterator[str]:
        """Yield the terms of the text in its order; a term that occurs several times is yielded several times."""
        for found in _RUNS.finditer(unicodedata.normalize("NFKC", text)):
            run = found.group()
            if _is_unspaced(run[0]):
                yield from _pairs(run)
            else:
                yield from self._of_word(run)

    def _of_word(self, run: str) -> Iterator[str]:
        whole = _APOSTROPHES.sub("", run.casefold()) if "'" in run or "’" in run else run.casefold()
        if whole.isalpha() and not _CAMEL.search(run):
            yield self._stem(whole[:MAX_TERM_CHARACTERS])
            return
        parts = [part for joined in _PARTS.findall(run) for part in _CAMEL.split(joined)]
        if _JOINED.search(whole) and len(whole) <= MAX_TERM_CHARACTERS:
            yield whole
        elif len(parts) > 1:  # written in camel case
            yield whole[:MAX_TERM_CHARACTERS]
        for part in parts:
            yield self._stem(part.casefold()[:MAX_TERM_CHARACTERS])

    def _stemmed(self, word: str) -> str:
        if not word.isalpha():
            return word
        stemmer = self._stemmers.get(_LATIN if word[0] < "\u0250" else _alphabet(word[0]))
        return word if stemmer is None else str(stemmer.stemWord(word))


@lru_cache(maxsize=8)
def analyzer_of(name: str) -> Analyzer:
    """Return the analyzer with this name, always the same; raises as :class:`Analyzer` does."""
    return Analyzer(name)


def _is_unspaced(character: str) -> bool:
    return _RUN_START.match(character) is not None


_RUN_START = re.compile(f"[{_UNSPACED}]")


def _pairs(run: str) -> Iterator[str]:
    """Yield each pair of neighbouring characters; a single character stands for itself."""
    if len(run) == 1:
        yield run
    for at in range(len(run) - 1):
        yield run[at : at + 2]


@lru_cache(maxsize=1 << 12)
def _alphabet(character: str) -> str:
    return unicodedata.name(character, "").partition(" ")[0]
