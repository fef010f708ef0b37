"""Parses text into nodes with positions.

YAML 1.2 includes JSON, so one parser (ruamel.yaml, pure Python) reads both, with positions. The nodes are built from
the parser's events and not by its composer, so the depth is checked while reading and no input can exhaust the stack.
Aliases are refused before anything is expanded.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.reader import ReaderError

from headrace.errors import SourcePosition, TemplateError

MAXIMUM_BYTES = 64 * 1024
MAXIMUM_DEPTH = 16
_TAG_PREFIX = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True)
class Scalar:
    """A single value; ``kind`` is its YAML 1.2 type: ``str``, ``bool``, ``int``, ``float``, ``null``, …"""

    text: str
    kind: str
    position: SourcePosition


@dataclass(frozen=True, slots=True)
class ListNode:
    """A list of nodes."""

    position: SourcePosition
    items: list[Node] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class MapNode:
    """Keys and their values in the order of the text; each key occurs once."""

    position: SourcePosition
    entries: list[tuple[Scalar, Node]] = field(default_factory=list)


Node = Scalar | ListNode | MapNode


class _Places:
    """Converts offsets in the text to lines and columns as editors count them.

    The parser's own lines are not used, because it also counts U+0085, U+2028 and U+2029 as line breaks.
    """

    def __init__(self, text: str, file: str) -> None:
        self._file = file
        self._starts = [0]
        for offset, character in enumerate(text):
            if character == "\n" or (character == "\r" and text[offset + 1 : offset + 2] != "\n"):
                self._starts.append(offset + 1)

    def at(self, offset: int) -> SourcePosition:
        line = bisect_right(self._starts, offset)
        return SourcePosition(self._file, line, offset - self._starts[line - 1] + 1)


def compose(text: str, file: str) -> tuple[Node, list[TemplateError]]:
    """Parse ``text`` into nodes; duplicate keys are returned as errors, and the first of each counts.

    Raises TemplateError if the text cannot be read: it is not YAML (``syntax``), exceeds 64 KiB (``too-large``), is
    nested deeper than 16 levels (``too-deep``), or contains an anchor, alias, tag, directive or second document.
    """
    text = text.removeprefix("\ufeff")
    size = len(text.encode("utf-8", "surrogatepass"))
    places = _Places(text, file)
    if size > MAXIMUM_BYTES:
        raise TemplateError(
            "too-large",
            f"The template has {size} bytes; the maximum is {MAXIMUM_BYTES}.",
            places.at(0),
            remedy="Shorten it: a template only names stages and handlers.",
        )
    builder = _Builder(places)
    for event in _events(text, places, builder):
        builder.take(event)
    if builder.root is None:
        raise TemplateError(
            "syntax",
            "The file is empty.",
            places.at(0),
            remedy="Write at least the fields `id` and `stages`.",
        )
    return builder.root, builder.errors


def _events(text: str, places: _Places, builder: _Builder) -> Iterator[Any]:
    """Yield the parser's events; every exception that the text causes becomes a TemplateError with its position."""
    try:
        parser = YAML(typ="safe", pure=True)
        builder.resolver = parser.resolver
        yield from parser.parse(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        offset = mark.index if mark is not None else builder.offset
        raise _syntax(str(error.problem or error.context or "it cannot be parsed"), places.at(offset)) from error
    except ReaderError as error:
        raise _syntax(
            f"character U+{error.character:04X} is not allowed unescaped", places.at(error.position)
        ) from error
    except (YAMLError, ValueError, OverflowError) as error:  # invalid escapes and version numbers
        raise _syntax("an escape or a number is out of range", places.at(builder.offset)) from error


def _syntax(problem: str, position: SourcePosition) -> TemplateError:
    return TemplateError(
        "syntax",
        f"This is not valid YAML or JSON: {problem}.",
        position,
        remedy="Check the indentation, quotes and brackets here and on the line above.",
    )


class _Builder:
    """Builds nodes from events, with its own stack."""

    def __init__(self, places: _Places) -> None:
        self.root: Node | None = None
        self.errors: list[TemplateError] = []
        self.offset = 0
        self.resolver: Any = None
        self._places = places
        self._open: list[ListNode | MapNode] = []
        self._keys: list[Scalar | None] = []
        self._seen: list[dict[str, Scalar]] = []

    def take(self, event: Any) -> None:
        begin, end = event.start_mark.index, event.end_mark.index
        empty = isinstance(event, ScalarEvent) and begin == end
        position = self._places.at(self.offset if empty else begin)  # the position of an omitted value is after its key
        self.offset = end
        if isinstance(event, DocumentStartEvent):
            self._start_document(event, position)
        elif isinstance(event, (SequenceEndEvent, MappingEndEvent)):
            self._open.pop()
            self._keys.pop()
            self._seen.pop()
        elif isinstance(event, NodeEvent):
            self._refuse_indirection(event, position)
            self._take_node(event, position)

    def _start_document(self, event: Any, position: SourcePosition) -> None:
        if self.root is not None:
            raise TemplateError(
                "documents",
                "A second document begins here; a file may contain only one template.",
                position,
                remedy="Write each template to its own file.",
            )
        if event.version or event.tags:
            raise TemplateError(
                "directive", "Directives (%YAML, %TAG) are not allowed.", position, remedy="Remove the line."
            )

    def _refuse_indirection(self, event: Any, position: SourcePosition) -> None:
        if event.anchor:
            sign = "Alias *" if isinstance(event, AliasEvent) else "Anchor &"
            raise TemplateError(
                "anchor",
                f"{sign}{event.anchor}: anchors and aliases are not allowed.",
                position,
                remedy="Write the value out.",
            )
        if getattr(event, "ctag", None):
            raise TemplateError(
                "tag",
                f"Tag {event.ctag}: tags are not allowed.",
                position,
                remedy="Remove it, and put text that looks like a number in quotes.",
            )

    def _take_node(self, event: Any, position: SourcePosition) -> None:
        if isinstance(event, ScalarEvent):
            self._place(self._scalar(event, position))
            return
        if len(self._open) >= MAXIMUM_DEPTH:
            raise TemplateError(
                "too-deep",
                f"The template is nested deeper than {MAXIMUM_DEPTH} levels.",
                position,
                remedy="A template needs four levels: stages, a stage, its protocol, a value.",
            )
        is_list = isinstance(event, SequenceStartEvent)
        assert is_list or isinstance(event, MappingStartEvent)
        node: ListNode | MapNode = ListNode(position) if is_list else MapNode(position)
        self._place(node)
        self._open.append(node)
        self._keys.append(None)
        self._seen.append({})

    def _scalar(self, event: Any, position: SourcePosition) -> Scalar:
        try:  # JSON writes characters beyond U+FFFF as two escapes, which YAML reads as two characters.
            text = event.value.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError as error:
            raise _syntax("a surrogate is not part of a pair", position) from error
        tag = str(self.resolver.resolve(ScalarNode, event.value, event.implicit))
        kind = tag.removeprefix(_TAG_PREFIX)
        return Scalar(text, "str" if kind in {"value", "merge"} else kind, position)

    def _place(self, node: Node) -> None:
        if not self._open:
            self.root = node
            return
        parent = self._open[-1]
        if isinstance(parent, ListNode):
            parent.items.append(node)
            return
        key = self._keys[-1]
        if key is None:
            self._keys[-1] = self._key(node)
            return
        self._keys[-1] = None
        first = self._seen[-1].setdefault(key.text, key)
        if first is key:
            parent.entries.append((key, node))
        else:
            self.errors.append(_duplicate(key, first))

    def _key(self, node: Node) -> Scalar:
        if isinstance(node, Scalar):
            return node
        raise TemplateError(
            "type", "A list or mapping cannot be a key.", node.position, remedy="Use plain words as keys."
        )


def _duplicate(key: Scalar, first: Scalar) -> TemplateError:
    shown = key.text if len(key.text) <= 40 else key.text[:40] + "…"
    return TemplateError(
        "duplicate-key",
        f"Duplicate key {shown!r}; the first one is on line {first.position.line}.",
        key.position,
        remedy="Remove one of them.",
    )
