"""Deterministic replacements for the clock and the compute thread; they need no thread."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from headrace.runtime.loop.batch import Batch, BatchResult
from headrace.runtime.loop.events import ComputeReturned


class FakeClock:
    """A clock that moves only when it is told to."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return the time."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Advance the clock."""
        self.now += seconds


class InlineComputer:
    """Computes one submitted batch in each :meth:`wait`, in the caller's thread.

    ``compute`` returns the result or raises an error, like the handlers. While ``blocked``, no batch is ready, and
    :meth:`wait` advances the clock by its timeout instead.
    """

    def __init__(self, compute: Callable[[Batch], BatchResult], clock: FakeClock) -> None:
        self.blocked = False
        self.pending: list[Batch] = []
        self.cancelled: list[int] = []
        self._compute = compute
        self._clock = clock

    def submit(self, batch: Batch) -> None:
        """Queue the batch behind those submitted before."""
        self.pending.append(batch)

    def cancel(self, number: int) -> None:
        """Forget the batch."""
        self.cancelled.append(number)
        self.pending = [batch for batch in self.pending if batch.number != number]

    def wait(self, timeout: float) -> ComputeReturned | None:
        """Compute the oldest batch and return its outcome; None if there is none, or while blocked."""
        if self.blocked or not self.pending:
            self._clock.advance(timeout)
            return None
        batch = self.pending.pop(0)
        outcome: BatchResult | BaseException
        try:
            outcome = self._compute(batch)
        except Exception as error:  # noqa: BLE001  # the decision tells what it means
            outcome = error
        return ComputeReturned(self._clock(), batch.number, outcome, 0.5)


def run_inline(process: Callable[[Batch], Awaitable[BatchResult]]) -> Callable[[Batch], BatchResult]:
    """Return a stage processor's coroutine function as a function for :class:`InlineComputer`."""

    async def wait_for(batch: Batch) -> BatchResult:
        return await process(batch)

    return lambda batch: asyncio.run(wait_for(batch))
