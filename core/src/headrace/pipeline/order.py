"""Resolves the order of the stages: a linear flow from the first to the last, or refusals with positions."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.errors import TemplateError
from headrace.pipeline.nodes import Scalar
from headrace.pipeline.structure import StageDraft, closest

_LINEAR_REMEDY = "Pipelines are linear: each stage except the first follows exactly one other stage."


def resolve(stages: Sequence[StageDraft]) -> tuple[tuple[StageDraft, ...], list[TemplateError]]:
    """Return the stages in the order in which records pass them, and the refusals if there is no such order.

    A stage follows the one that its ``after`` names, by default the one above it. The first stage in the text, or the
    one whose ``after`` is null, begins the flow. Refusals: ``stage-twice``, ``unreachable``, ``branch``, ``cycle``.
    """
    errors = _repeated(stages)
    if errors:
        return (), errors
    before = _predecessors(stages)
    errors = [*_unknown(stages, before), *_branches(stages, before), *_cycles(stages, before)]
    beginnings = [stage for stage in stages if before[stage.name.text] is None]
    errors += [
        TemplateError(
            "unreachable",
            f"Stage {stage.name.text!r} follows no stage, but {beginnings[0].name.text!r} is already the first stage.",
            _place(stage).position,
            remedy="Name the stage that it follows in `after`.",
        )
        for stage in beginnings[1:]
    ]
    if errors:
        return (), errors
    followers = {before[stage.name.text]: stage for stage in stages}
    ordered: list[StageDraft] = [followers[None]]
    while ordered[-1].name.text in followers:
        ordered.append(followers[ordered[-1].name.text])
    return tuple(ordered), []


def _place(stage: StageDraft) -> Scalar:
    return stage.after or stage.name


def _repeated(stages: Sequence[StageDraft]) -> list[TemplateError]:
    lines: dict[str, int] = {}
    errors = []
    for stage in stages:
        name = stage.name
        if name.text in lines:
            errors.append(
                TemplateError(
                    "stage-twice",
                    f"Duplicate stage {name.text!r}; the first one is on line {lines[name.text]}.",
                    name.position,
                    remedy="Merge the two lists of handlers into one stage.",
                )
            )
        lines.setdefault(name.text, name.position.line)
    return errors


def _predecessors(stages: Sequence[StageDraft]) -> dict[str, str | None]:
    before: dict[str, str | None] = {}
    above: str | None = None
    for stage in stages:
        if stage.after is None:
            before[stage.name.text] = above
        else:
            before[stage.name.text] = None if stage.after.kind == "null" else stage.after.text
        above = stage.name.text
    return before


def _unknown(stages: Sequence[StageDraft], before: dict[str, str | None]) -> list[TemplateError]:
    errors = []
    for stage in stages:
        wanted = before[stage.name.text]
        if wanted is not None and wanted not in before:
            errors.append(
                TemplateError(
                    "unreachable",
                    f"Stage {stage.name.text!r} follows {wanted!r}, which does not exist in this template.",
                    _place(stage).position,
                    remedy=closest(wanted, before) or f"The stages are: {', '.join(before)}.",
                )
            )
    return errors


def _branches(stages: Sequence[StageDraft], before: dict[str, str | None]) -> list[TemplateError]:
    followers: dict[str, str] = {}
    errors = []
    for stage in stages:
        name, wanted = stage.name.text, before[stage.name.text]
        if wanted is None or wanted not in before or wanted == name:
            continue
        if wanted in followers:
            errors.append(
                TemplateError(
                    "branch",
                    f"Stages {followers[wanted]!r} and {name!r} both follow {wanted!r}: a branch.",
                    _place(stage).position,
                    remedy=_LINEAR_REMEDY,
                )
            )
        followers.setdefault(wanted, name)
    return errors


def _cycles(stages: Sequence[StageDraft], before: dict[str, str | None]) -> list[TemplateError]:
    errors = []
    seen: set[str] = set()
    for stage in stages:
        path: list[str] = []
        current: str | None = stage.name.text
        while current is not None and current in before and current not in seen:
            seen.add(current)
            path.append(current)
            current = before[current]
        if current in path:
            errors.append(_cycle(path[path.index(current) :], stages))
    return errors


def _cycle(members: list[str], stages: Sequence[StageDraft]) -> TemplateError:
    """Return the refusal of a cycle (``members`` in reverse order), at the first of its stages in the text."""
    first = next(stage for stage in stages if stage.name.text in members)
    start = members.index(first.name.text)
    flow = [*reversed(members[start + 1 :] + members[: start + 1])]
    return TemplateError(
        "cycle",
        f"The stages form a cycle: {' → '.join([*flow, flow[0]])}.",
        _place(first).position,
        remedy=_LINEAR_REMEDY,
    )
