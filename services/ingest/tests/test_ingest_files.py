"""Real files of every kind: their text, sections, pages and language, as the document holds them."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import docx
import pytest

from headrace.errors import InvalidRecord
from headrace_ingest.files import blocks, kinds
from headrace_ingest.files.blocks import Block, Parsed
from headrace_ingest.files.reader import Limits, Reader
from headrace_testing import files

pytestmark = pytest.mark.unit

LIMITS = Limits(memory_mib=1024, timeout_s=30, max_pages=100, text_bytes=4 << 20)
KOREAN = "둘째 장의 본문은 한국어로 쓰여 있다."
FOUND_FILES = 20
"""Files found on this machine that a run reads; more would make it no better."""


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """A loop that the reader's process lives on from test to test."""
    with asyncio.Runner() as found:
        yield found


@pytest.fixture(scope="module")
def reader(runner: asyncio.Runner) -> Iterator[Reader]:
    """The real process that reads files."""
    found = Reader(LIMITS)
    yield found
    runner.run(found.close())


def read(runner: asyncio.Runner, reader: Reader, data: bytes, media_type: str | None = None, name: str = "") -> Parsed:
    """Return what the file holds, its kind told as the service tells it."""
    stated, charset = kinds.canonical(media_type)
    return runner.run(reader.read(data, kinds.kind_of(data, stated, name), charset))


def headings(text: str) -> list[str]:
    """Return the Markdown headings of a text."""
    return re.findall(r"^#+ .*$", text, re.MULTILINE)


def test_a_word_document_keeps_sections_lists_tables_and_letters(runner: asyncio.Runner, reader: Reader) -> None:
    """Passages would stand under the wrong heading, or be lost."""
    document = files.docx("연간 보고서")
    document.add_heading("Revenue", 1)
    document.add_paragraph("Revenue rose by 4 %.")
    document.add_paragraph("# no heading")
    table = document.add_table(2, 2)
    for row, column, text in ((0, 0, "Year"), (0, 1, "EUR | net"), (1, 0, "2025"), (1, 1, "1,000\n(audited)")):
        table.cell(row, column).text = text
    document.add_heading("비용", 2)
    document.add_paragraph("인건비", style="List Bullet")
    document.add_paragraph("임대료", style="List Bullet")
    document.add_paragraph("끝 🌊")
    document.sections[0].header.paragraphs[0].text = "CONFIDENTIAL"
    parsed = read(runner, reader, files.saved(document))
    assert parsed.title == "연간 보고서"
    assert headings(parsed.text) == ["# Revenue", "## 비용"]
    assert "Revenue rose by 4 %.\n\n\\# no heading\n" in parsed.text
    assert "| Year | EUR \\| net |\n| --- | --- |\n| 2025 | 1,000 (audited) |" in parsed.text
    assert parsed.text.endswith("## 비용\n\n- 인건비\n- 임대료\n\n끝 🌊\n")
    assert "CONFIDENTIAL" not in parsed.text
    assert parsed.pages == ()


def test_a_pdf_keeps_headings_pages_and_korean(runner: asyncio.Runner, reader: Reader) -> None:
    """A citation would name the wrong page; Korean text would be boxes."""
    body = "The quick brown fox jumps over the lazy dog near the river bank. " * 8
    parsed = read(
        runner, reader,
        files.pdf(
            [
                [("Heading1", "First chapter"), ("BodyText", f"{body}End of one.")],
                [("Heading1", "Second chapter"), ("korean", KOREAN), ("BodyText", body)],
                [("BodyText", f"{body}End of three.")],
            ],
            title="Foxes",
        ),
    )  # fmt: skip
    assert parsed.title == "Foxes"
    assert headings(parsed.text) == ["# First chapter", "# Second chapter"]
    assert KOREAN in parsed.text
    assert len(parsed.pages) == 3
    first, second, third = (
        parsed.text[start:end] for start, end in zip(parsed.pages, [*parsed.pages[1:], None], strict=True)
    )
    assert first.startswith("# First")
    assert first.rstrip().endswith("End of one.")
    assert second.startswith("# Second")
    assert third.rstrip().endswith("End of three.")


def test_the_cells_of_a_table_in_a_pdf_are_all_there(runner: asyncio.Runner, reader: Reader) -> None:
    """Figures of a report would be missing."""
    rows = [["Region", "Sales", "Growth"], *[[f"R{n}", str(n * 37), f"{n} %"] for n in range(1, 8)]]
    text = read(runner, reader, files.pdf_with_table(rows)).text
    assert [cell for row in rows for cell in row if cell not in text] == []


def test_a_page_without_text_takes_part_in_the_count(runner: asyncio.Runner, reader: Reader) -> None:
    """All pages after a drawing would be cited one too low."""
    text = "words on this page " * 20
    parsed = read(runner, reader, files.pdf([[("BodyText", text)], [("BodyText", "")], [("BodyText", f"last {text}")]]))
    assert len(parsed.pages) == 3
    assert parsed.text[parsed.pages[2] :].startswith("last")


HTML_PAGE = """<!doctype html><html lang="ko"><head><meta charset="{charset}"><title>안내 &amp; 도움</title>
<style>p {{ color: red }}</style><script>track()</script></head><body><h1>설치</h1>
<p>Read <a href="https://example.org/x?y=z">the manual</a>.<br>Second &lt;line&gt;.</p>
<pre><code>def f():

    return 1</code></pre><h2>표</h2><table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2|3</td></tr></table>
<ol><li>one<ul><li>inner</li></ul></li><li>two</li></ol><blockquote>Said.</blockquote>
<dl><dt>term</dt><dd>meaning</dd></dl><p># plain</p><p>끝</p></body></html>"""


@pytest.mark.parametrize("charset", ["utf-8", "euc-kr"])
def test_html_keeps_what_is_read_and_drops_what_is_not(runner: asyncio.Runner, reader: Reader, charset: str) -> None:
    """Scripts would be found by search, or Korean pages of the last decade be refused."""
    parsed = read(runner, reader, HTML_PAGE.format(charset=charset).encode(charset))
    assert (parsed.title, parsed.language) == ("안내 & 도움", "ko")
    assert headings(parsed.text) == ["# 설치", "## 표"]
    assert "Read the manual." in parsed.text
    assert "```\ndef f():\n\n    return 1\n```" in parsed.text
    assert "| 1 | 2\\|3 |" in parsed.text
    for words in ("1. one", "- inner", "2. two", "> Said.", "term", "meaning", "\\# plain", "끝", "Second"):
        assert words in parsed.text
    for noise in ("track()", "color: red", "example.org"):
        assert noise not in parsed.text


RESUME = {
    "basics": {"name": "김하나", "label": "Engineer", "summary": "Builds streams.",
               "location": {"city": "Seoul"}, "profiles": [{"network": "GitHub", "username": "hana"}]},
    "work": [{"name": "Acme", "position": "Lead", "startDate": "2020-01", "endDate": "2023-05",
              "summary": "Led a team.",
              "highlights": ["Cut costs", "Grew revenue"]}, {"name": "Beta", "position": "Developer"}],
    "education": [{"institution": "KAIST", "area": "Computing", "studyType": "BSc"}],
    "projects": [{"name": "Headrace", "description": "A stream.", "keywords": ["kafka"]}],
    "skills": [{"name": "Kafka", "level": "Master", "keywords": ["streams", "connect"]}],
    "languages": [{"language": "Korean", "fluency": "native"}],
}  # fmt: skip


def test_a_resume_becomes_a_section_for_each_part(runner: asyncio.Runner, reader: Reader) -> None:
    """Work, education and skills of a person would stand in one heap."""
    parsed = read(runner, reader, json.dumps(RESUME, ensure_ascii=False).encode(), "application/json")
    assert parsed.title == "김하나"
    assert headings(parsed.text) == [
        "# Basics", "## Location", "## Profiles", "### GitHub – hana", "# Work", "## Lead – Acme",
        "## Developer – Beta",
        "# Education", "## BSc – Computing – KAIST", "# Projects", "## Headrace", "# Skills", "## Kafka",
        "# Languages", "## Korean – native",
    ]  # fmt: skip
    assert "## Lead – Acme\n\n2020-01 – 2023-05\n\nLed a team.\n\n- Cut costs\n- Grew revenue\n" in parsed.text
    assert "## Headrace\n\nA stream.\n\n- kafka\n" in parsed.text
    values = ["Engineer", "Builds streams.", "Seoul", "Master", "streams", "connect"]
    assert [value for value in values if value not in parsed.text] == []


def test_web_pages_found_on_this_machine_are_read(runner: asyncio.Runner, reader: Reader) -> None:
    """What real pages hold would break the reader, or be made up by it."""
    places = {Path(sysconfig.get_paths()["stdlib"]), *(Path(one) for one in sys.path if one.endswith("site-packages"))}
    found = sorted({page for place in places for page in place.rglob("*.html")})[:FOUND_FILES]
    if not found:
        pytest.skip("this machine has no web pages beside its Python")
    read_pages = 0
    for path in found:
        data = path.read_bytes()
        try:
            parsed = read(runner, reader, data, "text/html")
        except InvalidRecord:  # a template without a word, or in an encoding that it does not name
            continue
        source = data.decode("utf-8", "replace")
        assert [word for word in re.findall(r"\b[a-zA-Z]{6,}\b", parsed.text)[:50] if word not in source] == [], path
        read_pages += 1
    assert read_pages >= len(found) / 2


def test_a_word_file_found_on_this_machine_is_read(runner: asyncio.Runner, reader: Reader) -> None:
    """A template of Word itself, empty as it is, must be refused for that reason and no other."""
    path = Path(docx.__file__).parent / "templates" / "default.docx"
    with pytest.raises(InvalidRecord, match="contains no text"):
        read(runner, reader, path.read_bytes())


@pytest.mark.parametrize(
    ("data", "stated", "name", "kind"),
    [
        (b"%PDF-1.7 x", "text/plain", "a.txt", kinds.PDF),
        (b"\n\n%PDF-1.7 x", None, "a.docx", kinds.PDF),
        (b"PK\x03\x04rest", "application/pdf", "a.pdf", kinds.DOCX),
        (b"\xef\xbb\xbf <!DOCTYPE HTML>\n<html>", None, "a", kinds.HTML),
        (b"<!-- note --><html lang=en>", "text/plain", "a.txt", kinds.HTML),
        (b"<p>fragment</p>", "text/html", "a", kinds.HTML),
        (b"<p>fragment</p>", None, "a.md", kinds.MARKDOWN),
        (b' {"basics": {}} \n', None, "cv", kinds.JSON),
        (b' {"basics": {}} \n', "text/plain", "cv", kinds.PLAIN),
        (b"# Title", None, "a.md", kinds.MARKDOWN),
        (b"Title\n=====", None, "a.rst", kinds.RESTRUCTURED),
        (b"# Title", "text/x-rst", "a.md", kinds.RESTRUCTURED),
        (b"A file begins with %PDF-1.7.", "text/markdown", "a.md", kinds.MARKDOWN),
        (b"MZ is how programs begin.", None, "a.md", kinds.MARKDOWN),
        ("\ufeffx".encode("utf-16"), None, "a.txt", kinds.PLAIN),
    ],
)
def test_the_kind_is_told_by_the_content(data: bytes, stated: str | None, name: str, kind: str) -> None:
    """A file with the wrong ending would be read as what it is not."""
    assert kinds.kind_of(data, stated, name) == kind


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is an empty file"),
        (b"\x89PNG\r\n\x1a\n", "is a PNG image"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is an old or encrypted Office file"),
        (b"\x00\x01\x02", "is neither text nor a known kind of file; it starts with 000102"),
        (b"{\\rtf1 x}", "is an RTF file"),
    ],
)
def test_a_kind_that_is_not_read_is_named(data: bytes, reason: str) -> None:
    """The sender would not know what to send instead."""
    with pytest.raises(InvalidRecord) as caught:
        kinds.kind_of(data, "text/plain", "a.txt")
    assert caught.value.reason.startswith(reason)


@pytest.mark.parametrize(
    ("data", "stated", "text"),
    [
        ("가나다".encode("euc-kr"), "euc-kr", "가나다"),
        ("가나다".encode("utf-16"), None, "가나다"),
        ("가나다".encode("utf-8-sig"), "euc-kr", "가나다"),
        *(
            ("a é".encode(name), name, "a é")
            for name in ("latin-1", "iso-8859-15", "cp1252", "windows-1252", "mac_roman")
        ),
        *(("가나다".encode(name), name, "가나다") for name in ("cp949", "johab", "iso2022_kr", "utf-16-le", "gb18030")),
        *(("日本".encode(name), name, "日本") for name in ("shift_jis", "euc_jp", "iso-2022-jp", "big5", "gbk")),
        ("да".encode("koi8-r"), "koi8-r", "да"),
        (b"plain", None, "plain"),
    ],
)
def test_text_is_decoded_by_mark_then_by_word(data: bytes, stated: str | None, text: str) -> None:
    """Korean text in its older encoding would come out as other letters."""
    assert kinds.decode(data, stated) == text


@pytest.mark.parametrize(
    ("data", "stated", "reason"),
    [
        (b"ab\xff", None, "is not utf-8: byte 2 is 0xff"),
        *(
            (b"ab", name, f"declares the encoding '{name}', which ingest does not support")
            for name in ("klingon", "zip", "punycode", "idna", "undefined", "utf-7", "unicode_escape", "rot13")
        ),
        (b"\xef\xbb\xbfab\xff", None, "is not utf-8-sig: byte 2 is 0xff"),
        ("한".encode("utf-16")[:-1], None, "is not utf-16: byte 2 is"),
    ],
)
def test_a_wrong_encoding_is_refused_and_never_guessed(data: bytes, stated: str | None, reason: str) -> None:
    """Text would be indexed as letters that nobody wrote."""
    with pytest.raises(InvalidRecord) as caught:
        kinds.decode(data, stated)
    assert caught.value.reason.startswith(reason)


def test_plain_text_in_a_block_begins_no_block_of_its_own() -> None:
    """A paragraph that begins with a # would become a section, and what follows a fence would be lost in it."""
    lines = "# a\n=====\n---\n```\n<script>\n<!-- x\n#hashtag\n- item"
    text, _ = blocks.write([Block(blocks.PARAGRAPH, lines), Block(blocks.HEADING, "two\nlines", level=9)])
    assert text == ("\\# a\n\\=====\n\\---\n\\```\n\\<script>\n\\<!-- x\n#hashtag\n- item\n\n###### two lines\n")


def test_pages_are_where_their_first_block_begins() -> None:
    """A citation would name the wrong page."""
    given = [
        Block(blocks.PARAGRAPH, "one", page=1),
        Block(blocks.PARAGRAPH, "two", page=3),
        Block(blocks.ITEM, "x", page=3),
    ]
    text, pages = blocks.write(given)
    assert [text[page : page + 3] for page in pages] == ["one", "two", "two"]
    assert blocks.write([Block(blocks.PARAGRAPH, "late", page=2)])[1] == (0, 0)


def test_the_kind_of_a_page_made_of_comments_is_told_in_time() -> None:
    """One event would keep its partition busy for ever: a comment can end at any later end."""
    data = b"<!---->" * 580
    begun = time.perf_counter()
    assert kinds.kind_of(data, None, "a") == kinds.PLAIN
    assert time.perf_counter() - begun < 1


def test_words_keep_their_signs() -> None:
    """C# would be another language in every résumé, and x<y no condition; a ruler would cost a good file its time."""
    words = "C# and F#, x<y, Kim <kim@example.org>, 010-1234-\n======= a\na ======="
    assert blocks.write([Block(blocks.PARAGRAPH, words)])[0] == f"{words}\n"
    begun = time.perf_counter()
    blocks.write([Block(blocks.PARAGRAPH, "-" * 200_000 + "x")])
    assert time.perf_counter() - begun < 1


def test_emphasis_does_not_stand_inside_numbers(runner: asyncio.Runner, reader: Reader) -> None:
    """Masking would not see a number of which half is bold."""
    page = "<html><b>010</b>-1234-5678, <i>kim</i>@example.com, 4111 <mark>1111</mark> <code>1111</code> 1111"
    text = read(runner, reader, page.encode()).text
    assert text == "010-1234-5678, kim@example.com, 4111 1111 1111 1111\n"


def test_pages_that_stand_in_a_form_or_a_header_are_read(runner: asyncio.Runner, reader: Reader) -> None:
    """Whole sites put all they say in one form."""
    page = "<html><header><h1>Policy</h1></header><nav>menu</nav><form><p>All of it <input value=x></p></form></html>"
    assert read(runner, reader, page.encode()).text == "# Policy\n\nAll of it\n"


def test_a_number_over_two_lines_of_a_pdf_stays_one(runner: asyncio.Runner, reader: Reader) -> None:
    """Masking would not see a telephone number that a line's end breaks."""
    lines = [("BodyText", "Call me on any day, early or late, at 010-1234-<br/>5678 and leave<br/>a word.")]
    assert "at 010-1234-5678 and leave a word." in read(runner, reader, files.pdf([lines])).text


def test_what_is_filled_in_a_form_of_a_pdf_is_read(runner: asyncio.Runner, reader: Reader) -> None:
    """An application would be indexed without its answers."""
    assert "FIELD VALUE" in read(runner, reader, files.pdf_with_field("FIELD VALUE")).text


def test_a_title_of_half_a_letter_is_repaired(runner: asyncio.Runner, reader: Reader) -> None:
    """The document would be dead-lettered behind the reader for what no schema can carry."""
    assert read(runner, reader, b'{"name": "a\\ud800", "text": "b"}').title == "a?"
