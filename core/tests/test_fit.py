"""Whether what was found fits, and how phrases order it."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.store.fit import CHANCE_TERMS, Chance, fit, smoothed
from headrace.store.fusion import fuse, with_phrases

pytestmark = pytest.mark.unit

WORDS = (0.9, 0.7, 0.5, 0.3, 0.2, 0.1)
CHANCE = Chance(WORDS, tuple(share / 2 for share in WORDS), 0.8)
A, B, C = UUID(int=1), UUID(int=2), UUID(int=3)
SHARES = st.floats(0, 1)


def test_what_random_questions_reach_is_nothing() -> None:
    """Broken: a cosine of 0.8 counts as an answer with a model whose cosines begin there."""
    assert fit(None, 0.0, 0.8, 0.8) == 0.0
    assert fit(None, 0.0, 0.9, 0.8) == pytest.approx(0.5)
    assert fit(0.5, 0.5, None, None) == pytest.approx(0.0)
    assert fit(0.75, 0.5, None, None) == pytest.approx(0.5)
    assert fit(0.75, 0.5, 0.8, 0.8) == pytest.approx(0.25)
    assert fit(0.75, 0.5, 0.5, None) == pytest.approx(0.5)
    assert fit(1.0, 1.0, None, None) == 1.0
    assert fit(None, 0.0, None, 0.8) is None


def test_chance_falls_with_the_number_of_terms_and_is_one_for_each_kind_of_script() -> None:
    """Broken: a long question never fits, or a short one always does, or Korean is measured by English."""
    assert [CHANCE.coverage(number, unspaced=False) for number in CHANCE_TERMS] == pytest.approx(WORDS)
    assert CHANCE.coverage(8, unspaced=True) == pytest.approx(0.25)
    assert CHANCE.coverage(3, unspaced=False) == pytest.approx(0.9 - 0.2 * 0.585, abs=1e-3)
    assert [CHANCE.coverage(number, unspaced=False) for number in (0, 1, 1000)] == [0.9, 0.9, 0.1]
    assert Chance().coverage(5, unspaced=True) == 0.0


def test_noisy_chances_become_a_power_of_the_length() -> None:
    """Broken: a dozen random questions decide whether a question of their length fits."""
    exact = [0.8 * (number / 2) ** -0.5 for number in CHANCE_TERMS]
    assert smoothed(exact) == pytest.approx(exact)
    noisy = smoothed([share * (1.2 if place % 2 else 0.8) for place, share in enumerate(exact)])
    assert noisy == sorted(noisy, reverse=True)
    assert noisy == pytest.approx(exact, rel=0.2)
    assert smoothed([0.0] * len(CHANCE_TERMS)) == [0.0] * len(CHANCE_TERMS)
    assert all(0 < share <= 1 for share in smoothed([1.0, 1.0, 1.0, 0.0, 0.0, 0.0]))


@given(SHARES, SHARES, SHARES, st.floats(-1, 1), SHARES)
def test_a_fit_is_a_share_and_grows_with_both_legs(
    low: float, high: float, by_chance: float, cosine: float, chance: float
) -> None:
    """Broken: a better match fits less, or a fit is no number between 0 and 1."""
    low, high = sorted((low, high))
    first, second = (fit(one, by_chance, cosine, chance) for one in (low, high))
    assert first is not None
    assert second is not None
    assert 0 <= first <= second <= 1
    assert (fit(low, by_chance, 1.0, chance) or 0.0) >= first


def test_a_phrase_orders_what_words_alone_cannot() -> None:
    """Broken: a passage with the words of the question anywhere is as good as one with its phrase."""
    dense, lexical = {A: 0.5, B: 0.5}, {A: 2.0, B: 2.0}
    assert list(fuse(dense, lexical, 0.4, 0.1)) == [A, B]
    assert list(with_phrases(dense, lexical, 0.4, 0.1, {A: 0.0, B: 1.0}, 1.0)) == [B, A]


def test_phrases_move_the_weight_of_the_legs() -> None:
    """Broken: a question whose phrase stands in a passage is ordered by vectors, or one in other words by words."""
    dense, lexical = {A: 0.9, B: 0.3}, {A: 1.0, B: 2.0}
    together = with_phrases(dense, lexical, 0.4, 0.1, {A: 0.0, B: 2.0}, 2.0)
    apart = with_phrases(dense, lexical, 0.4, 0.1, {A: 0.0, B: 0.0}, 2.0)
    assert list(together) == [B, A]
    assert list(apart) == [A, B]
    assert together[B] == pytest.approx(0.2 * (0.3 - 0.1) / 0.9 + 0.8)
    assert apart[A] == pytest.approx(0.6 * (0.9 - 0.1) / 0.9 + 0.4 * 0.5)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_leg_alone_stays_alone(weight: float) -> None:
    """Broken: a search that is set to words alone, or to meaning alone, mixes in the other."""
    dense, lexical = {A: 0.9, B: 0.3}, {A: 1.0, B: 2.0}
    found = with_phrases(dense, lexical, weight, 0.1, {A: 0.0, B: 0.0}, 2.0)
    assert found == fuse(dense, lexical, weight, 0.1)


@given(st.dictionaries(st.sampled_from([A, B, C]), SHARES), st.dictionaries(st.sampled_from([A, B, C]), SHARES), SHARES)
def test_what_was_not_compared_stays_behind(
    dense: dict[UUID, float], lexical: dict[UUID, float], weight: float
) -> None:
    """Broken: the score of a hit is higher than that of the hit before it, or a hit is lost."""
    compared = dict.fromkeys(list(fuse(dense, lexical, weight, 0.1))[:2], 0.5)
    found = with_phrases(dense, lexical, weight, 0.1, compared, 1.0)
    assert set(found) == set(dense) | set(lexical)
    assert set(list(found)[: len(compared)]) == set(compared)
    assert list(found.values()) == sorted(found.values(), reverse=True)
