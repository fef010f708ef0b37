"""Detects the kind of a file by its bytes. The stated media type decides only between kinds of plain text."""

from __future__ import annotations

import codecs
import re
from pathlib import PurePosixPath

from headrace.errors import InvalidRecord

PDF = "application/pdf"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
HTML = "text/html"
JSON = "application/json"
PLAIN, MARKDOWN, RESTRUCTURED = "text/plain", "text/markdown", "text/x-rst"
TEXTS = (PLAIN, MARKDOWN, RESTRUCTURED)
"""Kinds whose text stays unchanged."""
PARSED = (PDF, DOCX, HTML, JSON)
"""Kinds whose text is extracted and written as Markdown."""
UNTOLD = ("application/octet-stream", "application/zip", "binary/octet-stream")
"""Media types that say nothing about a file; its bytes decide."""
LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?:-[A-Za-z0-9]{1,8}){0,4}")
"""A BCP 47 language tag."""
_ALIASES = {
    "text/x-markdown": MARKDOWN,
    "text/rst": RESTRUCTURED,
    "text/prs.fallenstein.rst": RESTRUCTURED,
    "application/xhtml+xml": HTML,
    "text/json": JSON,
    "application/x-pdf": PDF,
}
_BY_ENDING = {".md": MARKDOWN, ".markdown": MARKDOWN, ".rst": RESTRUCTURED, ".rest": RESTRUCTURED}
_HTML = re.compile(
    rb"(?>\s|<!--(?:(?!-->).)*-->|<\?xml[^>]*>)*+<(?:!doctype\s+html|html|head|body)[\s>]", re.IGNORECASE | re.DOTALL
)
_OBJECT = re.compile(rb"(?:\xef\xbb\xbf)?\s*\{\s*[\"}]")
_SEEN = 4096
"""Bytes at the start of a file to detect its kind from."""
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
          (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))  # fmt: skip
_META = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]{1,40})", re.IGNORECASE)
_OTHERS = (
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old or encrypted Office file", "Save it as DOCX without a password."),
    (b"\x89PNG", "a PNG image", ""), (b"\xff\xd8\xff", "a JPEG image", ""), (b"GIF8", "a GIF image", ""),
    (b"\x1f\x8b", "packed with gzip", "Unpack it."), (b"7z\xbc\xaf", "a 7z archive", "Unpack it."),
    (b"Rar!", "a RAR archive", "Unpack it."), (b"\x7fELF", "a program", ""), (b"MZ", "a program", ""),
    (b"{\\rtf", "an RTF file", "Save it as DOCX."),
)  # fmt: skip


def canonical(media_type: str | None) -> tuple[str | None, str | None]:
    """Return the media type under its usual name, and its charset; None for a missing part."""
    if media_type is None:
        return None, None
    name, _, rest = media_type.partition(";")
    name = name.strip().lower()
    charset = re.search(r"(?:^|;)\s*charset\s*=\s*\"?([A-Za-z0-9_.:-]{1,40})", rest, re.IGNORECASE)
    return _ALIASES.get(name, name) or None, charset[1].lower() if charset else None


def by_ending(name: str) -> str:
    """Return the kind of text for a name's extension, text/plain for any other extension."""
    return _BY_ENDING.get(PurePosixPath(name).suffix.lower(), PLAIN)


def kind_of(data: bytes, stated: str | None, name: str, charset: str | None = None) -> str:
    """Return the media type of a file's bytes.

    ``stated`` (a canonical media type) and ``name`` decide between kinds of text, which look the same. Raises
    :class:`InvalidRecord` for an empty file or an unsupported kind.
    """
    if not data:
        raise InvalidRecord("data", "is an empty file")
    head = data[:_SEEN]
    if head.startswith(b"%PDF-") or (stated not in TEXTS and b"%PDF-" in head[:1024]):
        return PDF
    if head.startswith(b"PK\x03\x04"):
        return DOCX
    for magic, what, remedy in _OTHERS:
        if head.startswith(magic) and (b"\x00" in head or not magic.isascii() or magic.startswith(b"{")):
            raise InvalidRecord("data", f"is {what}, which ingest does not support", remedy=remedy or _KNOWN)
    if _HTML.match(head.removeprefix(codecs.BOM_UTF8)) or (stated == HTML and b"<" in head):
        return HTML
    if b"\x00" in head and not encoding_of(head, charset).startswith(("utf-16", "utf-32")):
        raise InvalidRecord(
            "data", f"is neither text nor a known kind of file; it starts with {data[:8].hex()}", remedy=_KNOWN
        )
    if stated == JSON or (stated not in TEXTS and _OBJECT.match(head) and data.rstrip().endswith(b"}")):
        return JSON
    return stated if stated in TEXTS else by_ending(name)


_KNOWN = "Send PDF, DOCX, HTML, JSON, Markdown, reStructuredText or plain text."


def encoding_of(data: bytes, stated: str | None) -> str:
    """Return the encoding of a text: by its byte order mark, else the stated one, else UTF-8."""
    for mark, name in _MARKS:
        if data.startswith(mark):
            return name
    return stated or "utf-8"


def decode(data: bytes, stated: str | None, *, html: bool = False) -> str:
    """Return the text without its byte order mark. An HTML file may name its encoding itself.

    Raises :class:`InvalidRecord` that names encoding and byte. Encodings are never guessed.
    """
    if html and stated is None and (meta := _META.search(data[:_SEEN])):
        stated = meta[1].decode("ascii").lower()
    encoding = encoding_of(data, stated)
    if not _is_read(encoding):
        raise InvalidRecord(
            "data", f"declares the encoding {encoding!r}, which ingest does not support", remedy=_CHARSET
        )
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        reason = f"is not {encoding}: byte {error.start} is 0x{error.object[error.start]:02x}"
        raise InvalidRecord("data", reason, remedy=_CHARSET) from error


def _is_read(encoding: str) -> bool:
    """Return whether Python has the encoding as a character encoding; other codecs can take hours or return no text."""
    try:
        return _ENCODINGS.fullmatch(codecs.lookup(encoding).name) is not None
    except LookupError:
        return False


_ENCODINGS = re.compile(
    r"ascii|utf-?8(?:-sig)?|utf-?(?:16|32)(?:-[lb]e)?|(?:iso8859|cp|mac|koi8)[-_]?[a-z0-9]+|euc_(?:kr|jp|jisx0213|jis_2004)|"
    r"johab|shift_jis[x0-9_]*|iso2022_(?:kr|jp[_0-9a-z]*)|gb2312|gbk|gb18030|big5(?:hkscs)?|hz|tis-620|viscii|latin[-_]?1"
)
"""Names of Python's codecs that decode bytes to characters in linear time."""


_CHARSET = "Save it as UTF-8, or name its encoding in the media type: text/plain; charset=euc-kr."
