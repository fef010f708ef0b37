"""Reads stages from nodes, and refuses unknown, invalid and missing fields."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from headrace.errors import TemplateError
from headrace.pipeline.forbidden import Scan, parameter_error, shown
from headrace.pipeline.model import Call, Protocol, Review
from headrace.pipeline.nodes import ListNode, MapNode, Node, Scalar

MAXIMUM_STAGES = 32
MAXIMUM_HANDLERS = 32
_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
_NAME_RULE = "a lower-case letter, then up to 62 lower-case letters, digits and hyphens"
_BRANCH_FIELDS = frozenset({"branch", "branches", "parallel", "fork", "switch"})
_LINEAR_REMEDY = "Pipelines are linear. Route by content inside a handler, or write a second template."


@dataclass(frozen=True, slots=True)
class StageDraft:
    """A stage as written; ``after`` is None for the stage above, and a scalar of kind null for the first stage."""

    name: Scalar
    handlers: tuple[Scalar, ...]
    protocol: Protocol
    review: Review
    after: Scalar | None


@dataclass(frozen=True, slots=True)
class Draft:
    """The readable parts of a template; None and missing stages replace refused parts."""

    id: str | None
    description: str
    stages: tuple[StageDraft, ...]
    whole: bool
    """Whether every stage could be read, so that their order can be checked."""


def read_draft(root: Node) -> tuple[Draft, list[TemplateError]]:
    """Read the fields of a template; return it with every refusal that follows from the text alone."""
    reader = _Reader(Scan(root))
    return reader.template(root), reader.errors


def closest(name: str, known: Iterable[str]) -> str:
    """Return ``Did you mean 'x'?`` for the known word that is most similar to ``name``, or an empty text."""
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean {matches[0]!r}?" if matches else ""


def _what(node: Node) -> str:
    if isinstance(node, ListNode):
        return "a list"
    if isinstance(node, MapNode):
        return "a mapping"
    return "nothing" if node.kind == "null" else f"{shown(node.text)} ({node.kind})"


class _Reader:
    def __init__(self, scan: Scan) -> None:
        self._scan = scan
        self.errors: list[TemplateError] = list(scan.errors)

    def _refuse(self, node: Node, reason: str, message: str, remedy: str = "") -> None:
        """Refuse a node unless a more specific refusal was found in it."""
        if not self._scan.tainted(node):
            self.errors.append(TemplateError(reason, message, node.position, remedy=remedy))

    def template(self, root: Node) -> Draft:
        if not isinstance(root, MapNode):
            self._refuse(
                root, "type", f"A template must be a mapping, not {_what(root)}.", "Begin with `id:` and `stages:`."
            )
            return Draft(None, "", (), whole=False)
        fields = self._fields(root, "template", ("id", "stages"), ("description",))
        identifier = self._name(fields.get("id"), "id", "bad-id")
        description = self._text(fields.get("description"), "description")
        entries = self._stage_list(fields.get("stages"))
        stages = [stage for stage in map(self._stage, entries) if stage is not None]
        return Draft(
            identifier.text if identifier else None,
            description.text if description else "",
            tuple(stages),
            whole=bool(stages) and len(stages) == len(entries),
        )

    def _fields(
        self, node: MapNode, owner: str, required: tuple[str, ...], optional: tuple[str, ...]
    ) -> dict[str, Node]:
        known = required + optional
        fields = {key.text: value for key, value in node.entries}
        for key, value in node.entries:
            if key.text not in known and not self._scan.tainted(key):
                self._unknown_field(key, value, owner, known)
        for name in required:
            if name not in fields:
                self.errors.append(
                    TemplateError(
                        "missing-field",
                        f"The {owner} does not have the required field {name!r}.",
                        node.position,
                        remedy=f"Add it. The fields of a {owner} are {', '.join(known)}.",
                    )
                )
        return fields

    def _unknown_field(self, key: Scalar, value: Node, owner: str, known: tuple[str, ...]) -> None:
        if key.text in _BRANCH_FIELDS or (key.text in {"next", "before"} and isinstance(value, ListNode)):
            self._refuse(key, "branch", f"The field {key.text!r} would branch the pipeline.", _LINEAR_REMEDY)
            return
        suggestion = closest(key.text, known) or f"The fields of a {owner} are {', '.join(known)}."
        self._refuse(key, "unknown-field", f"Unknown field {shown(key.text)} in a {owner}.", suggestion)

    def _text(self, node: Node | None, field: str) -> Scalar | None:
        if node is None:
            return None
        if isinstance(node, Scalar) and node.kind == "str":
            return None if self._scan.tainted(node) else node
        remedy = "Put it in quotes." if isinstance(node, Scalar) and node.kind != "null" else "Write it on one line."
        self._refuse(node, "type", f"{field} must be text, not {_what(node)}.", remedy)
        return None

    def _name(self, node: Node | None, field: str, reason: str) -> Scalar | None:
        text = self._text(node, field)
        if text is None or _NAME.fullmatch(text.text):
            return text
        if any(sign in text.text for sign in "(?="):
            self.errors.append(parameter_error(text, f"{field} {shown(text.text)}"))
        else:
            self._refuse(text, reason, f"{shown(text.text)} is not allowed as {field}.", f"Use {_NAME_RULE}.")
        return None

    def _stage_list(self, node: Node | None) -> list[Node]:
        if node is None:
            return []
        if not isinstance(node, ListNode):
            self._refuse(
                node, "type", f"stages must be a list, not {_what(node)}.", "Write one `- stage: …` per stage."
            )
            return []
        if not node.items:
            self._refuse(node, "empty-stages", "The template has no stages.", "Name at least one stage.")
        if len(node.items) > MAXIMUM_STAGES:
            self._refuse(
                node.items[MAXIMUM_STAGES],
                "too-many-stages",
                f"The template has {len(node.items)} stages; the maximum is {MAXIMUM_STAGES}.",
                "Combine related steps as handlers of one stage.",
            )
        return node.items

    def _stage(self, node: Node) -> StageDraft | None:
        if isinstance(node, ListNode):
            self._refuse(node, "branch", "A list of stages here would branch the pipeline.", _LINEAR_REMEDY)
            return None
        if not isinstance(node, MapNode):
            self._refuse(
                node,
                "type",
                f"A stage must be a mapping, not {_what(node)}.",
                "Write `- stage: NAME` with `handlers: [NAME]` below it.",
            )
            return None
        fields = self._fields(node, "stage", ("stage", "handlers"), ("protocol", "after", "review"))
        name_node = fields.get("stage")
        if isinstance(name_node, ListNode):
            self._refuse(name_node, "branch", "A list of stages here would branch the pipeline.", _LINEAR_REMEDY)
            name = None
        else:
            name = self._name(name_node, "a stage's name", "bad-name")
        handlers = self._handlers(fields.get("handlers"))
        protocol = self._protocol(fields.get("protocol"))
        after, readable = self._after(fields.get("after"))
        review = self._review(fields.get("review"))
        return StageDraft(name, handlers, protocol, review, after) if name is not None and readable else None

    def _handlers(self, node: Node | None) -> tuple[Scalar, ...]:
        if node is None:
            return ()
        if isinstance(node, MapNode) and node.entries:
            self._handler_mapping(node)
            return ()
        if not isinstance(node, ListNode):
            self._refuse(node, "type", f"handlers must be a list, not {_what(node)}.", "Write it as [NAME, NAME].")
            return ()
        if not node.items:
            self._refuse(node, "empty-handlers", "The stage has no handlers.", "Name at least one handler.")
        if len(node.items) > MAXIMUM_HANDLERS:
            self._refuse(
                node.items[MAXIMUM_HANDLERS],
                "too-many-handlers",
                f"The stage has {len(node.items)} handlers; the maximum is {MAXIMUM_HANDLERS}.",
                "Split the work between two stages.",
            )
        names = [self._handler(item) for item in node.items]
        return tuple(name for name in names if name is not None)

    def _handler(self, node: Node) -> Scalar | None:
        if isinstance(node, MapNode):
            self._handler_mapping(node)
            return None
        return self._name(node, "a handler's name", "bad-name")

    def _handler_mapping(self, node: MapNode) -> None:
        if not self._scan.tainted(node):
            self.errors.append(parameter_error(node, "A handler written as a mapping"))

    def _protocol(self, node: Node | None) -> Protocol:
        if node is None:
            return Protocol()
        if not isinstance(node, MapNode):
            self._refuse(
                node,
                "type",
                f"protocol must be a mapping, not {_what(node)}.",
                "Write {streaming: false, call: local}.",
            )
            return Protocol()
        fields = self._fields(node, "protocol", (), ("streaming", "call"))
        return Protocol(self._streaming(fields.get("streaming")), self._call(fields.get("call")))

    def _streaming(self, node: Node | None) -> bool:
        if node is None:
            return False
        if isinstance(node, Scalar) and node.kind == "bool":
            return node.text.lower() == "true"
        self._refuse(node, "type", f"streaming must be true or false, not {_what(node)}.", "Write it without quotes.")
        return False

    def _call(self, node: Node | None) -> Call:
        text = self._text(node, "call")
        kinds = [str(kind) for kind in Call]
        if text is not None and text.text not in kinds:
            suggestion = closest(text.text, kinds) or f"Use one of {', '.join(kinds)}."
            self._refuse(text, "bad-call", f"Unknown kind of call: {shown(text.text)}.", suggestion)
            return Call.LOCAL
        return Call(text.text) if text is not None else Call.LOCAL

    def _review(self, node: Node | None) -> Review:
        text = self._text(node, "review")
        kinds = [str(kind) for kind in Review]
        if text is not None and text.text not in kinds:
            suggestion = closest(text.text, kinds) or f"Use one of {', '.join(kinds)}."
            self._refuse(text, "bad-review", f"Unknown kind of review: {shown(text.text)}.", suggestion)
            return Review.NONE
        return Review(text.text) if text is not None else Review.NONE

    def _after(self, node: Node | None) -> tuple[Scalar | None, bool]:
        """Return the stage that a stage follows, and whether the field could be read."""
        if node is None:
            return None, True
        if isinstance(node, Scalar) and node.kind == "null":
            return node, True
        several = isinstance(node, ListNode) and len(node.items) > 1
        if several or (isinstance(node, Scalar) and re.search(r"[,+&|]|\s", node.text.strip())):
            self._refuse(node, "merge", "A stage that follows several stages would merge them.", _LINEAR_REMEDY)
            return None, False
        name = self._name(node, "after", "bad-name")
        return name, name is not None
