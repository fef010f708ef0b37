"""Operators' orders: the compacted topic ``control``, followed by every stage, written by the command line.

The newest order for a scope and target is in force, so an order stays in force across restarts until it is replaced.
"""

from __future__ import annotations

from enum import StrEnum

from headrace.codec.codec import Codec
from headrace.config.settings import KafkaSettings
from headrace.envelope import Context
from headrace.errors import InvalidRecord
from headrace.kafka.follower import TopicFollower
from headrace.payloads import Control

TOPIC = "control"


class Scope(StrEnum):
    """What an order applies to."""

    STAGE = "stage"
    PIPELINE = "pipeline"
    TENANT = "tenant"
    RUN = "run"


class Action(StrEnum):
    """What an order tells the workers to do."""

    PAUSE = "PAUSE"
    RESUME = "RESUME"
    CANCEL = "CANCEL"


_PAUSES = {Action.PAUSE, Action.RESUME}
_ACTIONS = {Scope.STAGE: _PAUSES, Scope.PIPELINE: _PAUSES, Scope.TENANT: _PAUSES, Scope.RUN: set(Action)}


def check(order: Control) -> Control:
    """Return the order if it is valid; raise :class:`InvalidRecord` naming the field if not."""
    if order.scope not in list(Scope):
        raise InvalidRecord("scope", f"is {order.scope!r}; allowed are {', '.join(Scope)}")
    allowed = sorted(_ACTIONS[Scope(order.scope)])
    if order.action not in allowed:
        raise InvalidRecord("action", f"is {order.action!r}; allowed for a {order.scope} are {', '.join(allowed)}")
    if not order.target:
        raise InvalidRecord("target", "is empty")
    return order


class OrderBook:
    """The newest order by scope and target; safe across threads, since each change is one assignment."""

    def __init__(self) -> None:
        self._orders: dict[tuple[str, str], Control] = {}
        self._resumes: dict[tuple[str, str], int] = {}

    def take(self, order: Control) -> None:
        """Apply an order; raises :class:`InvalidRecord` for an invalid one and changes nothing then."""
        check(order)
        key = (order.scope, order.target)
        self._orders[key] = order
        if order.action == Action.RESUME:
            self._resumes[key] = self._resumes.get(key, 0) + 1

    def newest(self, scope: Scope, target: str) -> Control | None:
        """Return the order in force, or None if there never was one."""
        return self._orders.get((scope, target))

    def all(self) -> list[Control]:
        """Return every order in force, by scope and target."""
        return [self._orders[key] for key in sorted(self._orders)]

    def resumes(self, scope: Scope, target: str) -> int:
        """Return how many orders to resume were read so far."""
        return self._resumes.get((scope, target), 0)


class StageOrders:
    """The orders for one stage.

    See :class:`headrace.runtime.contract.Orders` and :class:`headrace.runtime.process.Holds`.
    """

    def __init__(self, book: OrderBook, stage: str) -> None:
        self._book = book
        self._stage = stage

    def paused(self) -> str | None:
        """Return who paused the stage and why, or None."""
        return self._pause(Scope.STAGE, self._stage)

    def held(self, context: Context) -> tuple[str, str] | None:
        """Return why to hold the record, as scope with target and reason, or None to process it."""
        of = ((Scope.TENANT, context.change.tenant), (Scope.PIPELINE, context.trace.pipeline_id))
        for scope, target in of:
            why = self._pause(scope, target)
            if why is not None:
                return f"{scope}/{target}", why
        return None

    def _pause(self, scope: Scope, target: str) -> str | None:
        order = self._book.newest(scope, target)
        if order is None or order.action != Action.PAUSE:
            return None
        return f"paused by {order.issued_by}{f': {order.reason}' if order.reason else ''}"

    def resumes(self) -> int:
        """Return how often operators resumed the stage."""
        return self._book.resumes(Scope.STAGE, self._stage)


def follow(kafka: KafkaSettings, codec: Codec, book: OrderBook) -> TopicFollower[Control]:
    """Return a follower that fills the book. The caller starts and closes it."""
    return TopicFollower(kafka, codec, TOPIC, Control, book.take)
