"""Prepared texts: the text template filled in for a chunk, and the key of its vector.

Pure. It is in the core because the embedder and a replay's estimate need the same keys. A generation of the index has
one :class:`Preparation`; another preparation requires another generation.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import NamedTuple

from headrace.errors import ConfigurationError
from headrace.payloads import Chunk, ChunkedDocument

FIELDS = ("title", "section", "body", "tags")
"""Fields that a text template may use."""
BODY = "{body}"
"""The text template of the chunk's text alone; the key of the vector is then the chunk's own text hash."""
NO_KEY = b""
"""The key of a chunk that is not embedded; it is found by lexical search only."""
_KEY_BYTES = 16
_STEP = " > "


class OverLong(StrEnum):
    """What to do with a text that exceeds the model's input limit."""

    CUT = "cut"
    """Embed its beginning."""
    SPLIT = "split"
    """Embed it in parts of the model's input limit; its vector is their mean, weighted by tokens."""
    SKIP = "skip"
    """Do not embed it, and list it."""


class Prepared(NamedTuple):
    """A prepared text without the prompt, and the key of its vector (16 bytes, or :data:`NO_KEY`)."""

    key: bytes
    text: str


class _Line(NamedTuple):
    """A line of a text template: the text before each field, and the field's name; the last part has no field."""

    parts: tuple[tuple[str, str], ...]
    end: str

    def render(self, values: Mapping[str, str]) -> str | None:
        """Return the line, or None if it has fields and all of them are empty."""
        found = [values[name] for _, name in self.parts]
        if found and not any(found):
            return None
        return "".join(before + value for (before, _), value in zip(self.parts, found, strict=True)) + self.end


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed text template: lines of words and fields."""

    lines: tuple[_Line, ...]

    def render(self, values: Mapping[str, str]) -> str:
        """Return the text; a line whose fields are all empty is left out with its line break."""
        return "\n".join(line for line in (one.render(values) for one in self.lines) if line is not None)


@dataclass(frozen=True)
class Preparation:
    """How a generation's texts are prepared: text template, passage prompt, and how to embed long texts."""

    template: str = BODY
    passage_prompt: str = ""
    over_long: OverLong = OverLong.CUT

    @cached_property
    def plain(self) -> bool:
        """Whether the prepared text is the chunk's text."""
        return self == Preparation()

    def of(self, document: ChunkedDocument) -> list[Prepared]:
        """Return the prepared text of each chunk, in order; one that is only white space gets no key.

        Raises :class:`ConfigurationError` for an invalid text template.
        """
        if self.plain:
            return [_plain(chunk) for chunk in document.chunks]
        template = parse_template(self.template)
        common = {"title": document.facts.title, "tags": document.facts.attributes.get("tags", "")}
        return [
            self._prepared(template.render({**common, "section": _STEP.join(chunk.section), "body": chunk.text}))
            for chunk in document.chunks
        ]

    def _prepared(self, text: str) -> Prepared:
        if not text or text.isspace():
            return Prepared(NO_KEY, text)
        # A vector of parts differs from the vector of a beginning, so the way to embed long texts is part of the key.
        salt = b"" if self.over_long is OverLong.CUT else self.over_long.encode()
        return Prepared(text_hash(self.passage_prompt + text, salt), text)


def text_hash(text: str, salt: bytes = b"") -> bytes:
    """Return the BLAKE2b-128 of the text's UTF-8 bytes: 16 bytes."""
    return hashlib.blake2b(text.encode(), digest_size=_KEY_BYTES, person=b"headrace.text", salt=salt).digest()


@lru_cache(maxsize=64)
def parse_template(text: str) -> Template:
    r"""Return the template; a backslash followed by ``n`` is a line break, and doubled braces are literal braces.

    Raises :class:`ConfigurationError` for an unknown field, and for a template without the body.
    """
    lines = tuple(_line(one, text) for one in text.replace("\\n", "\n").split("\n"))
    if not any(name == "body" for line in lines for _, name in line.parts):
        raise _wrong(text, "it does not contain {body}")
    return Template(lines)


def _line(line: str, template: str) -> _Line:
    parts: list[tuple[str, str]] = []
    words = ""
    try:
        for before, name, layout, conversion in string.Formatter().parse(line):
            words += before
            if name is None:
                continue
            if name not in FIELDS:
                raise _wrong(template, f"unknown field {name!r}")
            if layout or conversion:
                raise _wrong(template, f"the field {name} does not allow a format")
            parts.append((words, name))
            words = ""
    except ValueError as error:
        raise _wrong(template, f"{error}") from error
    return _Line(tuple(parts), words)


def _plain(chunk: Chunk) -> Prepared:
    empty = not chunk.text or chunk.text.isspace()
    return Prepared(NO_KEY if empty else chunk.text_hash, chunk.text)


def _wrong(template: str, reason: str) -> ConfigurationError:
    fields = ", ".join(f"{{{name}}}" for name in FIELDS)
    return ConfigurationError(
        f"invalid text template {template!r}: {reason}", where="text template",
        remedy=f"The fields are {fields}; {{body}} is required. Write a literal brace twice.",
    )  # fmt: skip
