"""What can happen to a worker. Each event has the time, and the jitter for a back-off that may follow.

Times are monotonic seconds; ``jitter`` is a random number from 0 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.kafka.broker_contract import BrokerError, Polled, Snapshot
from headrace.runtime.loop.batch import BatchResult


@dataclass(frozen=True, slots=True)
class PollReturned:
    """A poll returned, with the membership at that time."""

    now: float
    polled: Polled
    snapshot: Snapshot | None
    wall_ahead: float = 0.0
    """Seconds since 1970 minus ``now``, because due times use the wall clock."""


@dataclass(frozen=True, slots=True)
class PollFailed:
    """A poll raised."""

    now: float
    error: BrokerError
    jitter: float


@dataclass(frozen=True, slots=True)
class ComputeReturned:
    """A batch was computed, or failed: ``outcome`` is its result or the error that stopped it."""

    now: float
    number: int
    outcome: BatchResult | BaseException
    jitter: float


@dataclass(frozen=True, slots=True)
class CommitReturned:
    """The transaction of the computed batch ended; None is success."""

    now: float
    error: BrokerError | None
    jitter: float


@dataclass(frozen=True, slots=True)
class RecoveryReturned:
    """A step of the recovery ended; None is success."""

    now: float
    error: BrokerError | None
    jitter: float


@dataclass(frozen=True, slots=True)
class OrdersChanged:
    """The orders for the stage changed."""

    now: float
    paused: str | None
    """Why no batch may start, or None."""
    resumes: int
    """How often operators resumed the stage."""


@dataclass(frozen=True, slots=True)
class LiveLaneChanged:
    """The live lane became busy or idle; only the side lane is told."""

    now: float
    busy: bool


@dataclass(frozen=True, slots=True)
class StopRequested:
    """The worker should drain and end (SIGTERM)."""

    now: float


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed."""

    now: float


Event = (
    PollReturned
    | PollFailed
    | ComputeReturned
    | CommitReturned
    | RecoveryReturned
    | OrdersChanged
    | LiveLaneChanged
    | StopRequested
    | Tick
)
