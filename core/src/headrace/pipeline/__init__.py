"""Pipeline templates: which stages run, in which order, with which handlers and protocol hints.

A template is YAML or JSON and never contains a model URL, a credential or a parameter value. :func:`load` reads one and
raises the first refusal; :func:`problems` returns all of them. Each refusal is a :class:`headrace.errors.TemplateError`
with file, line, column and a reason code.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.errors import TemplateError
from headrace.pipeline.binding import binding_errors
from headrace.pipeline.model import (
    HANDLER_ENTRY_POINTS,
    Call,
    Catalogue,
    HandlerInfo,
    Pipeline,
    Protocol,
    Review,
    StageBinding,
    StageTypes,
    Template,
    canonical,
    digest,
    dump,
)
from headrace.pipeline.nodes import compose
from headrace.pipeline.order import resolve
from headrace.pipeline.structure import StageDraft, read_draft

__all__ = [
    "HANDLER_ENTRY_POINTS",
    "Call",
    "Catalogue",
    "HandlerInfo",
    "LocatedTemplate",
    "Pipeline",
    "Protocol",
    "Review",
    "StageBinding",
    "StageTypes",
    "Template",
    "canonical",
    "check",
    "digest",
    "dump",
    "load",
    "locate",
    "parse",
    "problems",
]


@dataclass(frozen=True, slots=True)
class LocatedTemplate:
    """A template with the positions of its stages and handlers in the text, in the order of the flow."""

    template: Template
    stages: tuple[StageDraft, ...]


def _read(text: str, file: str, catalogue: Catalogue | None) -> tuple[LocatedTemplate | None, list[TemplateError]]:
    try:
        root, errors = compose(text, file)
    except TemplateError as error:
        return None, [error]
    draft, structure_errors = read_draft(root)
    errors += structure_errors
    ordered: tuple[StageDraft, ...] = ()
    if draft.whole:
        ordered, order_errors = resolve(draft.stages)
        errors += order_errors
    if catalogue is not None:
        errors += binding_errors(ordered or draft.stages, catalogue, ordered=bool(ordered))
    if errors or draft.id is None:
        return None, sorted(errors, key=lambda error: (error.position.line, error.position.column))
    bindings = tuple(
        StageBinding(stage.name.text, tuple(handler.text for handler in stage.handlers), stage.protocol, stage.review)
        for stage in ordered
    )
    return LocatedTemplate(Template(draft.id, draft.description, bindings), ordered), []


def problems(text: str, file: str, catalogue: Catalogue | None = None) -> list[TemplateError]:
    """Return every refusal of a template, ordered by position; empty if the template is accepted.

    A text that cannot be parsed has a single refusal.
    """
    return _read(text, file, catalogue)[1]


def locate(text: str, file: str) -> LocatedTemplate:
    """Read a template with positions; raises the first TemplateError of syntax, fields or order."""
    located, errors = _read(text, file, None)
    if located is None:
        raise errors[0]
    return located


def parse(text: str, file: str) -> Template:
    """Read a template without a catalogue; raises the first TemplateError of syntax, fields or order."""
    return locate(text, file).template


def check(located: LocatedTemplate, catalogue: Catalogue) -> None:
    """Raise the first TemplateError, by position, of the stages, handlers and record types in the catalogue."""
    errors = binding_errors(located.stages, catalogue, ordered=True)
    if errors:
        raise min(errors, key=lambda error: (error.position.line, error.position.column))


def load(text: str, file: str, catalogue: Catalogue | None = None) -> Template:
    """Read and check a template; ``file`` is the name of the text in messages.

    Raises the first TemplateError by position. Without a catalogue, stages and handlers are not looked up.
    """
    located, errors = _read(text, file, catalogue)
    if located is None:
        raise errors[0]
    return located.template
