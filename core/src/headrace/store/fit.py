"""Whether the best passages fit a question at all, in comparison with what random questions find. Pure.

Every search finds something. A question that the documents do not answer finds what any question would: a passage with
some of its words, and a cosine like that of unrelated questions. Both depend on the tenant's passages and on the model,
so they are estimated for each tenant and generation (:mod:`headrace.store.calibration`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

FIT_THRESHOLD = 0.1
"""A lower fit means that the documents do not answer the question; measured in ``docs/quality.md``."""
CHANCE_TERMS = (2, 4, 8, 16, 32, 64)
"""Numbers of terms of the random questions: the more terms a question has, the less of it one passage has by chance."""
_HIGHEST_CHANCE = 0.95
"""A chance is taken as at most this, so that the rest keeps a scale."""
_LOWEST_SHARE = 0.01
"""Where random questions find less, their logarithm would rule the others."""


@dataclass(frozen=True, slots=True)
class Chance:
    """What random questions find.

    ``words`` are the coverages of the best passage for each number of :data:`CHANCE_TERMS`, and ``unspaced`` those of
    questions in scripts without spaces and in Hangul; empty if not estimated. ``meaning`` is the cosine of the best
    passage, None if not estimated.
    """

    words: Sequence[float] = ()
    unspaced: Sequence[float] = ()
    meaning: float | None = None

    def coverage(self, terms: int, *, unspaced: bool) -> float:
        """Return the coverage that a random question with this number of terms has."""
        shares = self.unspaced if unspaced else self.words
        if not shares:
            return 0.0
        wanted = math.log2(max(terms, 1))
        places = [math.log2(number) for number in CHANCE_TERMS]
        for place in range(1, len(places)):
            if wanted <= places[place]:
                share = max(0.0, (wanted - places[place - 1]) / (places[place] - places[place - 1]))
                return shares[place - 1] * (1 - share) + shares[place] * share
        return shares[-1]


def smoothed(shares: Sequence[float]) -> list[float]:
    """Return the shares of :data:`CHANCE_TERMS` as a power of the number of terms, fitted to them.

    Few random questions of each length give noisy means; that they fall with a power of the length is the case for all
    tenants that were measured. Shares that are all 0 stay 0.
    """
    if not any(shares):
        return [0.0] * len(CHANCE_TERMS)
    places = [math.log(number) for number in CHANCE_TERMS]
    values = [math.log(max(share, _LOWEST_SHARE)) for share in shares]
    middle, level = math.fsum(places) / len(places), math.fsum(values) / len(values)
    slope = math.fsum((place - middle) * value for place, value in zip(places, values, strict=True)) / math.fsum(
        (place - middle) ** 2 for place in places
    )
    return [min(1.0, math.exp(level + slope * (place - middle))) for place in places]


def fit(coverage: float | None, by_chance: float, cosine: float | None, chance: float | None) -> float | None:
    """Return how well the best passages fit, from 0 (as random questions do) to 1; None without a leg that can tell.

    ``coverage`` and ``cosine`` are the highest among the best passages, ``by_chance`` and ``chance`` those of random
    questions. None stands for a leg that was not asked, or for a chance that is not known. With both legs, the result
    is their mean.
    """
    found = []
    if coverage is not None:
        found.append(_above(coverage, by_chance))
    if cosine is not None:
        found.append(_above(cosine, chance or 0.0))
    return math.fsum(found) / len(found) if found else None


def _above(value: float, chance: float) -> float:
    """Return the value, scaled so that what chance reaches is 0."""
    low = min(chance, _HIGHEST_CHANCE)
    return min(1.0, max(0.0, (value - low) / (1 - low)))
