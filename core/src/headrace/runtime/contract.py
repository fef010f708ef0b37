"""What a worker needs besides a broker: its lane, a computer for batches, operators' orders, and time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, Protocol

from headrace.runtime.loop.batch import Batch
from headrace.runtime.loop.events import ComputeReturned
from headrace.runtime.loop.limits import Limits

LaneName = Literal["live", "side"]
"""The live lane reads the stage's source topic; the side lane reads retries and replays (ADR 8)."""

Watch = Callable[[str], AbstractContextManager[None]]
"""Watches the block as one call of the name; see :class:`headrace.runtime.watchdog.Watchdog`."""


@dataclass(frozen=True, slots=True)
class Lane:
    """What a worker reads, and its limits; stage and name are labels of its metrics."""

    stage: str
    topics: Sequence[str]
    limits: Limits
    name: LaneName = "live"


@dataclass(frozen=True, slots=True)
class Time:
    """Source of time and randomness: monotonic seconds, seconds since 1970, random numbers from 0 to 1."""

    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    jitter: Callable[[], float] = random.random


class Computer(Protocol):
    """Computes batches beside the loop, one at a time, in the order of submission."""

    def submit(self, batch: Batch) -> None:
        """Queue the batch; return at once."""

    def cancel(self, number: int) -> None:
        """Stop computing the batch, or never start it; its outcome no longer matters."""

    def wait(self, timeout: float) -> ComputeReturned | None:
        """Return the next outcome, or None after ``timeout`` seconds."""


class Orders(Protocol):
    """What operators currently order for this stage."""

    def paused(self) -> str | None:
        """Return why no batch may start, or None."""

    def resumes(self) -> int:
        """Return how often operators resumed the stage; an increase resumes a stage that stopped itself."""


class NoOrders:
    """Orders for a worker that follows none."""

    def paused(self) -> str | None:
        """Return None: never paused."""
        return None

    def resumes(self) -> int:
        """Return 0."""
        return 0


def unwatched(_call: str) -> AbstractContextManager[None]:
    """Watch nothing."""
    return nullcontext()


def never_busy() -> bool:
    """Return False: no live lane runs beside this one."""
    return False
