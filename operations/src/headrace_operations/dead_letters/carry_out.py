"""Selects dead letters, plans a redrive or discard (the dry run), and carries it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from headrace.errors import ConfigurationError
from headrace_operations.actions import ActionRequest, Progress, new_request
from headrace_operations.cluster import Cluster
from headrace_operations.dead_letters.act import DISCARDED, Plan, plan
from headrace_operations.dead_letters.model import (
    ANY_STATE,
    Entry,
    Id,
    NoSuchDeadLetter,
    Selection,
    State,
    check,
    parse_id,
)


@dataclass(frozen=True, slots=True)
class Asked:
    """An operator's selection of dead letters: IDs, or filters that must all match; those of a batch are never open."""

    ids: Sequence[str] = ()
    stage: str | None = None
    reason: str | None = None
    document: str | None = None
    tenant: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    batch: str | None = None
    all_states: bool = False

    def selection(self, now: datetime) -> Selection:
        """Return the selection; raises :class:`ConfigurationError` for an invalid ID, stage or time."""
        named = frozenset(parse_id(one) for one in self.ids)
        conditions = (self.stage, self.reason, self.document, self.tenant, self.since, self.until, self.batch)
        if named and any(one is not None for one in conditions):
            raise ConfigurationError(
                "IDs and filters cannot be combined", where="ID", remedy="Pass either IDs or filters, not both."
            )
        states = ANY_STATE if named or self.batch or self.all_states else frozenset({State.OPEN})
        return check(Selection(named, *conditions, states), now)


@dataclass(frozen=True, slots=True)
class Request:
    """A request to redrive or discard dead letters: ``action`` is REDRIVEN or DISCARDED.

    ``everything`` confirms a selection without filters. ``again`` includes dead letters that were redriven before, and
    discarded ones too if they are selected by ID. ``limit`` takes only that many, the oldest first.
    """

    action: str
    selection: Selection
    why: str = ""
    everything: bool = False
    again: bool = False
    limit: int | None = None

    def checked(self) -> Request:
        """Return the request with the states to select; raises :class:`ConfigurationError` before reading anything."""
        if self.action == DISCARDED and not self.why.strip():
            raise ConfigurationError("a discard requires a reason", where="--why", remedy="Pass the reason with --why.")
        if not self.selection.narrow and not self.everything:
            raise ConfigurationError(
                "no dead letters selected", where="dlq",
                remedy="Pass IDs, a filter such as --stage or --reason, or --all.",
            )  # fmt: skip
        if not self.again:
            return self
        states = ANY_STATE if self.selection.ids else frozenset({State.OPEN, State.REDRIVEN})
        return replace(self, selection=replace(self.selection, states=states))


@dataclass(frozen=True, slots=True)
class Planned:
    """A request and its plan; nothing was written yet."""

    request: ActionRequest
    plan: Plan


@dataclass(frozen=True, slots=True)
class Done:
    """The dead letters that were acted on, and the plan they come from."""

    planned: Planned
    ids: Sequence[Id]

    @property
    def taken(self) -> list[Entry]:
        """The dead letters that were acted on."""
        ids = set(self.ids)
        return [entry for entry in self.planned.plan.taken if entry.id in ids]

    @property
    def overtaken(self) -> int:
        """How many were skipped because another command acted on them in the meantime."""
        return len(self.planned.plan.taken) - len(self.ids)


def plan_request(cluster: Cluster, request: Request) -> Planned:
    """Return the plan for the request: the dry run, and the input of :func:`carry_out`.

    Raises :class:`ConfigurationError` before reading anything, :class:`NoSuchDeadLetter` if nothing matches, and
    :class:`RefusedDeadLetter` if a dead letter selected by ID cannot be taken.
    """
    request = request.checked()
    action_request = new_request(request.action, by=cluster.by, why=request.why, again=request.again)
    found = plan(cluster.dead_letters().select(request.selection), action_request, named=bool(request.selection.ids))
    if request.limit is not None:
        found = replace(found, taken=found.taken[: request.limit])
    if not found.taken and not found.refused:
        asked = "no open dead letter" if len(request.selection.states) == 1 else "no dead letter"
        raise NoSuchDeadLetter(
            f"{asked} matches the filters",
            remedy="`headrace dlq list` shows the stages, reasons and causes; with --each, the documents.",
        )
    return Planned(action_request, found)


def carry_out(cluster: Cluster, planned: Planned, progress: Progress = lambda _: None) -> Done:
    """Carry out the plan; raises :class:`headrace.errors.DependencyDown`, which says how much was done."""
    return Done(planned, cluster.dead_letter_actor().carry_out(planned.plan.taken, planned.request, progress))
