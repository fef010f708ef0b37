"""Checks that the stages and handlers in a template exist and that their record types match."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from headrace.errors import TemplateError
from headrace.pipeline.model import HANDLER_ENTRY_POINTS, Catalogue, HandlerInfo, StageTypes
from headrace.pipeline.nodes import Scalar
from headrace.pipeline.structure import StageDraft, closest


def binding_errors(stages: Sequence[StageDraft], catalogue: Catalogue, *, ordered: bool) -> list[TemplateError]:
    """Return the refusals by the catalogue: ``unknown-stage``, ``unknown-handler``, ``handler-stage`` and ``types``.

    Record types of consecutive stages are compared only if the stages are in the order of the flow.
    """
    errors: list[TemplateError] = []
    for stage in stages:
        types = catalogue.stages.get(stage.name.text)
        if types is None:
            errors.append(_unknown_stage(stage.name, catalogue))
        elif catalogue.handlers is not None:
            errors += _handlers(stage, types, catalogue.handlers)
    if ordered:
        errors += _between_stages(stages, catalogue.stages)
    return errors


def _unknown_stage(name: Scalar, catalogue: Catalogue) -> TemplateError:
    known = ", ".join(sorted(catalogue.stages))
    remedy = f"{closest(name.text, catalogue.stages)} The stages are: {known}.".strip()
    return TemplateError("unknown-stage", f"Stage {name.text!r} does not exist.", name.position, remedy=remedy)


def _handlers(stage: StageDraft, types: StageTypes, known: Mapping[str, HandlerInfo]) -> Iterator[TemplateError]:
    flowing, giver = types.consumes, f"stage {stage.name.text!r}"
    sound = True
    for handler in stage.handlers:
        info = known.get(handler.text)
        if info is None:
            yield _unknown_handler(handler, stage.name.text, known)
        elif info.stage != stage.name.text:
            yield _foreign_handler(handler, stage.name.text, info, known)
        elif sound and info.consumes != flowing:
            yield _misfit(handler, f"Handler {handler.text!r} consumes", info.consumes, giver, flowing)
        sound = sound and info is not None and info.stage == stage.name.text and info.consumes == flowing
        if info is not None:
            flowing, giver = info.produces, f"handler {handler.text!r}"
    if sound and stage.handlers and flowing != types.produces:
        yield _misfit(stage.handlers[-1], f"Stage {stage.name.text!r} produces", types.produces, giver, flowing)


def _misfit(place: Scalar, taker: str, wanted: str, giver: str, given: str) -> TemplateError:
    return TemplateError(
        "types",
        f"{taker} {wanted!r}, but {giver} produces {given!r}.",
        place.position,
        remedy="Add a handler between them that converts one into the other, or change the order.",
    )


def _of_stage(stage: str, known: Mapping[str, HandlerInfo]) -> str:
    names = sorted(name for name, info in known.items() if info.stage == stage)
    return f"Its handlers: {', '.join(names)}." if names else "It has no handlers."


def _unknown_handler(handler: Scalar, stage: str, known: Mapping[str, HandlerInfo]) -> TemplateError:
    candidates = [name for name, info in known.items() if info.stage == stage]
    suggestion = closest(handler.text, candidates)
    remedy = (
        f"{suggestion} To add a handler, install its package where the stage runs (entry-point group "
        f"{HANDLER_ENTRY_POINTS!r}), then restart the stage."
    )
    return TemplateError(
        "unknown-handler",
        f"Stage {stage!r} has no handler {handler.text!r}. {_of_stage(stage, known)}",
        handler.position,
        remedy=remedy.strip(),
    )


def _foreign_handler(handler: Scalar, stage: str, info: HandlerInfo, known: Mapping[str, HandlerInfo]) -> TemplateError:
    return TemplateError(
        "handler-stage",
        f"Handler {handler.text!r} belongs to stage {info.stage!r}, not to {stage!r}. {_of_stage(stage, known)}",
        handler.position,
        remedy=f"Move it to stage {info.stage!r}.",
    )


def _between_stages(stages: Sequence[StageDraft], known: Mapping[str, StageTypes]) -> Iterator[TemplateError]:
    for earlier, later in itertools.pairwise(stages):
        given, wanted = known.get(earlier.name.text), known.get(later.name.text)
        if given is not None and wanted is not None and given.produces != wanted.consumes:
            yield _misfit(
                later.name,
                f"Stage {later.name.text!r} consumes",
                wanted.consumes,
                f"stage {earlier.name.text!r}",
                given.produces,
            )
