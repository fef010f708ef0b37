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
from headrace.runtime.loop.suspicion import Suspicion, deadly, marks, taken_alone, unproven


@dataclass(frozen=True, slots=True)
class Recovery:
    """What must happen before the worker reads again: a new producer if ``renew``, then a rewind."""

    renew: bool = False

    @property
    def step(self) -> RecoveryStep:
        """The step to do next."""
        return RecoveryStep.RENEW if self.renew else RecoveryStep.REWIND


@dataclass(frozen=True, slots=True)
class Computed:
    """A batch with its result, waiting for its transaction or in it."""

    batch: Batch
    result: BatchResult


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Where the records in progress are."""

    buffer: tuple[Record, ...] = ()
    buffered_since: float = 0.0
    snapshot: Snapshot | None = None
    """The membership that the buffer was read under."""
    computing: Batch | None = None
    computed: Computed | None = None
    recovery: Recovery | None = None
    """Records that arrive before the recovery ends are dropped, because they are read again after it."""
    next_number: int = 1

    @property
    def idle(self) -> bool:
        """Whether no batch is in progress."""
        return self.computing is None and self.computed is None


def read(pipeline: Pipeline, records: Sequence[Record], now: float) -> Pipeline:
    """Add records to the buffer."""
    if not records:
        return pipeline
    since = pipeline.buffered_since if pipeline.buffer else now
    return replace(pipeline, buffer=(*pipeline.buffer, *records), buffered_since=since)


def room(pipeline: Pipeline, limits: Limits) -> int:
    """Return how many more records the buffer takes: 0 if it has a full batch, by records or bytes."""
    left = limits.batch_records - len(pipeline.buffer)
    if left <= 0 or sum(len(record.value or b"") for record in pipeline.buffer) >= limits.batch_bytes:
        return 0
    return left


def due_at(pipeline: Pipeline, limits: Limits) -> float:
    """Return when to seal a buffer that is not full."""
    return pipeline.buffered_since + limits.linger_s


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


def ready(pipeline: Pipeline, pacing: Pacing, suspicion: Suspicion, now: float, limits: Limits) -> bool:
    """Whether to seal the buffer now: it is full, or its first record has waited long enough."""
    if pipeline.computing is not None or not pipeline.buffer or yields(pacing, pipeline.buffer, now, limits):
        return False
    if pipeline.computed is not None and unproven(suspicion, pipeline.buffer):
        return False  # a mark is written at the committed offset, which is about to move
    return room(pipeline, limits) == 0 or now >= due_at(pipeline, limits)


def seal(
    pipeline: Pipeline, pacing: Pacing, suspicion: Suspicion, now: float, limits: Limits
) -> tuple[Pipeline, list[Command]]:
    """Make a batch of the buffer's first records. It keeps the current membership and never takes a newer one."""
    most, bytes_most = batch_bounds(pacing, pipeline.buffer[0], limits)
    records = cut(pipeline.buffer, most, bytes_most, partial(taken_alone, suspicion))
    batch = Batch(
        pipeline.next_number, records, pipeline.snapshot, now,
        marks=marks(suspicion, records), deadly=deadly(suspicion, records, limits),
    )  # fmt: skip
    rest = pipeline.buffer[len(records) :]
    sealed = replace(pipeline, buffer=rest, buffered_since=now, computing=batch, next_number=batch.number + 1)
    return sealed, [Compute(batch)]


def compute_again(pipeline: Pipeline, batch: Batch) -> Pipeline:
    """Count one more attempt at the batch."""
    return replace(pipeline, computing=replace(batch, attempt=batch.attempt + 1))


def computed(pipeline: Pipeline, batch: Batch, result: BatchResult) -> Pipeline:
    """Store the result; the next batch may be computed while this one is committed."""
    return replace(pipeline, computing=None, computed=Computed(batch, result))


def committed(pipeline: Pipeline) -> Pipeline:
    """Forget the committed batch."""
    return replace(pipeline, computed=None)


def doom(pipeline: Pipeline, *, renew: bool) -> tuple[Pipeline, list[Command]]:
    """Drop everything in progress and restart at the committed offsets; a pending renewal stays pending."""
    renew = renew or (pipeline.recovery is not None and pipeline.recovery.renew)
    commands: list[Command] = [] if pipeline.computing is None else [Cancel(pipeline.computing.number)]
    return Pipeline(recovery=Recovery(renew=renew), next_number=pipeline.next_number), commands


def recovered(pipeline: Pipeline) -> Pipeline:
    """Mark one recovery step as done."""
    renewed = pipeline.recovery is not None and pipeline.recovery.renew
    return replace(pipeline, recovery=Recovery() if renewed else None)


def leave_buffer(pipeline: Pipeline) -> Pipeline:
    """Leave unsealed records to the next owner of the partitions."""
    return replace(pipeline, buffer=())
