"""How much of a question stands in a passage, and in which order."""

from __future__ import annotations

import pytest

from headrace.embeddings.random_questions import rarities_in_questions
from headrace.lexical import weights
from headrace.lexical.analyzer import Analyzer
from headrace.lexical.closeness import READ_CHARACTERS, WordsOfQuestion

pytestmark = pytest.mark.unit

ANALYZER = Analyzer()


def words(text: str, **rarities: float) -> WordsOfQuestion:
    """The question; its terms have the rarity 1 unless given."""
    sequence = weights.sequence(ANALYZER, text)
    return WordsOfQuestion(ANALYZER, sequence, dict.fromkeys(sequence, 1.0) | rarities)


def test_coverage_is_the_share_of_the_rarities() -> None:
    """Broken: a passage with all common words and not the rare one looks like an answer."""
    asked = words("the gate of Zanzibar", zanzibar=7.0)
    assert asked.terms == 4
    assert asked.in_passage(["the gates of Rome"]).coverage == pytest.approx(3 / 10)
    assert asked.in_passage(["Harbours", "Zanzibar"]).coverage == pytest.approx(7 / 10)
    assert asked.in_passage(["The Gate of Zanzibar!"]).coverage == pytest.approx(1.0)
    assert words("").in_passage(["text"]).coverage == 0.0


def test_a_phrase_has_the_rarity_of_its_commoner_word_and_keeps_its_order() -> None:
    """Broken: words that stand apart count as a phrase, or a common word makes a rare one's phrase heavy."""
    asked = words("lock gate keeper", gate=2.0, keeper=5.0)
    assert asked.phrases == pytest.approx(1.0 + 2.0)
    assert asked.in_passage(["The lock gates of the canal have a keeper."]).phrases == pytest.approx(1.0)
    assert asked.in_passage(["gate keepers"]).phrases == pytest.approx(2.0)
    assert asked.in_passage(["keeper, gate, lock"]).phrases == 0.0
    assert asked.in_passage(["lock", "gate"]).phrases == 0.0  # the end of a title and the beginning of a text


def test_korean_is_compared_by_pairs_of_characters() -> None:
    """Broken: a Korean word with another particle is not found, or a word of one character never."""
    asked = words("수문의 높이는")
    assert asked.in_passage(["수문을 연다"]).coverage == pytest.approx(1 / 4)
    assert asked.in_passage(["수문의 높이"]).phrases > 0
    assert words("물 온도").in_passage(["물의 온도"]).coverage == pytest.approx(1.0)


def test_words_of_asking_cover_little() -> None:
    """Broken: passages do not end as Korean questions do, and so none covers a Korean question."""
    known = rarities_in_questions(ANALYZER.name)
    assert {"나요", "무엇", "what", "how"} <= set(known)
    assert not {"수문", "gate"} & set(known)
    sequence = weights.sequence(ANALYZER, "수문은 어떻게 여나요?")
    rarities = dict.fromkeys(sequence, 5.0)
    plain, asked = WordsOfQuestion(ANALYZER, sequence, rarities), WordsOfQuestion(ANALYZER, sequence, rarities, known)
    assert asked.in_passage(["수문은 천천히 연다"]).coverage > 1.3 * plain.in_passage(["수문은 천천히 연다"]).coverage
    assert asked.phrases == plain.phrases
    assert asked.unspaced
    assert not words("gate 수문").unspaced


def test_only_terms_with_a_rarity_count_and_long_texts_are_bounded() -> None:
    """Broken: a term that the store left out lowers every coverage, or a huge passage makes a search slow."""
    asked = WordsOfQuestion(ANALYZER, ("gate", "other"), {"gate": 1.0})
    assert (asked.terms, asked.phrases) == (1, 0.0)
    assert asked.in_passage(["gate"]).coverage == 1.0
    assert asked.in_passage(["x " * READ_CHARACTERS + "gate"]).coverage == 0.0


def test_the_sequence_ends_with_the_terms() -> None:
    """Broken: a long question has phrases of terms that are not looked up."""
    text = " ".join(f"w{n}" for n in range(2 * weights.MAX_QUERY_TERMS))
    assert set(weights.sequence(ANALYZER, text)) == set(weights.query(ANALYZER, "t", text).values())
    assert weights.sequence(ANALYZER, "to be or not to be").count("be") == 2
