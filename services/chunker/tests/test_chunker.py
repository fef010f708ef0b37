"""Sections tile the text, chunks cover it, identities survive edits elsewhere."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.embeddings.preparation import text_hash
from headrace.envelope import Change, Context, Operation, Trace
from headrace.errors import InvalidRecord
from headrace.payloads import DocumentFacts, SourceDocument
from headrace_chunker import handler as handler_module
from headrace_chunker.handler import ChunkerSettings, SectionsHandler, make_chunks
from headrace_chunker.identity import chunk_ids
from headrace_chunker.sections import sections
from headrace_chunker.splitter import chunk

pytestmark = pytest.mark.unit

MEDIA_TYPES = ("text/plain", "text/markdown", "text/x-rst")
WORDS = st.sampled_from(
    [
        "word",
        "한국어",
        "문장입니다.",
        "👩‍👩‍👧",
        "🇰🇷",
        "e\u0301",
        "\n",
        "\r\n",
        "\n\n",
        "# A\n",
        "Title\n=====\n",
        " ",
        "\t",
        "```\n",
        "----\n",
    ]
)
TEXTS = st.one_of(
    st.lists(WORDS, max_size=200).map("".join), st.text(st.characters(exclude_categories=["Cs"]), max_size=2000)
)


@given(TEXTS, st.sampled_from(MEDIA_TYPES))
@settings(max_examples=200, derandomize=True)
def test_sections_tile_the_text(text: str, media_type: str) -> None:
    """A gap would lose text, an overlap would index it twice."""
    end = 0
    for section in sections(text, media_type):
        assert section.start == end
        assert section.end > section.start
        end = section.end
    assert end == len(text)


@given(TEXTS, st.sampled_from(MEDIA_TYPES), st.integers(60, 500))
@settings(max_examples=200, derandomize=True)
def test_chunks_cover_the_text_within_the_limit(text: str, media_type: str, size: int) -> None:
    """A character that no chunk covers could never be found; a chunk over the limit would be cut by the model."""
    covered = bytearray(len(text))
    for piece in chunk(text, media_type, size=size, overlap=size // 10):
        part = text[piece.start : piece.end]
        assert part.strip()
        assert len(part) <= size
        covered[piece.start : piece.end] = b"\x01" * len(part)
    assert all(covered[i] for i, character in enumerate(text) if not character.isspace())


@given(TEXTS, TEXTS, TEXTS)
@settings(max_examples=50, derandomize=True)
def test_edit_of_one_section_leaves_the_chunks_of_others(before: str, old: str, new: str) -> None:
    """An edit that moved the chunks of other sections would have them embedded again for nothing."""
    before, old, new = (
        text.replace("#", "").replace("=", "").replace("-", "").replace("`", "") for text in (before, old, new)
    )
    one = f"# First\n\n{before}\n\n# Second\n\n{old}"
    two = f"# First\n\n{before}\n\n# Second\n\n{new}"
    first_of_one = [p for p in chunk(one, "text/markdown") if p.section == ("First",)]
    first_of_two = [p for p in chunk(two, "text/markdown") if p.section == ("First",)]
    assert first_of_one == first_of_two


@pytest.mark.parametrize(
    ("media_type", "text", "paths"),
    [
        ("text/markdown", "intro\n# A\nx\n## B\ny\n# C\nz", [(), ("A",), ("A", "B"), ("C",)]),
        ("text/markdown", "# A\n```\n# no heading\n```\n", [("A",)]),
        ("text/markdown", "a\u2028b\x0c\r\n\r\n# A\r\nx", [(), ("A",)]),
        ("text/markdown", "A\n=\n\nB\n-\n", [("A",), ("A", "B")]),
        ("text/x-rst", "Intro\n\nA\n====\n\nx\n\nB\n----\n\ny\n\nC\n====\n", [(), ("A",), ("A", "B"), ("C",)]),
        ("text/x-rst", "====\nTop\n====\n\nSub\n====\n\nx\n", [("Top",), ("Top", "Sub")]),
        ("text/x-rst", "a paragraph\nof two lines\n-----\n", [()]),
        ("text/x-rst", "x::\n\n    Literal\n    -------\n", [()]),
        ("text/x-rst", "=====  =====\na      b\n=====  =====\n", [()]),
        ("text/x-rst", "text\n\n-----\n\nmore\n", [()]),
        ("text/plain", 'The "if" statement\n******************\n\nbody', [('The "if" statement',)]),
    ],
)
def test_headings_are_recognised(media_type: str, text: str, paths: list[tuple[str, ...]]) -> None:
    """A chunk would carry the wrong section, or a code block would start one."""
    assert [section.path for section in sections(text, media_type)] == paths


def test_unknown_media_type_is_refused_by_name() -> None:
    """The dead letter must say which field is wrong and what would be right."""
    with pytest.raises(InvalidRecord, match=r"media_type.*text/markdown"):
        sections("x", "image/png")


def test_lone_surrogate_is_refused() -> None:
    """Text that UTF-8 cannot carry would break the encoder of the next stage."""
    with pytest.raises(InvalidRecord, match="content: contains a lone surrogate at character 1"):
        chunk("a\ud800", "text/plain")


def test_identities_ignore_the_ordinal_and_tell_repeats_apart() -> None:
    """Rows of untouched chunks keep their identity when something is inserted before them."""
    x, y, new = (text_hash(text) for text in ("x", "y", "new"))
    one = chunk_ids("t", "d", [(("A",), x), (("A",), y), (("A",), y)])
    two = chunk_ids("t", "d", [(("A",), new), (("A",), x), (("A",), y), (("A",), y)])
    assert len(set(one)) == 3
    assert set(one) < set(two)
    assert chunk_ids("t", "e", [(("A",), x)])[0] not in one
    assert chunk_ids("t", "d", [(("A", "x"), text_hash(""))]) != chunk_ids("t", "d", [(("A",), x)])
    assert len(x) == len(one[0]) == 16


def test_identities_are_those_of_the_rows_that_are_there() -> None:
    """Broken: a new release gives each chunk another identity, and every index is written again."""
    x, y = text_hash("x"), text_hash("y")
    assert [one.hex() for one in chunk_ids("t", "d", [(("A",), x), (("A", "B"), y), (("A",), x)])] == [
        "219c6f798c8659b69d394eb3c9ac9620",
        "b689c6d051c2f4ed1b00dadd8b769e2a",
        "26c47590fcdf7827aeddd14330423b0c",
    ]


def test_each_text_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: the chunker reads every text twice."""
    hashed: list[str] = []

    def count(text: str) -> bytes:
        hashed.append(text)
        return text_hash(text)

    monkeypatch.setattr(handler_module, "text_hash", count)
    document = SourceDocument(DocumentFacts("T", "text/markdown", bytes(16)), "# A\n\none\n\n# B\n\ntwo")
    chunks = make_chunks("t", "d", document, ChunkerSettings())
    assert hashed == [one.text for one in chunks]
    assert len(chunks) == 2


def test_handler_returns_chunks_with_offsets_into_the_source() -> None:
    """Citations point into the source by these offsets."""
    text = "# 제목\n\n" + "한국어 문장입니다. 👩‍👩‍👧 " * 100
    document = SourceDocument(DocumentFacts("t", "text/markdown", b"h" * 16), text)
    context = Context(
        Trace("r", "default", 1, datetime(2026, 1, 1, tzinfo=UTC)), Change("t", "d", 1, Operation.UPSERT), document
    )
    result = asyncio.run(SectionsHandler().process(context))
    assert result.metadata["chunker.chunks"] == len(result.payload.chunks) > 1
    for part in result.payload.chunks:
        assert part.text == text[part.start : part.end]
        assert part.section == ("제목",)
        assert part.text_hash == text_hash(part.text)
    assert result.payload.chunks == make_chunks("t", "d", document, ChunkerSettings())
