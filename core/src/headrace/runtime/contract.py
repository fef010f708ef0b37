"""What a worker is given beside a broker: its lane, what computes, operators' orders, time."""

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
"""The live lane reads a stage's source; the side lane reads what comes a second time (ADR 8)."""

Watch = Callable[[str], AbstractContextManager[None]]
"""Watches the block as one call of the name; see :class:`headrace.runtime.watchdog.Watchdog`."""


@dataclass(frozen=True, slots=True)
class Lane:
    """What a worker reads, and its bounds; stage and name are labels of its metrics."""

    stage: str
    topics: Sequence[str]
    limits: Limits
    name: LaneName = "live"


@dataclass(frozen=True, slots=True)
class Time:
    """Where time and chance come from: monotonic seconds, seconds since 1970, random numbers from 0 to 1."""

    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    jitter: Callable[[], float] = random.random


class Computer(Protocol):
    """Computes batches beside the loop, one after the other, in the order that they were submitted."""

    def submit(self, batch: Batch) -> None:
        """Take the batch up; return at once."""

    def cancel(self, number: int) -> None:
        """Stop computing the batch, or never start it; its outcome no longer matters."""

    def wait(self, timeout: float) -> ComputeReturned | None:
        """Return the next outcome, or None after ``timeout`` seconds."""


class Orders(Protocol):
    """What operators want of this stage now."""

    def paused(self) -> str | None:
        """Return why no batch is to be started, or None."""

    def resumes(self) -> int:
        """Return how often the stage was told to go on; a rise lets it go on after it stopped itself."""


class NoOrders:
    """The orders of a worker that takes none."""

    def paused(self) -> str | None:
        """Return None: go on."""
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
