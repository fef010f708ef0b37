"""Decisions on outputs that wait for a review, and what waits."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.errors import ConfigurationError
from headrace_operations.actions import Order, Progress, new_order
from headrace_operations.cluster import Cluster
from headrace_operations.held.act import Done
from headrace_operations.held.log import FoundHeld
from headrace_operations.held.model import REJECTED, HeldEntry, HeldId, HeldSelection, check, parse_id


@dataclass(frozen=True, slots=True)
class Decision:
    """What is decided (``APPROVED`` or ``REJECTED``) on which held records, by their ids, and why."""

    action: str
    ids: frozenset[HeldId]
    why: str = ""


@dataclass(frozen=True, slots=True)
class Decided:
    """What came of a decision, or would; ``overtaken`` are records that another command decided on meanwhile."""

    order: Order
    done: Done
    overtaken: int


def decision(action: str, names: list[str], why: str) -> Decision:
    """Return the decision; raises :class:`ConfigurationError` for an id that cannot be, and a rejection without why."""
    if action == REJECTED and not why.strip():
        raise ConfigurationError("a rejection needs a reason", where="--why", remedy="Say what is wrong with it.")
    return Decision(action, frozenset(parse_id(name) for name in names), why)


def decide(cluster: Cluster, asked: Decision, *, dry_run: bool = False, progress: Progress = lambda _: None) -> Decided:
    """Have outputs go on, or turn them down as dead letters; a dry run only says what would be.

    Raises :class:`NoSuchHeldRecord` and :class:`RefusedHeldRecord` before anything moves.
    """
    order = new_order(asked.action, by=cluster.by, why=asked.why)
    actor = cluster.held_actor()
    if dry_run:
        return Decided(order, actor.plan(asked.ids, order), 0)
    done = actor.decide(asked.ids, order, progress)
    return Decided(order, done, len(asked.ids) - len(done.taken) - len(done.before))


def held_records(cluster: Cluster, selection: HeldSelection) -> list[HeldEntry]:
    """Return what waits and is meant, the oldest first; raises :class:`ConfigurationError` for what cannot be."""
    return cluster.held().select(check(selection))


def held_record(cluster: Cluster, name: str) -> FoundHeld:
    """Return the held record with its payload; raises :class:`NoSuchHeldRecord` with what became of it."""
    return cluster.held().one(parse_id(name))
