"""Sending dead letters again and discarding them: which are meant, what would be done, and doing it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from headrace.errors import ConfigurationError
from headrace_operations.actions import Order, Progress, new_order
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
    """Which dead letters an operator names: ids, or conditions that all hold; a batch is never open."""

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
        """Return what is meant; raises :class:`ConfigurationError` for what cannot be: an id, a stage, a time."""
        named = frozenset(parse_id(one) for one in self.ids)
        conditions = (self.stage, self.reason, self.document, self.tenant, self.since, self.until, self.batch)
        if named and any(one is not None for one in conditions):
            raise ConfigurationError("ids and conditions exclude each other", where="ID", remedy="Give either.")
        states = ANY_STATE if named or self.batch or self.all_states else frozenset({State.OPEN})
        return check(Selection(named, *conditions, states), now)


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be done with the dead letters that are meant: ``action`` REDRIVEN or DISCARDED, and why.

    ``everything`` says that no narrower selection was meant to be given; ``again`` takes in those that were redriven
    before, and of those named by id also discarded ones; ``limit`` bounds them, the oldest first.
    """

    action: str
    selection: Selection
    why: str = ""
    everything: bool = False
    again: bool = False
    limit: int | None = None

    def checked(self) -> Request:
        """Return it with the states that it takes in; raises :class:`ConfigurationError` before anything is read."""
        if self.action == DISCARDED and not self.why.strip():
            raise ConfigurationError("a discard needs a reason", where="--why", remedy="Say why nothing is to be done.")
        if not self.selection.narrow and not self.everything:
            raise ConfigurationError(
                "it is not said which dead letters are meant", where="dlq",
                remedy="Name ids, give a condition such as --stage or --reason, or --all.",
            )  # fmt: skip
        if not self.again:
            return self
        states = ANY_STATE if self.selection.ids else frozenset({State.OPEN, State.REDRIVEN})
        return replace(self, selection=replace(self.selection, states=states))


@dataclass(frozen=True, slots=True)
class Planned:
    """An order with what it would take and what not, with why; nothing has moved yet."""

    order: Order
    plan: Plan


@dataclass(frozen=True, slots=True)
class Done:
    """What an order took, and how many another command acted upon meanwhile."""

    planned: Planned
    ids: Sequence[Id]

    @property
    def taken(self) -> list[Entry]:
        """The dead letters that it took."""
        ids = set(self.ids)
        return [entry for entry in self.planned.plan.taken if entry.id in ids]

    @property
    def overtaken(self) -> int:
        """How many were left out since another command acted upon them."""
        return len(self.planned.plan.taken) - len(self.ids)


def plan_request(cluster: Cluster, request: Request) -> Planned:
    """Return what the request comes to: the dry run, and what :func:`carry_out` does.

    Raises :class:`ConfigurationError` before anything is read, :class:`NoSuchDeadLetter` where nothing is meant, and
    :class:`RefusedDeadLetter` where one that was named by id cannot be taken.
    """
    request = request.checked()
    order = new_order(request.action, by=cluster.by, why=request.why, again=request.again)
    found = plan(cluster.dead_letters().select(request.selection), order, named=bool(request.selection.ids))
    if request.limit is not None:
        found = replace(found, taken=found.taken[: request.limit])
    if not found.taken and not found.refused:
        asked = "no open dead letter" if len(request.selection.states) == 1 else "no dead letter"
        raise NoSuchDeadLetter(
            f"{asked} meets the conditions",
            remedy="`headrace dlq list` shows the stages, reasons and causes that there are; --each the documents.",
        )
    return Planned(order, found)


def carry_out(cluster: Cluster, planned: Planned, progress: Progress = lambda _: None) -> Done:
    """Do what was planned, and note it; raises :class:`headrace.errors.DependencyDown` telling how far it came."""
    return Done(planned, cluster.dead_letter_actor().carry_out(planned.plan.taken, planned.order, progress))
