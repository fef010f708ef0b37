"""Converts a PDF to blocks with PDFium: finds headings by font size and paragraphs by the space between lines."""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pypdfium2
import pypdfium2.raw as pdfium

from headrace.errors import InvalidRecord
from headrace_ingest.files.blocks import HEADING, PARAGRAPH, Block

_LARGER = 1.15
"""A line is a heading if its font is at least this many times larger than that of most of the text."""
_HEADING_CHARACTERS = 200
_LEVELS = 6
_APART = 1.6
"""Lines that are further apart than this many times their height are separate paragraphs."""
_JOINED = 0x02
"""PDFium's marker where it joined a word that was broken at a line end."""
_FORM_AS_SHOWN = 0
"""FLAT_NORMALDISPLAY: the contents of form fields become part of the page."""
_PASSWORD = 4
"""FPDF_ERR_PASSWORD."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a page: its text, the font size of its first letter in points, and its lower edge on the page."""

    text: str
    size: float
    bottom: float
    page: int


def read(data: bytes, max_pages: int) -> tuple[str, str | None, list[Block], int]:
    """Return title, language, blocks and the number of pages; raises :class:`InvalidRecord` with the reason."""
    document = _opened(data)
    count = len(document)
    if count > max_pages:
        raise InvalidRecord(
            "data", f"has {count} pages; the limit is {max_pages}",
            remedy="Split the document, or raise HEADRACE_INGEST_FILE_MAX_PAGES.",
        )  # fmt: skip
    lines = [line for number in range(count) for line in _lines(document, number)]
    return _title(document), _language(document), list(blocks_of(lines)), count


def _opened(data: bytes) -> pypdfium2.PdfDocument:
    try:
        return pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if error.err_code == _PASSWORD:
            raise InvalidRecord("data", "requires a password", remedy="Save it without a password.") from error
        raise InvalidRecord("data", f"is a broken PDF: {error}", remedy="Open it and save it again.") from error


def blocks_of(lines: Sequence[Line]) -> Iterator[Block]:
    """Yield headings and paragraphs; the largest headings have level 1, the next largest level 2; pure."""
    weights: Counter[float] = Counter()
    for line in lines:
        weights[line.size] += len(line.text)
    body = weights.most_common(1)[0][0] if weights else 0.0
    larger = sorted({line.size for line in lines if _is_heading(line, body)}, reverse=True)[:_LEVELS]
    levels = {size: level for level, size in enumerate(larger, 1)}
    open_lines: list[Line] = []
    for line in lines:
        if open_lines and not _goes_on(open_lines[-1], line, levels):
            yield _block(open_lines, levels)
            open_lines = []
        open_lines.append(line)
    if open_lines:
        yield _block(open_lines, levels)


def _is_heading(line: Line, body: float) -> bool:
    return line.size >= body * _LARGER and len(line.text) <= _HEADING_CHARACTERS


def _goes_on(before: Line, line: Line, levels: dict[float, int]) -> bool:
    """Return whether the line continues the block of the line before it."""
    if line.page != before.page or levels.get(line.size) != levels.get(before.size):
        return False
    return 0 <= before.bottom - line.bottom <= _APART * max(line.size, before.size)


def _block(lines: Sequence[Line], levels: dict[float, int]) -> Block:
    first = lines[0]
    text = _run_on(line.text for line in lines)
    if first.size in levels and len(text) <= _HEADING_CHARACTERS:
        return Block(HEADING, text, level=levels[first.size], page=first.page)
    return Block(PARAGRAPH, text, page=first.page)


def _run_on(lines: Iterable[str]) -> str:
    """Join the lines of a paragraph. After a hyphen there is no space, because numbers can continue there."""
    text = ""
    for line in lines:
        text += line if not text or text.endswith("-") else f" {line}"
    return text


def _lines(document: pypdfium2.PdfDocument, number: int) -> Iterator[Line]:
    page = document[number]
    pdfium.FPDFPage_Flatten(page, _FORM_AS_SHOWN)
    page.close()
    page = document[number]
    textpage = page.get_textpage()
    try:
        units: list[int] = []
        first = -1
        for index in range(textpage.count_chars()):
            unit = pdfium.FPDFText_GetUnicode(textpage, index)
            if unit == _JOINED:
                continue
            if unit not in (0x0A, 0x0D):
                if first < 0 and unit != 0x20:
                    first = index
                units.append(unit)
            elif units:
                yield from _line(textpage, units, first, number + 1)
                units, first = [], -1
        if units:
            yield from _line(textpage, units, first, number + 1)
    finally:
        textpage.close()
        page.close()


def _line(textpage: pypdfium2.PdfTextPage, units: Sequence[int], first: int, page: int) -> Iterator[Line]:
    if first < 0:
        return
    text = "".join(chr(unit) if unit <= 0x10FFFF else "\ufffd" for unit in units)
    # PDFium can return a character as a surrogate pair; join it. A lone surrogate is not a character.
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").strip()
    if text:
        size = round(pdfium.FPDFText_GetFontSize(textpage, first) * _scale(textpage, first), 1)
        yield Line(text, size, textpage.get_charbox(first, loose=True)[1], page)


def _scale(textpage: pypdfium2.PdfTextPage, index: int) -> float:
    """Return the factor by which the page scales the font of a letter."""
    matrix = pdfium.FS_MATRIX()
    if not pdfium.FPDFText_GetMatrix(textpage, index, ctypes.byref(matrix)):
        return 1.0
    return float((matrix.c**2 + matrix.d**2) ** 0.5) or 1.0


def _title(document: pypdfium2.PdfDocument) -> str:
    """Return the document's title, without the words that PDF writers put there if there is none."""
    title = _wide(lambda buffer, size: pdfium.FPDF_GetMetaText(document, b"Title", buffer, size)).strip()
    return "" if title.lower() in ("", "untitled", "(anonymous)", "(unspecified)") else title


def _language(document: pypdfium2.PdfDocument) -> str | None:
    cast = ctypes.POINTER(pdfium.FPDF_WCHAR)
    return _wide(lambda buffer, size: pdfium.FPDFCatalog_GetLanguage(document, ctypes.cast(buffer, cast), size)) or None


def _wide(read: Callable[[Any, int], int]) -> str:
    """Return a text that PDFium writes to a buffer as UTF-16; lone surrogates become replacement characters."""
    size = read(None, 0)
    if size <= 2:
        return ""
    buffer = ctypes.create_string_buffer(size)
    read(buffer, size)
    return buffer.raw[: size - 2].decode("utf-16-le", "replace")
