"""Headings agree with docutils, hostile text is split in time, sizes and offsets hold in every script."""

from __future__ import annotations

import json
import lzma
import re
import time
import tracemalloc
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest

from headrace.embeddings.preparation import text_hash
from headrace.errors import ConfigurationError
from headrace_chunker.identity import chunk_ids
from headrace_chunker.sections import Section, sections
from headrace_chunker.splitter import Piece, chunk, split

pytestmark = pytest.mark.unit

PEPS = Path(__file__).parents[4] / "shared" / "data" / "peps-changes.jsonl.xz"
SAMPLE = """PEP: 9999
Title: A sample
Author: A <a@example.com>,
        B <b@example.com>

========
Overline
========

.. note::
   An indented block
R
-

Text of two lines
which are a paragraph
---------------------

- bullet
--------

Literal::

    Not a title
    -----------

=====  =====
Left   Right
=====  =====
a      b
=====  =====

+----+----+
| a  | b  |
+----+----+

1. Enumerated
-------------

:field: not a title
-------------------

.. a comment
------------

Too short an underline
----

제목
--

제목
----

Next
~~~~

>>> x
-----

Back
----
"""


SAMPLE_PATHS = [
    ("Overline",),
    ("Overline", "R"),
    ("Overline", "1. Enumerated"),
    ("Overline", "Too short an underline"),
    ("Overline", "제목"),
    ("Overline", "제목", "Next"),
    ("Overline", "Back"),
]


def docutils_paths(text: str) -> list[tuple[str, ...]]:
    """Return the heading paths that docutils finds."""
    core = pytest.importorskip("docutils.core")
    nodes = pytest.importorskip("docutils.nodes")
    rst = pytest.importorskip("docutils.parsers.rst")
    settings = {
        "report_level": 5, "halt_level": 6, "_disable_config": True, "file_insertion_enabled": False,
        "raw_enabled": False, "doctitle_xform": False, "docinfo_xform": False, "warning_stream": False,
    }  # fmt: skip
    found: list[tuple[str, ...]] = []

    def walk(node: Any, path: tuple[str, ...]) -> None:
        for child in node.children:
            if isinstance(child, nodes.section):
                below = (*path, child[0].rawsource.strip())
                found.append(below)
                walk(child, below)
            elif not isinstance(child, nodes.Text):
                walk(child, path)

    walk(core.publish_doctree(text, parser=rst.Parser(rfc2822=True), settings_overrides=settings), ())
    return found


def our_paths(text: str) -> list[tuple[str, ...]]:
    """Return the heading paths that the scanner finds."""
    return [section.path for section in sections(text, "text/x-rst") if section.path]


def pep_texts(count: int, step: int) -> list[str]:
    """Return every ``step``-th of the first PEPs of the shared data."""
    if not PEPS.exists():
        pytest.skip(f"{PEPS.name} is not at hand; the committed sample is compared all the same")
    with lzma.open(PEPS, "rt", encoding="utf-8") as lines:
        return [json.loads(line)["content"] for line in islice(lines, 0, count * step, step)]


def test_headings_of_the_sample_are_those_of_docutils() -> None:
    """A paragraph, table, bullet or comment taken for a heading would put chunks in the wrong section."""
    assert our_paths(SAMPLE) == SAMPLE_PATHS
    assert docutils_paths(SAMPLE) == SAMPLE_PATHS


def test_headings_of_real_peps_are_those_of_docutils() -> None:
    """The line scanner stands in for docutils, 30 times as fast; it must find the same headings in real documents."""
    texts = pep_texts(60, 11)
    assert [our_paths(text) for text in texts] == [docutils_paths(text) for text in texts]


@pytest.mark.parametrize("underline", ["=", "==", "==="])
def test_plain_text_takes_no_short_adornment(underline: str) -> None:
    """Plain text is full of short rules; only four characters or more make a heading of the line above."""
    assert [s.path for s in sections(f"a\n{underline}\n", "text/plain")] == [()]
    assert [s.path for s in sections("a\n====\n", "text/plain")] == [("a",)]


@pytest.mark.parametrize("unit", ["x", "word ", "a\u0301", "👩‍👩‍👧", "가나다 ", "\u00a0", "["])
@pytest.mark.parametrize("media_type", ["text/plain", "text/markdown"])
def test_hostile_text_is_split_in_time(unit: str, media_type: str) -> None:
    """600,000 characters without a line end took seconds, growing with the square, and would stall the partition."""
    text = (unit * 600_000)[:600_000]
    start = time.process_time()
    pieces = chunk(text, media_type)
    assert time.process_time() - start < 3
    covered = bytearray(len(text))
    for piece in pieces:
        assert 0 < piece.end - piece.start <= 500
        covered[piece.start : piece.end] = b"\x01" * (piece.end - piece.start)
    assert all(text[gap.start() : gap.end()].isspace() for gap in re.finditer(rb"\x00+", covered))


def test_windows_meet_between_words() -> None:
    """A window's last chunk is cut off; kept, it would break a word and leave a stump."""
    text = "".join(f"word{number} " for number in range(20_000))
    pieces = chunk(text, "text/plain")
    assert all(text[piece.start - 1 : piece.start].isspace() or piece.start == 0 for piece in pieces)
    assert all(text[piece.end].isspace() for piece in pieces)
    assert all(0 <= one.end - two.start <= 50 for one, two in pairwise(pieces) if one.end > two.start)
    assert min(piece.end - piece.start for piece in pieces[:-1]) > 400


def test_edit_within_a_section_leaves_most_of_its_chunks() -> None:
    """Boundaries that never meet again after an insertion would have the rest of a long section embedded again."""
    paragraphs = ["".join(f"Word {n * k % 97} of {n}. " for k in range(8 + n * 7 % 23)) for n in range(80)]
    edited = [*paragraphs[:20], "A new paragraph. " * 9, *paragraphs[20:]]
    one, two = ("\n\n".join(parts) for parts in (paragraphs, edited))
    before, after = (
        chunk_ids("t", "d", [(p.section, text_hash(text[p.start : p.end])) for p in chunk(text, "text/plain")])
        for text in (one, two)
    )
    assert len(set(after) - set(before)) <= 5 < len(after) // 4


def test_split_takes_the_sections_it_is_given() -> None:
    """Another source of sections (a page, a résumé's field) must be split by the same rules."""
    text = "alpha beta\n\n   \n\ngamma"
    parts = (Section(("A",), 0, 12), Section(("B",), 12, 17), Section(("C",), 17, 22))
    assert split(text, parts) == (Piece(("A",), 0, 10), Piece(("C",), 17, 22))


@pytest.mark.parametrize(("size", "overlap"), [(50, 50), (50, 60), (0, 0), (50, -1)])
def test_impossible_sizes_are_refused(size: int, overlap: int) -> None:
    """A chunk that shares all of itself with its predecessor would never end."""
    with pytest.raises(ConfigurationError, match=rf"invalid overlap {overlap} for chunks of {size}"):
        chunk("text", "text/plain", size=size, overlap=overlap)


ROWS = "\n".join(["| name | value |", "| --- | --- |", *[f"| name {row} | value {row} |" for row in range(8)]])
CODE = "```py\n" + "\n\n".join(f"def f{number}():\n    return {number}" for number in range(6)) + "\n```"
WORDS = "Words that fill the part before it. "


@pytest.mark.parametrize("block", [ROWS, CODE])
@pytest.mark.parametrize("before", range(0, 14, 3))
@pytest.mark.parametrize("media_type", ["text/markdown", "application/pdf"])
def test_a_table_and_code_stand_whole_in_one_chunk(block: str, before: int, media_type: str) -> None:
    """Half a table would be found without its head, and half a function without its end."""
    text = f"# Part\n\n{WORDS * before}\n\n{block}\n\n{WORDS * 20}\n\n# Next\n\n{block}\n"
    pieces = [text[piece.start : piece.end] for piece in chunk(text, media_type, size=400, overlap=40)]
    assert sum(block in piece for piece in pieces) == 2
    assert max(map(len, pieces)) <= 400
    covered = "".join(pieces)
    assert [word for word in set(text.split()) if word not in covered] == []


def test_a_table_larger_than_a_chunk_is_cut_like_text() -> None:
    """A report of one table would become one chunk that no model takes."""
    text = f"# Part\n\n{ROWS * 30}\n"
    assert all(piece.end - piece.start <= 300 for piece in chunk(text, "text/markdown", size=300, overlap=30))


def test_many_blocks_take_time_in_proportion() -> None:
    """A document of small tables would hold up its partition: each block splits what follows anew."""
    block = "| a | b |\n| - | - |\n" + "| 1 | 2 |\n" * 36
    times = []
    for count in (200, 800):
        begun = time.perf_counter()
        chunk(f"{block}\n{WORDS}\n" * count, "text/markdown")
        times.append(time.perf_counter() - begun)
    assert times[1] < times[0] * 12


def test_hostile_tables_take_neither_time_nor_memory() -> None:
    """A few kilobytes of table would take gigabytes: one short row counts as all of its columns."""
    table = f"|{'a|' * 500}\n|{'-|' * 500}\n" + "|a|\n" * 130
    text = f"{table}\n" * 200
    tracemalloc.start()
    try:
        begun = time.perf_counter()
        chunk(text, "text/markdown")
        assert time.perf_counter() - begun < 10
        assert tracemalloc.get_traced_memory()[1] < 100 * len(text)
    finally:
        tracemalloc.stop()
