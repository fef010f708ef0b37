"""Highlights: where a query's terms stand in a text, exactly, whatever the script and however it is encoded."""

from __future__ import annotations

import unicodedata
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headrace.lexical.analyzer import PIECE, Analyzer, normalized
from headrace.lexical.highlights import highlights, with_offsets

pytestmark = pytest.mark.unit

ANALYZER = Analyzer()
SCRIPTS = st.text(
    st.one_of(
        st.characters(),
        st.sampled_from(
            "aZ019_-./'’@:&+# \n\u0301\u0323\u0345\u0315가각한국각ㄱ책東京カﾞ゛ﬁＡ①ĳé\u00ad\u200dשלָقُ\u09c7\u09be\u0d46"
        ),
    ),
    max_size=60,
)


def marked(query: str, text: str) -> str:
    """The text with what the query highlights in brackets."""
    for start, end in reversed(highlights(ANALYZER, list(ANALYZER.terms(query)), text)):
        text = f"{text[:start]}[{text[start:end]}]{text[end:]}"
    return text


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("connecting", "all [connected] hosts, one [connection]; [CONNECTIONS]"),
        ("서울특별시청", "[서울]시의 [시청]은 여기"),
        ("서울", "[서울]시와 [서울]역, 경기"),
        ("책", "새 [책]을 읽었다: [책]"),
        ("멈춘 단계를", "[단계를] 다시 시작, [단계]의 수"),
        ("東京", "私は[東京]都に住む"),
        ("ERR-7731", "the code [ERR-7731] and [err] alone"),
        ("7731", "the code ERR-[7731] and 77310"),
        ("connections", "set max_[connections] or max[Connections]"),
        ("max_connections", "set [max_connections] = 5"),
        ("10.0.0.1", "[10].[0].[0].[1]:80 or [10.0.0.1]"),
        ("l'hôtel", "un [hôtel] de luxe"),
        ("full", "[ｆｕｌｌ] width, ﬀ none"),
        ("find", "[ﬁnd] a ligature"),
        ("café", "a [cafe\u0301], a [café]"),
        ("한국", "[\u1112\u1161\u11ab\u1100\u116e\u11a8] decomposed, [한국]"),
        ("naive", "[na\u00adive] with a soft hyphen"),
        ("", "nothing"),
        ("?!", "nothing?!"),
        ("zebra", "nothing of it"),
        ("the", "𝔘nicode 🙂 [the] end"),
    ],
)
def test_what_matched_is_marked(query: str, expected: str) -> None:
    """Broken: a reader sees other words marked than those that found the passage, or marks beside them."""
    text = expected.replace("[", "").replace("]", "")
    assert marked(query, text) == expected


@given(SCRIPTS)
@example("e\u0323\u0301 각")
@example("e\u0315\u0301")
@settings(max_examples=500)
def test_offsets_lead_back_to_the_source(text: str) -> None:
    """Broken: ranges drift behind a ligature, a decomposed syllable or a joiner, and mark what is beside a word."""
    plain, starts, ends = with_offsets(text)
    assert plain == normalized(text)
    assert len(plain) == len(starts) == len(ends)
    for character, start, end in zip(plain, starts, ends, strict=True):
        assert 0 <= start < end <= len(text)
        assert character in unicodedata.normalize("NFKC", text[start:end])
    assert list(starts) == sorted(starts)


@given(SCRIPTS)
@settings(max_examples=500)
def test_placed_terms_are_the_terms_of_the_index(text: str) -> None:
    """Broken: a term that finds a passage is not marked in it, or one that does not is."""
    plain = normalized(text)
    placed = list(ANALYZER.placed(plain))
    indexed = Counter([*ANALYZER.terms(text), *ANALYZER.singles(text)])
    assert {term for term, _, _ in placed} == set(indexed)
    for _, start, end in placed:
        assert 0 <= start < end <= len(plain)


@given(SCRIPTS, SCRIPTS)
def test_ranges_are_in_order_and_apart(query: str, text: str) -> None:
    """Broken: a client that wraps each range in a tag writes tags into tags."""
    found = highlights(ANALYZER, list(ANALYZER.terms(query)), text)
    edges = [edge for one in found for edge in one]
    assert edges == sorted(set(edges))
    assert all(0 <= edge <= len(text) for edge in edges)
    assert not found or set(ANALYZER.terms(query)) & {*ANALYZER.terms(text), *ANALYZER.singles(text)}


def test_a_long_text_is_exact_behind_each_piece() -> None:
    """Broken: highlights are right at the beginning of a passage only."""
    text = "e\u0301 " * (PIECE // 2) + "수도 서울 " + "x" * PIECE + " connected"
    assert [text[start:end] for start, end in highlights(ANALYZER, ["서울", "connect"], text)] == ["서울", "connected"]


def test_marks_without_end_take_no_time() -> None:
    """Broken: a text of combining marks keeps a gateway busy for minutes."""
    highlights(ANALYZER, ["a"], "ﬁ" + "\u0301\u0323" * 20_000)
