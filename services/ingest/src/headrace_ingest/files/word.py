"""Converts a DOCX file to blocks: paragraphs by their styles, tables by their cells, notes at the end.

It reads all text in the body, including content controls, links, text boxes and insertions, but not deleted text,
headers or footers. ECMA-376, part 1, chapter 17 defines the elements.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lxml import etree

from headrace.errors import InvalidRecord
from headrace_ingest.files.blocks import CODE, HEADING, ITEM, PARAGRAPH, TABLE, Block

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_STRICT = b"http://purl.oclc.org/ooxml/wordprocessingml/main"
_DUBLIN_CORE = "{http://purl.org/dc/elements/1.1/}"
_BODY, _STYLES, _PROPERTIES = "word/document.xml", "word/styles.xml", "docProps/core.xml"
_NOTES = ("word/footnotes.xml", "word/endnotes.xml")
_HEADING = re.compile(r"heading ([1-9])")
_CODE = re.compile(r"macro|html preformatted|.*\bcode\b.*")
_TEXTS = {f"{_W}t", f"{_W}tab", f"{_W}br", f"{_W}cr", f"{_W}noBreakHyphen"}
_GAPS = {f"{_W}tab": "\t", f"{_W}br": "\n", f"{_W}cr": "\n", f"{_W}noBreakHyphen": "-"}
_STRUCK = (f"{_W}del", f"{_W}moveFrom")
_DOUBLED = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
"""The alternative for older programs; it repeats the content before it."""
_WIDEST_SPAN = 63
"""Maximum columns of a table in Word."""
_REMEDY = "Open it in a word processor and save it again."


@dataclass(frozen=True, slots=True)
class Style:
    """The kind of block, and for headings the level, that a paragraph style stands for."""

    kind: str
    level: int = 0


def read(data: bytes) -> tuple[str, str | None, list[Block]]:
    """Return title, language and blocks; raises :class:`InvalidRecord` with the reason."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if _BODY not in archive.namelist():
                raise InvalidRecord(
                    "data", f"is a zip file without {_BODY}, so it is not DOCX", remedy="Save it as DOCX."
                )
            parts = {name: _tree(archive, name) for name in (_BODY, _STYLES, _PROPERTIES, *_NOTES)}
    except (zipfile.BadZipFile, etree.XMLSyntaxError, ValueError, NotImplementedError, EOFError, RuntimeError) as error:
        reason = f"is a DOCX that cannot be read: {(str(error) or type(error).__name__)[:300]}"
        raise InvalidRecord("data", reason, remedy=_REMEDY) from error
    if next(parts[_BODY].iter(f"{_W}altChunk"), None) is not None:
        raise InvalidRecord("data", "embeds another document, which ingest does not support", remedy=_REMEDY)
    properties, styles = parts[_PROPERTIES], _styles(parts[_STYLES])
    title = _stated(properties, "title")
    found = list(_joined(_blocks(parts[_BODY], styles)))
    for name in _NOTES:
        found += _notes(parts[name])
    return ("" if title == "Word Document" else title), _stated(properties, "language") or None, found


def _tree(archive: zipfile.ZipFile, name: str) -> Any:
    """Return a part's root element, or None if the file lacks the part. Entities are not resolved."""
    if name not in archive.namelist():
        return None
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True)
    return etree.fromstring(archive.read(name).replace(_STRICT, _W[1:-1].encode()), parser)


def _stated(properties: Any, name: str) -> str:
    return "" if properties is None else (properties.findtext(f"{_DUBLIN_CORE}{name}") or "").strip()


def _styles(root: Any) -> Mapping[str, Style]:
    """Return the styles by style ID."""
    found = {}
    for style in () if root is None else root.iter(f"{_W}style"):
        name = _value(style.find(f"{_W}name")).lower()
        outline = style.find(f"{_W}pPr/{_W}outlineLvl")
        heading = _HEADING.fullmatch(name)
        if name == "title":
            made = Style(HEADING, 1)
        elif heading or outline is not None:
            made = Style(HEADING, int(heading[1]) if heading else int(_value(outline) or 0) + 1)
        elif name.startswith("list") or style.find(f"{_W}pPr/{_W}numPr") is not None:
            made = Style(ITEM)
        else:
            made = Style(CODE) if _CODE.fullmatch(name) else Style(PARAGRAPH)
        found[style.get(f"{_W}styleId") or ""] = made
    return found


def _value(element: Any) -> str:
    return "" if element is None else str(element.get(f"{_W}val") or "")


def _blocks(parent: Any, styles: Mapping[str, Style]) -> Iterator[Block]:
    """Yield paragraphs and tables below an element in order, including content controls and text boxes."""
    for child in parent:
        if child.tag == f"{_W}p":
            yield _paragraph(child, styles)
            for box in child.iter(f"{_W}txbxContent"):
                if not _is_below(box, (_DOUBLED, *_STRUCK)):
                    yield from _blocks(box, styles)
        elif child.tag == f"{_W}tbl":
            yield Block(TABLE, rows=[_row(row) for row in child.iter(f"{_W}tr") if _table_of(row) is child])
        elif isinstance(child.tag, str) and child.tag not in (*_STRUCK, _DOUBLED):
            yield from _blocks(child, styles)


def _paragraph(element: Any, styles: Mapping[str, Style]) -> Block:
    style = styles.get(_value(element.find(f"{_W}pPr/{_W}pStyle")), Style(PARAGRAPH))
    outline = element.find(f"{_W}pPr/{_W}outlineLvl")
    if outline is not None and _value(outline) in tuple("012345678"):
        style = Style(HEADING, int(_value(outline)) + 1)
    elif style.kind == PARAGRAPH and element.find(f"{_W}pPr/{_W}numPr") is not None:
        style = Style(ITEM)
    return Block(style.kind, _text(element), level=style.level)


def _text(element: Any) -> str:
    """Return the text of a paragraph, without the text boxes in it."""
    outside = (*_STRUCK, _DOUBLED, f"{_W}txbxContent")
    found = (part for part in element.iter(*_TEXTS) if not _is_below(part, outside, element))
    return "".join(_GAPS.get(part.tag) or _words(part) for part in found)


def _words(text: Any) -> str:
    """Return an element's text, including the text after comments and processing instructions, without entities."""
    return (text.text or "") + "".join(inside.tail or "" for inside in text)


def _is_below(element: Any, tags: tuple[str, ...], top: Any = None) -> bool:
    """Return whether the element has an ancestor with one of the tags, below ``top``."""
    above = element.getparent()
    while above is not None and above is not top:
        if above.tag in tags:
            return True
        above = above.getparent()
    return False


def _table_of(row: Any) -> Any:
    return next(row.iterancestors(f"{_W}tbl"))


def _row(row: Any) -> list[str]:
    """Return a row's cells. Empty cells follow a cell that spans columns; nested tables become the cell's text."""
    found = []
    for cell in row.iter(f"{_W}tc"):
        if next(cell.iterancestors(f"{_W}tr")) is not row:
            continue
        words = [_text(part) for part in cell.iter(f"{_W}p") if not _is_below(part, (*_STRUCK, _DOUBLED), cell)]
        span = _value(cell.find(f"{_W}tcPr/{_W}gridSpan"))
        found += ["\n".join(words), *[""] * (min(int(span), _WIDEST_SPAN) - 1 if span.isdecimal() else 0)]
    return found


def _joined(found: Iterator[Block]) -> Iterator[Block]:
    """Yield the blocks, with consecutive lines of code joined to one block."""
    code: list[str] = []
    for block in found:
        if block.kind == CODE:
            code.append(block.text)
            continue
        if code:
            yield Block(CODE, "\n".join(code))
            code = []
        yield block
    if code:
        yield Block(CODE, "\n".join(code))


def _notes(root: Any) -> list[Block]:
    if root is None:
        return []
    notes = [note for note in root if note.get(f"{_W}type") in (None, "normal")]
    return [Block(PARAGRAPH, _text(paragraph)) for note in notes for paragraph in note.iter(f"{_W}p")]
