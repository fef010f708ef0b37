"""Terms and their weights: the same for passages and queries, in every language."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import ConfigurationError
from headrace.lexical import weights
from headrace.lexical.analyzer import MAX_TERM_CHARACTERS, Analyzer

pytestmark = pytest.mark.unit

ANALYZER = Analyzer()


def terms(text: str) -> list[str]:
    """The terms of the text."""
    return list(ANALYZER.terms(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Connections connected, connecting!", ["connect", "connect", "connect"]),
        ("ERR-7731", ["err-7731", "err", "7731"]),
        ("max_connections를", ["max_connections", "max", "connect", "를"]),
        ("10.0.0.1", ["10.0.0.1", "10", "0", "0", "1"]),
        ("/etc/postgres/pg_hba.conf.", ["etc/postgres/pg_hba.conf", "etc", "postgr", "pg", "hba", "conf"]),
        ("headrace::Loop", ["headrace::loop", "headrac", "loop"]),
        ("maxConnections", ["maxconnections", "max", "connect"]),
        ("HTTPServer", ["httpserver", "http", "server"]),
        ("C++ and C#", ["c++", "c", "and", "c#", "c"]),
        ("don't", ["dont"]),
        ("user@example.com", ["user@example.com", "user", "exampl", "com"]),
        ("서울특별시 청", ["서울", "울특", "특별", "별시", "청"]),
        ("PostgreSQL은", ["postgresql", "postgr", "sql", "은"]),
        ("日本語のテキスト", ["日本", "本語", "語の", "のテ", "テキ", "キス", "スト"]),
        ("книги книга", ["книг", "книг"]),
        ("ＦＵＬＬ　ｗｉｄｔｈ ﬁle", ["full", "width", "file"]),
        ("한", ["한"]),
        ("ภาษาไทย", ["ภา", "าษ", "ษา", "าไ", "ไท", "ทย"]),
        ("?!… — \u200b\x00", []),
        ("", []),
    ],
)
def test_texts_become_terms(text: str, expected: list[str]) -> None:
    """Broken: words with endings, identifiers, or languages without spaces are not found."""
    assert terms(text) == expected


def test_a_decomposed_text_has_the_terms_of_the_composed_one() -> None:
    """Broken: Korean from a file system or a Mac, where syllables are written as letters, is never found."""
    assert terms("\u1112\u1161\u11ab\u1100\u1173\u11af") == terms("한글") == ["한글"]


@settings(max_examples=200)
@given(st.text(max_size=200))
def test_any_text_has_bounded_terms(text: str) -> None:
    """Broken: an odd text ends the embedder, or makes terms that no index row can hold."""
    found = terms(text)
    assert all(0 < len(term) <= MAX_TERM_CHARACTERS + 2 for term in found)
    assert len(found) <= 3 * len(text) + 1


@settings(max_examples=100)
@given(st.text(alphabet="abcXYZ09_-./한글 日本'+#", max_size=40), st.text(alphabet="ab 한", max_size=10))
def test_a_word_is_the_same_term_alone_and_in_a_sentence(word: str, other: str) -> None:
    """Broken: an identifier in running text has other terms than in a question."""
    assert set(terms(word)) <= set(terms(f"{other} {word}, {other}"))


def test_stems_can_be_of_another_language_or_left_out() -> None:
    """Broken: a German index stems as English does, or a misspelt setting goes unnoticed."""
    assert list(Analyzer("words-1/german").terms("Häuser")) == ["haus"]
    assert list(Analyzer("words-1/none").terms("Houses")) == ["houses"]
    for name in ("words-1/klingon", "words-2/english", "english", ""):
        with pytest.raises(ConfigurationError, match="unknown analyzer") as caught:
            Analyzer(name)
        assert "words-1/english" in caught.value.remedy


def test_a_passage_is_weighed_as_bm25_weighs_it() -> None:
    """Broken: a term that is repeated, or a short passage, counts as in no published ranking."""
    found = weights.passage(ANALYZER, "acme", ["gate", "gate of the canal"])
    number = weights.term_number("acme", "gate")
    norm = 1.2 * (0.25 + 0.75 * 5 / 150)
    assert found[number] == pytest.approx(2 * 2.2 / (2 + norm))
    assert len(found) == 4
    assert weights.passage(ANALYZER, "acme", []) == {}


def test_tenants_share_no_term() -> None:
    """Broken: an index of terms has the rows of all tenants under one entry, and reads them for each."""
    assert weights.query(ANALYZER, "acme", "gate").keys().isdisjoint(weights.query(ANALYZER, "globex", "gate"))


def test_a_long_query_is_bounded_and_keeps_each_term_once() -> None:
    """Broken: a query of a whole book is looked up word by word."""
    assert list(weights.query(ANALYZER, "t", "gate canal gate").values()) == ["gate", "canal"]
    long = " ".join(f"word{n}" for n in range(5000))
    assert len(weights.query(ANALYZER, "t", long)) == weights.MAX_QUERY_TERMS


def test_rarer_terms_weigh_more_and_none_weighs_nothing() -> None:
    """Broken: a word of every passage counts as much as a name, or counts against a passage."""
    rarities = [weights.rarity(1000, count) for count in (0, 1, 10, 500, 1000, 2000)]
    assert rarities == sorted(rarities, reverse=True)
    assert all(rarity > 0 for rarity in rarities)
    assert weights.rarity(1000, 10) == pytest.approx(math.log(1 + 990.5 / 10.5))
