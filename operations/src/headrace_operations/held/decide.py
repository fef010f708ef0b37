"""Decides on outputs that wait for a review, and lists held records."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.errors import ConfigurationError
from headrace_operations.actions import ActionRequest, Progress, new_request
from headrace_operations.cluster import Cluster
from headrace_operations.held.act import Done
from headrace_operations.held.log import FoundHeld
from headrace_operations.held.model import REJECTED, HeldEntry, HeldId, HeldSelection, check, parse_id


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision (``APPROVED`` or ``REJECTED``) on held records, by ID, with the reason."""

    action: str
    ids: frozenset[HeldId]
    why: str = ""


@dataclass(frozen=True, slots=True)
class Decided:
    """The result of a decision or dry run; ``overtaken`` counts records that another command decided on meanwhile."""

    request: ActionRequest
    done: Done
    overtaken: int


def decision(action: str, names: list[str], why: str) -> Decision:
    """Return the decision; raises :class:`ConfigurationError` for an invalid ID or a rejection without a reason."""
    if action == REJECTED and not why.strip():
        raise ConfigurationError("a rejection requires a reason", where="--why", remedy="Pass the reason with --why.")
    return Decision(action, frozenset(parse_id(name) for name in names), why)


def decide(cluster: Cluster, asked: Decision, *, dry_run: bool = False, progress: Progress = lambda _: None) -> Decided:
    """Approve outputs, or reject them as dead letters; a dry run only returns the plan.

    Raises :class:`NoSuchHeldRecord` and :class:`RefusedHeldRecord` before anything is written.
    """
    request = new_request(asked.action, by=cluster.by, why=asked.why)
    actor = cluster.held_actor()
    if dry_run:
        return Decided(request, actor.plan(asked.ids, request), 0)
    done = actor.decide(asked.ids, request, progress)
    return Decided(request, done, len(asked.ids) - len(done.taken) - len(done.before))


def held_records(cluster: Cluster, selection: HeldSelection) -> list[HeldEntry]:
    """Return the selected held records, oldest first; raises :class:`ConfigurationError` for an invalid selection."""
    return cluster.held().select(check(selection))


def held_record(cluster: Cluster, name: str) -> FoundHeld:
    """Return the held record with its payload; raises :class:`NoSuchHeldRecord`, which names its action if any."""
    return cluster.held().one(parse_id(name))
