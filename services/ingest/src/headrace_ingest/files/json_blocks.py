"""Converts JSON to blocks: each member of the object is a section, each object in a list is a section inside it.

Résumés in the format of JSON Resume (https://jsonresume.org/schema) become natural text: the name is the title, an
entry's heading says who and where, its dates follow, and its highlights are a list. The same rules apply to all JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from headrace_ingest.files.blocks import DEEPEST_HEADING, HEADING, ITEM, PARAGRAPH, Block

_TITLES = ("name", "title", "label")
_HEADINGS = (
    ("position", "name"), ("position", "company"), ("position", "organization"), ("studyType", "area", "institution"),
    ("title", "awarder"), ("name", "publisher"), ("name", "issuer"), ("language", "fluency"), ("network", "username"),
    ("name",), ("title",), ("institution",), ("company",), ("organization",), ("language",), ("reference",),
)  # fmt: skip
"""Members for an entry's heading: the first row that an entry has completely, else the first that it has in part."""
_DATES = ("startDate", "endDate")
_TEXTS = ("summary", "description", "reference")
"""Members that become paragraphs without their name."""
_UNNAMED_LISTS = ("highlights", "keywords", "courses", "roles")
MAX_DEPTH = 100


def blocks_of(value: Any) -> tuple[str, list[Block]]:
    """Return the title and the blocks of a decoded JSON value.

    Raises ValueError if it is not an object or is nested deeper than :data:`MAX_DEPTH`.
    """
    if not isinstance(value, Mapping):
        raise ValueError("is not a JSON object, so it has no sections")  # noqa: TRY004  # the file's fault, not the caller's
    basics = value.get("basics")
    named = basics if isinstance(basics, Mapping) else value
    title = next((str(named[name]) for name in _TITLES if isinstance(named.get(name), str)), "")
    return title, list(_members(value, 1, {}))


def _members(value: Mapping[str, Any], level: int, shown: Mapping[str, Any]) -> Iterator[Block]:
    """Yield the object's plain values first, then its objects and lists as sections at this level."""
    if level > MAX_DEPTH:
        raise ValueError(f"is nested deeper than {MAX_DEPTH} levels")
    plain = {name: item for name, item in value.items() if name not in shown and not _nested(item)}
    yield from _plain(plain)
    for name, item in value.items():
        if name in shown or not _nested(item):
            continue
        if name in _UNNAMED_LISTS and isinstance(item, list) and not any(map(_nested, item)):
            yield from _items(item)
            continue
        inner = list(_section(item, level))
        if inner:
            yield Block(HEADING, _words(name), level=min(level, DEEPEST_HEADING))
            yield from inner


def _section(item: Any, level: int) -> Iterator[Block]:
    if isinstance(item, Mapping):
        yield from _members(item, level + 1, {})
    elif not any(map(_nested, item)):
        yield from _items(item)
    else:
        for entry in item:
            yield from _entry(entry, level + 1)


def _entry(entry: Any, level: int) -> Iterator[Block]:
    if isinstance(entry, list):
        yield from _section(entry, level)
        return
    if not isinstance(entry, Mapping):
        yield from _items([entry])
        return
    heads = _heads(entry)
    shown = {name: entry[name] for name in heads}
    if heads:
        yield Block(HEADING, " – ".join(_text(entry[name]) for name in heads), level=min(level, DEEPEST_HEADING))
    yield from _members(entry, level + 1, shown)


def _heads(entry: Mapping[str, Any]) -> tuple[str, ...]:
    def has(name: str) -> bool:
        return isinstance(entry.get(name), (str, int)) and bool(_text(entry[name]))

    whole = next((row for row in _HEADINGS if all(map(has, row))), None)
    some = next((tuple(filter(has, row)) for row in _HEADINGS if any(map(has, row))), ())
    return whole or some


def _plain(values: Mapping[str, Any]) -> Iterator[Block]:
    dates = [_text(values[name]) for name in _DATES if _text(values.get(name))]
    if dates:
        yield Block(PARAGRAPH, " – ".join(dates))
    lines = [
        f"{_words(name)}: {_text(item)}"
        for name, item in values.items()
        if name not in (*_DATES, *_TEXTS) and _text(item)
    ]
    if lines:
        yield Block(PARAGRAPH, "\n".join(lines))
    for name in _TEXTS:
        if _text(values.get(name)):
            yield Block(PARAGRAPH, _text(values[name]))


def _items(items: list[Any]) -> Iterator[Block]:
    for item in items:
        if _text(item):
            yield Block(ITEM, _text(item))


def _nested(value: Any) -> bool:
    return isinstance(value, (Mapping, list))


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value).strip()


def _words(name: str) -> str:
    """Return a member's name as words: ``volunteerWork`` as ``Volunteer work``."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[_-]+", " ", name).strip()
    return words[:1].upper() + (words[1:].lower() if not words.isupper() else words[1:])
