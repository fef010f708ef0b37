"""A file's bytes into its title, text, language and pages; runs in the confined process only.

HTML becomes Markdown by html-to-markdown, a PDF's lines come from PDFium; DOCX and JSON are walked through here.
"""

from __future__ import annotations

import encodings
import importlib
import json
import pkgutil
import re
from typing import Any

import html_to_markdown

from headrace.errors import InvalidRecord
from headrace_ingest.files import blocks, json_blocks, kinds, pdf, word
from headrace_ingest.files.blocks import Parsed
from headrace_ingest.files.samples import samples

_WINDOWS_ONLY = ("mbcs", "oem")
_TAG = re.compile(r"[A-Za-z]{2,3}(?:-[A-Za-z0-9]{1,8}){0,4}")


def load() -> None:
    """Load what reading needs: the confined process opens no file any more."""
    for module in pkgutil.iter_modules(encodings.__path__):
        if module.name not in _WINDOWS_ONLY:
            importlib.import_module(f"encodings.{module.name}")
    for kind, data in samples().items():
        parse(data, kind, None, 1)


def answer(head: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return what the file holds as an answer's head and text, or the reason why it cannot be had."""
    try:
        parsed = parse(data, head["kind"], head.get("charset"), head["max_pages"])
    except InvalidRecord as error:
        return {"error": error.reason, "remedy": error.remedy}, b""
    except RecursionError:
        return {"error": "nests too deep to be read"}, b""
    found = {"title": parsed.title, "language": parsed.language, "pages": parsed.pages}
    return found, parsed.text.encode("utf-8", "replace")


def parse(data: bytes, kind: str, charset: str | None, max_pages: int) -> Parsed:
    """Return the file's text; raises :class:`InvalidRecord` with the reason where it cannot be had."""
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
            "data", "holds no text, as a scan does", remedy="Send it with its text recognised (OCR), or leave it out."
        )
    return parsed


def _html(text: str) -> Parsed:
    found = html_to_markdown.convert(text).metadata.document
    return Parsed((found.title or "").strip(), _markdown(text), _language(found.language))


def _markdown(html: str) -> str:
    # Tables without padding: a longer cell would change every row, and with it every chunk.
    options = html_to_markdown.ConversionOptions(
        extract_metadata=False, skip_images=True, strip_tags=["a"], compact_tables=True
    )
    return str(html_to_markdown.convert(html, options).content or "")


def _json(text: str) -> Parsed:
    try:
        title, found = json_blocks.blocks_of(json.loads(text))
    except json.JSONDecodeError as error:
        raise InvalidRecord("data", f"is no JSON: {error.msg} at line {error.lineno}, column {error.colno}") from error
    except ValueError as error:
        raise InvalidRecord("data", str(error)) from error
    return Parsed(title, blocks.write(found)[0])


def _word(data: bytes) -> Parsed:
    title, language, found = word.read(data)
    return Parsed(title, blocks.write(found)[0], _language(language))


def _pdf(data: bytes, max_pages: int) -> Parsed:
    title, language, found, count = pdf.read(data, max_pages)
    text, pages = blocks.write(found)
    rest = (len(text),) * (count - len(pages)) if text else ()
    return Parsed(title, text, _language(language), (*pages, *rest))


def _language(tag: str | None) -> str | None:
    """Return a language tag in BCP 47's form, None for what is none."""
    tag = (tag or "").strip().replace("_", "-")
    return tag if _TAG.fullmatch(tag) else None
