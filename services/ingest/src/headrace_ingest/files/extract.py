"""Extracts title, text, language and pages from a file's bytes; runs only in the confined process.

html-to-markdown converts HTML, and PDFium reads the lines of a PDF. This package walks through DOCX and JSON itself.
"""

from __future__ import annotations

import encodings
import importlib
import json
import pkgutil
from collections import Counter
from typing import Any

import html_to_markdown

from headrace.errors import InvalidRecord
from headrace_ingest.files import blocks, json_blocks, kinds, pdf, word
from headrace_ingest.files.blocks import Parsed
from headrace_ingest.files.samples import samples

_WINDOWS_ONLY = ("mbcs", "oem")
_INLINE = [
    "a", "abbr", "b", "cite", "code", "del", "dfn", "em", "font", "i", "ins", "kbd", "mark", "q", "s", "samp", "small",
    "span", "strong", "sub", "sup", "tt", "u", "var",
]  # fmt: skip
"""Inline elements to remove; their text stays."""
_UNREAD = ["nav", "script", "style", "template", "noscript"]


def load() -> None:
    """Load everything that reading needs, because the confined process cannot open files."""
    for module in pkgutil.iter_modules(encodings.__path__):
        if module.name not in _WINDOWS_ONLY:
            importlib.import_module(f"encodings.{module.name}")
    for kind, data in samples().items():
        parse(data, kind, None, 1)


def answer(head: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the file's contents as the answer's head and text, or a head with the error."""
    try:
        parsed = parse(data, head["kind"], head.get("charset"), head["max_pages"])
    except InvalidRecord as error:
        return {"error": error.reason, "remedy": error.remedy}, b""
    except RecursionError:
        return {"error": "is nested too deeply to read"}, b""
    title = parsed.title.encode("utf-8", "replace").decode()
    found = {"title": title, "language": parsed.language, "pages": parsed.pages}
    return found, parsed.text.encode("utf-8", "replace")


def parse(data: bytes, kind: str, charset: str | None, max_pages: int) -> Parsed:
    """Return the file's text; raises :class:`InvalidRecord` with the reason if there is none."""
    match kind:
        case kinds.HTML:
            parsed = _html(kinds.decode(data, charset, html=True))
        case kinds.JSON:
            parsed = _json(kinds.decode(data, charset))
        case kinds.DOCX:
            parsed = _word(data)
        case _:
            parsed = _pdf(data, max_pages)
    if not parsed.text.strip():
        raise InvalidRecord(
            "data",
            "contains no text; it may be a scan",
            remedy="Add the text with OCR and send the document again, or leave it out.",
        )
    return parsed


def _html(text: str) -> Parsed:
    found = html_to_markdown.convert(text).metadata.document
    return Parsed((found.title or "").strip(), _markdown(text), _language(found.language))


def _markdown(html: str) -> str:
    # No padding in tables: a longer cell would change every row and every chunk. No inline elements: they could split
    # numbers and addresses, and masking would miss those.
    options = html_to_markdown.ConversionOptions(
        extract_metadata=False, skip_images=True, compact_tables=True, strip_tags=_INLINE, exclude_selectors=_UNREAD,
        preprocessing=html_to_markdown.PreprocessingOptions(
            enabled=False, remove_forms=False, remove_navigation=False
        ),
    )  # fmt: skip
    return str(html_to_markdown.convert(html, options).content or "")


def _json(text: str) -> Parsed:
    try:
        title, found = json_blocks.blocks_of(json.loads(text, object_pairs_hook=_once))
    except json.JSONDecodeError as error:
        raise InvalidRecord("data", f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from error
    except ValueError as error:
        raise InvalidRecord("data", str(error)) from error
    return Parsed(title, blocks.write(found)[0])


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object; raises ValueError for a repeated key, because one of the two values would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"contains the key {twice[:60]!r} twice in one object")
    return found


def _word(data: bytes) -> Parsed:
    title, language, found = word.read(data)
    return Parsed(title, blocks.write(found)[0], _language(language))


def _pdf(data: bytes, max_pages: int) -> Parsed:
    title, language, found, count = pdf.read(data, max_pages)
    text, pages = blocks.write(found)
    rest = (len(text),) * (count - len(pages)) if text else ()
    return Parsed(title, text, _language(language), (*pages, *rest))


def _language(tag: str | None) -> str | None:
    """Return the language tag in BCP 47 form, or None if it is invalid."""
    tag = (tag or "").strip().replace("_", "-")
    return tag if kinds.LANGUAGE.fullmatch(tag) else None
