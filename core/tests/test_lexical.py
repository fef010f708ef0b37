"""Terms and their weights: the same for passages and queries, in every language."""

from __future__ import annotations

import time

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
        ("maxConnections", ["maxconnect", "max", "connect"]),
        ("HTTPServer", ["httpserver", "http", "server"]),
        ("C++ and C#", ["c++", "and", "c#"]),
        ("don't", ["dont", "don"]),
        ("YouTube", ["youtub", "you", "tube"]),
        ("APIs", ["api"]),
        ("C++/C#", ["c++/c#", "c++", "c#"]),
        ("l'hôtel d’O’Brien", ["lhôtel", "hôtel", "dobrien", "brien"]),
        ("con\u00adnection", ["connect"]),
        ("किताबें", ["किताबें"]),
        ("مُحَمَّد", ["محمد"]),
        ("佐々木", ["佐々", "々木"]),
        ("ـ", []),
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
    """Broken: an odd text ends the indexer, or makes terms that no index row can hold."""
    found = terms(text)
    assert all(0 < len(term) <= MAX_TERM_CHARACTERS + 2 for term in found)
    assert len(found) <= 3 * len(text) + 1


@settings(max_examples=100)
@given(st.text(alphabet="abcXYZ09_-./한글 日本'+#", max_size=40), st.text(alphabet="ab 한", max_size=10))
def test_a_word_is_the_same_term_alone_and_in_a_sentence(word: str, other: str) -> None:
    """Broken: an identifier in running text has other terms than in a question."""
    assert set(terms(word)) <= set(terms(f"{other} {word}, {other}"))


@given(st.text(alphabet=st.characters(categories=["Lu", "Ll"], max_codepoint=0x24F), min_size=1, max_size=20))
def test_a_name_in_camel_case_is_found_by_its_lower_case(word: str) -> None:
    """Broken: YouTube is not found by youtube, or APIs by api."""
    assert set(terms(word.casefold())) <= set(terms(word))


def test_a_word_of_one_character_is_found_with_its_particle() -> None:
    """Broken: a question for 책 does not find 책을, since Korean writes nouns and particles together."""
    passage = weights.passage(ANALYZER, "t", ["책을 읽다"])
    for question in ("책", "책을", "읽다"):
        assert weights.query(ANALYZER, "t", question).keys() & passage.keys(), question
    assert len(weights.query(ANALYZER, "t", "책을")) == 1


def test_the_length_of_a_korean_passage_counts_its_pairs_alone() -> None:
    """Broken: Korean passages count as twice as long, and short words in them for less."""
    norm = weights.K1 * (1 - weights.B + weights.B * 3 / weights.AVERAGE_LENGTH)
    found = weights.passage(ANALYZER, "t", ["한국어 책"])
    assert found[weights.term_number("t", "책")] == pytest.approx((weights.K1 + 1) / (1 + norm))


def test_a_run_of_combining_marks_takes_linear_time() -> None:
    """Broken: a document of marks holds up all others for minutes, because sorting them takes quadratic time."""
    started = time.process_time()
    terms("\u0316\u0301" * 100_000)
    assert time.process_time() - started < 5


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
