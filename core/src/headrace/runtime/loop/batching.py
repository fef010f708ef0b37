"""The life of a batch: records are read into the buffer, sealed, computed and committed.

One batch is computed while its predecessor commits. When the membership becomes stale, both batches and the buffer are
dropped, and reading starts again at the committed offsets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from headrace.kafka.broker_contract import Record, Snapshot
from headrace.runtime.loop.batch import Batch, BatchResult
from headrace.runtime.loop.commands import Cancel, Command, Compute, RecoveryStep
from headrace.runtime.loop.limits import Limits
from headrace.runtime.loop.pacing import Pacing, batch_bounds, yields
from headrace.runtime.loop.suspicion import Suspicion, alone, deadly, marks, unproven


@dataclass(frozen=True, slots=True)
class Recovery:
    """What must happen before the worker reads again: a new producer if ``renew``, then a rewind."""

    renew: bool = False

    @property
    def step(self) -> RecoveryStep:
        """The step to do next."""
        return RecoveryStep.RENEW if self.renew else RecoveryStep.REWIND


@dataclass(frozen=True, slots=True)
class AwaitingCommit:
    """A batch with its result, waiting for its transaction or in it."""

    batch: Batch
    result: BatchResult


@dataclass(frozen=True, slots=True)
class InProgress:
    """Where the records in progress are."""

    buffer: tuple[Record, ...] = ()
    buffered_since: float = 0.0
    snapshot: Snapshot | None = None
    """The membership at the last poll that returned records. A rebalance drops the buffer, so no older one fits."""
    computing: Batch | None = None
    awaiting_commit: AwaitingCommit | None = None
    recovery: Recovery | None = None
    """Records that arrive before the recovery ends are dropped, because they are read again after it."""
    next_number: int = 1

    @property
    def idle(self) -> bool:
        """Whether no batch is in progress."""
        return self.computing is None and self.awaiting_commit is None


def read(in_progress: InProgress, records: Sequence[Record], now: float) -> InProgress:
    """Add records to the buffer."""
    if not records:
        return in_progress
    since = in_progress.buffered_since if in_progress.buffer else now
    return replace(in_progress, buffer=(*in_progress.buffer, *records), buffered_since=since)


def room(in_progress: InProgress, limits: Limits) -> int:
    """Return how many more records the buffer takes: 0 if it has a full batch, by records or bytes."""
    left = limits.batch_records - len(in_progress.buffer)
    if left <= 0 or sum(len(record.value or b"") for record in in_progress.buffer) >= limits.batch_bytes:
        return 0
    return left


def due_at(in_progress: InProgress, limits: Limits) -> float:
    """Return when to seal a buffer that is not full."""
    return in_progress.buffered_since + limits.linger_s


def cut(buffer: Sequence[Record], most: int, bytes_most: int, alone: Callable[[Record], bool]) -> tuple[Record, ...]:
    """Return the first records of a buffer that fit into one batch; at least one.

    A record for which ``alone`` is true gets its own batch.
    """
    taken: list[Record] = []
    size = 0
    for record in buffer[:most]:
        size += len(record.value or b"")
        single = alone(record)
        if taken and (single or size > bytes_most):
            break
        taken.append(record)
        if single:
            break
    return tuple(taken)


def ready(in_progress: InProgress, pacing: Pacing, suspicion: Suspicion, now: float, limits: Limits) -> bool:
    """Whether to seal the buffer now: it is full, or its first record has waited long enough.

    After a batch was cut from the buffer, the wait of the remaining records starts again.
    """
    if in_progress.computing is not None or not in_progress.buffer or yields(pacing, in_progress.buffer, now, limits):
        return False
    if in_progress.awaiting_commit is not None and unproven(suspicion, in_progress.buffer):
        return False  # a mark is written at the committed offset, which is about to move
    return room(in_progress, limits) == 0 or now >= due_at(in_progress, limits)


def seal(
    in_progress: InProgress, pacing: Pacing, suspicion: Suspicion, now: float, limits: Limits
) -> tuple[InProgress, list[Command]]:
    """Make a batch of the buffer's first records. It keeps the current membership and never takes a newer one."""
    most, bytes_most = batch_bounds(pacing, in_progress.buffer[0], limits)
    records = cut(in_progress.buffer, most, bytes_most, partial(alone, suspicion))
    batch = Batch(
        in_progress.next_number, records, in_progress.snapshot, now,
        marks=marks(suspicion, records), deadly=deadly(suspicion, records, limits),
    )  # fmt: skip
    rest = in_progress.buffer[len(records) :]
    sealed = replace(in_progress, buffer=rest, buffered_since=now, computing=batch, next_number=batch.number + 1)
    return sealed, [Compute(batch)]


def compute_again(in_progress: InProgress, batch: Batch) -> InProgress:
    """Count one more attempt at the batch; it starts when the dependency's wait is over."""
    return replace(in_progress, computing=replace(batch, attempt=batch.attempt + 1))


def start_again(in_progress: InProgress, batch: Batch, now: float) -> tuple[InProgress, list[Command]]:
    """Start the next attempt: the wait before it is not time that the batch took."""
    again = replace(batch, started_at=now)
    return replace(in_progress, computing=again), [Compute(again)]


def computed(in_progress: InProgress, batch: Batch, result: BatchResult) -> InProgress:
    """Store the result; the next batch may be computed while this one is committed."""
    return replace(in_progress, computing=None, awaiting_commit=AwaitingCommit(batch, result))


def committed(in_progress: InProgress) -> InProgress:
    """Forget the committed batch."""
    return replace(in_progress, awaiting_commit=None)


def doom(in_progress: InProgress, *, renew: bool) -> tuple[InProgress, list[Command]]:
    """Drop everything in progress and restart at the committed offsets; a pending renewal stays pending."""
    renew = renew or (in_progress.recovery is not None and in_progress.recovery.renew)
    commands: list[Command] = [] if in_progress.computing is None else [Cancel(in_progress.computing.number)]
    return InProgress(recovery=Recovery(renew=renew), next_number=in_progress.next_number), commands


def recovered(in_progress: InProgress) -> InProgress:
    """Mark one recovery step as done."""
    renewed = in_progress.recovery is not None and in_progress.recovery.renew
    return replace(in_progress, recovery=Recovery() if renewed else None)


def leave_buffer(in_progress: InProgress) -> InProgress:
    """Leave unsealed records to the next owner of the partitions."""
    return replace(in_progress, buffer=())
