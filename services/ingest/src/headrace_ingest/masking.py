"""Masks personal data in a change event before publication, with a typed and stable placeholder for each value."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import re2
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from headrace.errors import ConfigurationError
from headrace.payloads import ChangeEvent
from headrace_ingest.personal_data import DETECTORS, Kind, plain, visible
from headrace_ingest.postal import Span
from headrace_ingest.settings import IngestSettings

MAX_PATTERNS = 100
_TAG_BYTES = 5
_TAG = 6
"""Characters of a placeholder's tag, 5 bits each. With 3,000 values, two share a tag in one of 200 documents."""
_NAME = re2.compile(r"[a-z][a-z0-9-]{0,31}")


class Masked(NamedTuple):
    """A masked event, and the number of masked values of each kind."""

    event: ChangeEvent
    counts: Mapping[str, int]


class Edit(NamedTuple):
    """A placeholder for a range of a text."""

    span: Span
    placeholder: str


def moved(offsets: Sequence[int], edits: Sequence[Edit]) -> tuple[int, ...]:
    """Return the offsets of a text after the edits; pure. Offsets and edits are in order, and edits are disjoint.

    An offset inside a masked range moves to the placeholder's start.
    """
    found, shift, at = [], 0, 0
    for offset in offsets:
        while at < len(edits) and edits[at].span.end <= offset:
            shift += len(edits[at].placeholder) - (edits[at].span.end - edits[at].span.start)
            at += 1
        inside = at < len(edits) and edits[at].span.start < offset
        found.append((edits[at].span.start if inside else offset) + shift)
    return tuple(found)


class Masker:
    """Masks title, text and attributes. Document ID, source, acl and pipeline stay, because they identify things.

    A value has the same placeholder throughout a document and its versions, so an edit does not change other chunks. In
    another document, the placeholder is different. ``key`` keeps outsiders from guessing values by trial.
    """

    def __init__(self, kinds: Iterable[Kind], patterns: Mapping[str, Any], key: bytes = b"") -> None:
        wanted = set(kinds)
        self._kinds = [kind for kind in DETECTORS if kind in wanted]
        self._patterns = dict(patterns)
        self._key = hashlib.blake2b(key, digest_size=32).digest()

    def event(self, event: ChangeEvent) -> Masked:
        """Return the event without personal data; an event without any is returned unchanged."""
        if not (self._kinds or self._patterns):
            return Masked(event, {})
        owner = f"{event.tenant}/{event.document_id}"
        counts: Counter[str] = Counter()
        title = None if event.title is None else self._without(event.title, self.find(event.title), owner, counts)
        content, pages = event.content, event.pages
        if content is not None:
            edits = self._edits(content, self.find(content), owner, counts)
            content, pages = _edited(content, edits), moved(pages, edits)
        attributes = {name: self._attribute(name, value, owner, counts) for name, value in event.attributes.items()}
        if not counts:
            return Masked(event, {})
        return Masked(replace(event, title=title, content=content, attributes=attributes, pages=pages), dict(counts))

    def _attribute(self, name: str, value: str, owner: str, counts: Counter[str]) -> str:
        """Mask the value together with its name before it, because the name may say what the value is."""
        before = f"{re.sub(r'[_-]+', ' ', name)}: "
        found = [
            (Span(span.start - len(before), span.end - len(before)), kind)
            for span, kind in self.find(f"{before}{value}")
            if span.start >= len(before)
        ]
        return self._without(value, found, owner, counts)

    def _without(self, text: str, found: Sequence[tuple[Span, str]], owner: str, counts: Counter[str]) -> str:
        return _edited(text, self._edits(text, found, owner, counts))

    def _edits(self, text: str, found: Sequence[tuple[Span, str]], owner: str, counts: Counter[str]) -> list[Edit]:
        counts.update(kind for _, kind in found)
        return [Edit(span, self._placeholder(kind, text[span.start : span.end], owner)) for span, kind in found]

    def find(self, text: str) -> list[tuple[Span, str]]:
        """Return the ranges to mask, in order and disjoint; additional patterns come first, then each kind.

        If ranges overlap, a later kind gets the part that the earlier one left, so everything that any of them found is
        masked.
        """
        form, places = visible(plain(text))
        found: list[tuple[Span, str]] = []
        for name, pattern in self._patterns.items():
            found = _joined(found, [Span(*one.span()) for one in pattern.finditer(form)], name, form)
        for kind in self._kinds:
            found = _joined(found, sorted(DETECTORS[kind](form)), kind.value, form)
        if places is None:
            return found
        return [(Span(places[span.start], places[span.end - 1] + 1), kind) for span, kind in found]

    def _placeholder(self, kind: str, value: str, owner: str) -> str:
        hasher = hashlib.blake2b(digest_size=_TAG_BYTES, key=self._key)
        for part in (owner, kind, same(kind, visible(plain(value))[0])):
            hasher.update(len(part).to_bytes(4, "big") + part.encode("utf-8", "surrogatepass"))
        tag = base64.b32encode(hasher.digest())[:_TAG].decode()
        return f"[{kind.upper()}-{tag}]"


def _edited(text: str, edits: Sequence[Edit]) -> str:
    if not edits:
        return text
    parts, at = [], 0
    for span, placeholder in edits:
        parts += [text[at : span.start], placeholder]
        at = span.end
    return "".join([*parts, text[at:]])


def same(kind: str, value: str) -> str:
    """Return a normalized form that is equal for different spellings of a value."""
    if kind == Kind.PHONE:
        return re.sub(r"^(?:0?0?82)0?(?=[1-9])", "0", re.sub(r"\D", "", value))
    if kind in (Kind.RESIDENT_NUMBER, Kind.CARD, Kind.PASSPORT):
        return "".join(filter(str.isalnum, value)).casefold()
    return " ".join(value.split()).casefold()


def _joined(taken: list[tuple[Span, str]], spans: Sequence[Span], kind: str, text: str) -> list[tuple[Span, str]]:
    """Return ``taken`` and the parts of the spans outside it, in order. Both are ordered; one pass reads each."""
    if not spans:
        return taken
    joined: list[tuple[Span, str]] = []
    at, claimed = 0, 0
    for span in spans:
        start = max(span.start, claimed)
        while at < len(taken) and taken[at][0].end <= start:
            joined.append(taken[at])
            at += 1
        while start < span.end:
            ahead = taken[at][0] if at < len(taken) else None
            end = span.end if ahead is None else min(span.end, max(start, ahead.start))
            left = _trimmed(text, start, end)
            if left is not None:
                joined.append((left, kind))
            if ahead is None or ahead.start >= span.end:
                break
            joined.append(taken[at])
            start = ahead.end
            at += 1
        claimed = max(claimed, span.end)
    return [*joined, *taken[at:]]


def _trimmed(text: str, start: int, end: int) -> Span | None:
    """Return the range without characters at its ends that are neither letter nor digit, or None if it is empty."""
    while start < end and not (text[start].isalnum() or text[start] in "+("):
        start += 1
    while start < end and not (text[end - 1].isalnum() or text[end - 1] == ")"):
        end -= 1
    return Span(start, end) if end > start else None


def make_masker(settings: IngestSettings) -> Masker:
    """Return the masker for the settings; raises :class:`ConfigurationError` that names the invalid value."""
    known = {kind.value: kind for kind in Kind}
    named = [name.strip() for name in settings.mask.split(",") if name.strip()]
    unknown = [name for name in named if name not in known]
    if unknown:
        raise ConfigurationError(
            f"unknown kinds of personal data: {', '.join(unknown)}", where="HEADRACE_INGEST_MASK",
            remedy=f"Use any of {', '.join(known)}, separated by commas. An empty value masks nothing.",
        )  # fmt: skip
    key = settings.mask_key.get_secret_value().encode() if settings.mask_key else b""
    return Masker([known[name] for name in named], read_patterns(settings.mask_patterns), key)


def read_patterns(path: Path | None) -> dict[str, Any]:
    """Return the patterns of a YAML file, ``name: pattern``, in RE2 syntax, whose time is linear in the text.

    Raises :class:`ConfigurationError` that names file, entry and reason.
    """
    if path is None:
        return {}
    try:
        given = YAML(typ="safe").load(path.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, YAMLError) as error:
        raise ConfigurationError(f"cannot read the patterns: {error}", where=str(path)) from error
    if not isinstance(given, dict) or len(given) > MAX_PATTERNS:
        raise ConfigurationError(
            f"the file must be a mapping of at most {MAX_PATTERNS} names to patterns", where=str(path),
            remedy="Write one `name: pattern` per line.",
        )  # fmt: skip
    return {name: _compiled(path, name, pattern) for name, pattern in given.items()}


def _compiled(path: Path, name: object, pattern: object) -> Any:
    where = f"{path}: {name!r:.60}"
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in set(Kind):
        raise ConfigurationError(
            "invalid pattern name", where=where,
            remedy=f"Use 1-32 lower-case letters, digits or '-', beginning with a letter; not {', '.join(Kind)}.",
        )  # fmt: skip
    try:
        compiled = re2.compile(pattern)
    except (re2.error, TypeError) as error:
        raise ConfigurationError(
            f"the pattern does not compile: {error}", where=where, remedy="Write it in RE2 syntax, in quotes."
        ) from error
    if compiled.search("") is not None:
        raise ConfigurationError(
            "the pattern matches empty text", where=where, remedy="Make it match at least one character."
        )
    return compiled
