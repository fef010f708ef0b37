"""How close a passage is to a question by words: how much of it the passage has, and which words stand together there.

BM25 ignores the order of words. Words that are neighbours in the question and in the passage make a phrase, and phrases
order the best passages better (Metzler and Croft, A Markov Random Field Model for Term Dependencies, SIGIR 2005).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

from headrace.lexical.analyzer import Analyzer, unspaced

READ_CHARACTERS = 4_000
"""Characters of a text that are read; passages of the default size have 500."""


@dataclass(frozen=True, slots=True)
class Closeness:
    """How much of a question a passage has.

    ``coverage`` is the share of the question's terms in the passage, weighted by their rarity, from 0 to 1. ``phrases``
    is the sum of the rarities of the neighbouring terms that are neighbours in the passage, too; a pair has the rarity
    of its commoner term.
    """

    coverage: float
    phrases: float


class WordsOfQuestion:
    """A question's terms in the order of the text, with their rarities, to compare passages with.

    ``sequence`` are the terms as the analyzer returns them. Terms without a rarity do not count. ``in_questions`` are
    the rarities of words of asking, which cover no more of a question than that.
    """

    def __init__(
        self,
        analyzer: Analyzer,
        sequence: Sequence[str],
        rarities: Mapping[str, float],
        in_questions: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self._analyzer = analyzer
        known = {term: rarities[term] for term in sequence if term in rarities}
        self._rarities = {term: min(rarity, in_questions.get(term, rarity)) for term, rarity in known.items()}
        self._all = math.fsum(self._rarities.values())
        self._pairs = {
            (one, other): min(known[one], known[other])
            for one, other in pairwise(sequence)
            if one in known and other in known
        }
        self._with_singles = any(len(term) == 1 for term in known)
        self.phrases = math.fsum(self._pairs.values())
        """The sum of the rarities of all pairs of neighbours: the most that a passage can have."""

    @property
    def terms(self) -> int:
        """The number of different terms that count."""
        return len(self._rarities)

    @property
    def unspaced(self) -> bool:
        """Whether most of its terms are of a script that is written without spaces, or Hangul."""
        return 2 * sum(map(unspaced, self._rarities)) > len(self._rarities)

    def in_passage(self, texts: Iterable[str]) -> Closeness:
        """Return how much of the question stands in these texts: title, section path and body."""
        found: set[str] = set()
        pairs: set[tuple[str, str]] = set()
        for text in texts:
            terms = list(self._analyzer.terms(text[:READ_CHARACTERS]))
            found.update(terms)
            if self._with_singles:
                found.update(self._analyzer.singles(text[:READ_CHARACTERS]))
            pairs.update(pair for pair in pairwise(terms) if pair in self._pairs)
        covered = math.fsum(rarity for term, rarity in self._rarities.items() if term in found)
        return Closeness(
            covered / self._all if self._all else 0.0,
            math.fsum(rarity for pair, rarity in self._pairs.items() if pair in pairs),
        )
