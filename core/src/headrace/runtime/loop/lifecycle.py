"""Whether the worker continues: operators' orders, too many dead letters, a stop request, fatal errors."""

from __future__ import annotations

from dataclasses import dataclass, replace

from headrace.kafka.broker_contract import BrokerError, OffsetsLost, ProducerFenced
from headrace.runtime.loop.batch import Batch, BatchResult
from headrace.runtime.loop.events import OrdersChanged, StopRequested
from headrace.runtime.loop.limits import Limits

EXIT_DONE = 0
EXIT_BUG = 70
EXIT_FENCED = 71
EXIT_OFFSETS_LOST = 72


@dataclass(frozen=True, slots=True)
class Exit:
    """The worker ends: the process's exit code, and why."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """What prevents the worker from starting batches, or ends it."""

    paused: str | None = None
    """Why no batch may start: an operator's order."""
    resumes: int = 0
    """How often operators resumed the stage."""
    stopped: str | None = None
    """Why the stage stopped itself: too many dead letters. An operator resumes it."""
    recent: tuple[tuple[int, int], ...] = ()
    """Records and faults of the newest batches."""
    draining_until: float | None = None
    exit: Exit | None = None

    @property
    def draining(self) -> bool:
        """Whether the worker finishes running batches and starts no more."""
        return self.draining_until is not None

    @property
    def idles(self) -> bool:
        """Whether the stage is paused by an operator or stopped itself."""
        return self.paused is not None or self.stopped is not None


def ordered(lifecycle: Lifecycle, event: OrdersChanged) -> Lifecycle:
    """Apply the orders; a new resume order ends a stop of the stage."""
    taken = replace(lifecycle, paused=event.paused, resumes=event.resumes)
    return replace(taken, stopped=None, recent=()) if event.resumes > lifecycle.resumes else taken


def drain(lifecycle: Lifecycle, event: StopRequested, limits: Limits) -> Lifecycle:
    """Start draining; a second request changes nothing."""
    if lifecycle.draining:
        return lifecycle
    return replace(lifecycle, draining_until=event.now + limits.drain_s)


def judge(lifecycle: Lifecycle, batch: Batch, result: BatchResult, limits: Limits) -> Lifecycle:
    """Count the batch's faults, and stop the stage if the newest records have too many."""
    recent = [*lifecycle.recent, (len(batch.records), result.faults)]
    while sum(count for count, _ in recent[1:]) >= limits.dead_letter_window:
        recent.pop(0)
    seen = sum(count for count, _ in recent)
    faults = sum(faulty for _, faulty in recent)
    if result.faults and seen >= limits.dead_letter_window and faults > limits.dead_letter_share * seen:
        stopped = f"{faults} of the last {seen} records were dead-lettered for reasons other than invalid input"
        return replace(lifecycle, stopped=stopped, recent=())
    return replace(lifecycle, recent=tuple(recent))


def end(lifecycle: Lifecycle, code: int, reason: str) -> Lifecycle:
    """End the worker."""
    return replace(lifecycle, exit=Exit(code, reason))


def exit_code_of(error: BrokerError | None) -> int | None:
    """Return the exit code for an error that no retry repairs, None for any other."""
    if isinstance(error, ProducerFenced):
        return EXIT_FENCED
    return EXIT_OFFSETS_LOST if isinstance(error, OffsetsLost) else None


def finish(lifecycle: Lifecycle, now: float, *, idle: bool) -> Lifecycle:
    """End a draining worker when it is idle or its time is over."""
    if lifecycle.draining_until is None or not (idle or now >= lifecycle.draining_until):
        return lifecycle
    return end(
        lifecycle,
        EXIT_DONE,
        "drained" if idle else "the drain time is over; the next owner of the partitions does the rest",
    )
