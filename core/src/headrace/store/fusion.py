"""Fuses the scores of both legs, and orders the best passages by phrases. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

DENSE_WEIGHT = 0.4
"""Share of the dense leg in the fused score, from 0 to 1; measured in ``docs/quality.md``."""
READ_PASSAGES = 20
"""The best passages, whose texts are compared with the question; twice as many order no better."""
PHRASE_WEIGHT = 0.6
"""How much a phrase counts in comparison with BM25's score of its words."""
SWING = 0.5
"""By how much phrases move the weight of the dense leg: at 0.4, from 0.6 without a phrase to 0.2 with all of them."""
_LARGEST_UNRELATED = 0.95
"""The mean cosine of passages is taken as at most this, so that the rest keeps a scale."""
_BELOW = 0.1
"""A cosine of -1 costs this share of the dense leg: it keeps the order below the mean, and hides no match by words."""


def fuse(
    dense: Mapping[UUID, float], lexical: Mapping[UUID, float], weight: float, unrelated: float | None
) -> dict[UUID, float]:
    """Return the fused scores, best first: ``weight`` times the dense score, the rest the lexical score; pure.

    Dense scores are cosines, scaled so that ``unrelated``, the mean cosine of two passages, is 0 and equality is 1: the
    cosines of one model begin at 0.1, those of another at 0.8. Without it they are distances, and the best of them is
    1, the worst 0. The best lexical score is 1. A convex combination of scores orders better than their ranks, because
    it knows by how much a hit is better (Bruch, Gai, Ingber: An Analysis of Fusion Functions for Hybrid Retrieval,
    TOIS 2023).
    """
    best = max(lexical.values(), default=0.0) or 1.0
    fused = {chunk_id: weight * score for chunk_id, score in _scaled(dense, unrelated).items()}
    for chunk_id, score in lexical.items():
        fused[chunk_id] = fused.get(chunk_id, 0.0) + (1 - weight) * score / best
    return ordered(fused)


def ordered(scores: Mapping[UUID, float]) -> dict[UUID, float]:
    """Return the scores, best first."""
    return dict(sorted(scores.items(), key=lambda item: (-item[1], item[0])))


def with_phrases(
    dense: Mapping[UUID, float],
    lexical: Mapping[UUID, float],
    weight: float,
    unrelated: float | None,
    phrases: Mapping[UUID, float],
    most: float,
) -> dict[UUID, float]:
    """Return the fused scores, best first, with the phrases of the chunks that were compared with the question.

    ``phrases`` are the rarities of the phrases in each chunk that was compared, ``most`` those of all phrases of the
    question. If these stand together in a chunk, words are trusted more than vectors, and otherwise less. No chunk that
    was not compared is better than one that was.
    """
    if most > 0 and 0 < weight < 1:
        share = max(phrases.values(), default=0.0) / most
        weight += min(weight, 1 - weight) * SWING * (1 - 2 * share)
    words = {key: score + PHRASE_WEIGHT * phrases.get(key, 0.0) for key, score in lexical.items()}
    scores = fuse(dense, words, weight, unrelated)
    best = {key: score for key, score in scores.items() if key in phrases}
    last = min(best.values(), default=0.0)
    return best | {key: min(score, last) for key, score in scores.items() if key not in best}


def _scaled(scores: Mapping[UUID, float], unrelated: float | None) -> dict[UUID, float]:
    """Return the dense scores, from 1 to 0; a chunk less similar than unrelated ones has one from 0 to -0.1."""
    if not scores:
        return {}
    if unrelated is None:
        low, high = min(scores.values()), max(scores.values())
    else:
        low, high = min(unrelated, _LARGEST_UNRELATED), 1.0
    if high <= low:
        return dict.fromkeys(scores, 1.0)
    below = high - low if unrelated is None else (1 + low) / _BELOW
    return {key: (score - low) / (high - low if score >= low else below) for key, score in scores.items()}
