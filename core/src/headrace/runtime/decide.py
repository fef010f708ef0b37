"""What a worker does next, as a pure function: ``state + event -> state, commands``.

No clock, no broker and no randomness in here; the loop (:mod:`headrace.runtime.worker`) brings time and jitter with
the events and carries out the commands. Times are monotonic seconds.

A batch's life: sealed from the buffer with the snapshot of the membership that its records were read under, computed
outside any transaction, committed in one. One batch computes while its predecessor commits. Whatever makes the
snapshot stale dooms every batch and the buffer, and reading starts again at the committed offsets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from headrace.broker.contract import (
    BrokerError,
    Message,
    OffsetsLost,
    Polled,
    ProducerFenced,
    Record,
    TransactionUncertain,
)
from headrace.errors import DependencyDown, HeadraceError, TemporaryError

HOLD_AFTER_S = 1.0
"""A batch that computes longer than this has fetching paused, so that polling can keep up the membership."""
IDLE_POLL_S = 0.25
BUSY_POLL_MAX_S = 0.02

EXIT_DONE = 0
EXIT_BUG = 70
EXIT_FENCED = 71
EXIT_OFFSETS_LOST = 72


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of batches and waits; seconds and bytes."""

    batch_records: int = 500
    batch_bytes: int = 16 * 1024 * 1024
    linger_s: float = 0.0
    backoff_s: float = 0.5
    backoff_max_s: float = 30.0
    drain_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Batch:
    """Records sealed together, with the membership that they were read under; ``attempt`` counts from 1."""

    number: int
    records: tuple[Record, ...]
    snapshot: Any
    sealed_at: float
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What a batch came to: the messages to write, dead letters among them, and counts for the metrics."""

    messages: Sequence[Message]
    dead_letters: int = 0


@dataclass(frozen=True, slots=True)
class Waiting:
    """The stage waits for a dependency until ``until``; ``failures`` in a row so far."""

    reason: str
    dependency: str
    until: float
    failures: int
    recompute: bool = False
    """The batch under way failed for it and is computed again when the wait is over."""


@dataclass(frozen=True, slots=True)
class State:
    """Everything that the decision rests on."""

    buffer: tuple[Record, ...] = ()
    buffered_since: float = 0.0
    snapshot: Any = None
    computing: Batch | None = None
    computed: tuple[Batch, BatchResult] | None = None
    held: bool = False
    waiting: Waiting | None = None
    recovery: tuple[str, ...] = ()
    """Steps still to do before reading goes on: ``renew``, ``rewind``."""
    draining_until: float | None = None
    next_number: int = 1
    exit_code: int | None = None
    exit_reason: str = ""


@dataclass(frozen=True, slots=True)
class PollReturned:
    """A poll came back, with the membership as of then."""

    now: float
    polled: Polled
    snapshot: Any


@dataclass(frozen=True, slots=True)
class PollFailed:
    """A poll raised."""

    now: float
    error: BrokerError
    jitter: float = 0.0


@dataclass(frozen=True, slots=True)
class ComputeReturned:
    """A batch was computed, or failed: ``outcome`` is its result or the error that stopped it."""

    now: float
    number: int
    outcome: BatchResult | BaseException
    jitter: float = 0.0


@dataclass(frozen=True, slots=True)
class CommitReturned:
    """A transaction ended; None is success."""

    now: float
    number: int
    error: BrokerError | None


@dataclass(frozen=True, slots=True)
class RecoveryReturned:
    """A recovery step ended; None is success."""

    now: float
    step: str
    error: BrokerError | None
    jitter: float = 0.0


@dataclass(frozen=True, slots=True)
class StopRequested:
    """Somebody asked the worker to finish (SIGTERM)."""

    now: float


@dataclass(frozen=True, slots=True)
class Tick:
    """Time went by."""

    now: float


Event = PollReturned | PollFailed | ComputeReturned | CommitReturned | RecoveryReturned | StopRequested | Tick


@dataclass(frozen=True, slots=True)
class Compute:
    """Hand the batch to the handlers."""

    batch: Batch


@dataclass(frozen=True, slots=True)
class Cancel:
    """The batch is doomed: stop computing it, drop what it comes to."""

    number: int


@dataclass(frozen=True, slots=True)
class Commit:
    """Write the result and the batch's offsets in one transaction."""

    batch: Batch
    result: BatchResult


@dataclass(frozen=True, slots=True)
class Recover:
    """Do the step: ``renew`` the producer or ``rewind`` to the committed offsets."""

    step: str


@dataclass(frozen=True, slots=True)
class Hold:
    """Stop fetching; polls go on."""


@dataclass(frozen=True, slots=True)
class Release:
    """Fetch again."""


Command = Compute | Cancel | Commit | Recover | Hold | Release


@dataclass(frozen=True, slots=True)
class Wait:
    """What the loop waits for next: a poll for ``max_records``, or, with 0, for the computation alone."""

    max_records: int
    timeout: float


def decide(state: State, event: Event, limits: Limits) -> tuple[State, list[Command]]:
    """Return the state after the event and the commands to carry out, in order."""
    state, commands = _apply(state, event, limits)
    if state.exit_code is not None:
        return state, commands
    state, following = _advance(state, event.now, limits)
    return state, commands + following


def next_wait(state: State, now: float, limits: Limits) -> Wait:
    """Return what to wait for; short while a batch computes, so that its commit follows at once."""
    room = limits.batch_records - len(state.buffer)
    if state.waiting is not None:
        return Wait(1, max(0.0, min(state.waiting.until - now, IDLE_POLL_S)))
    if state.computing is None:
        if state.buffer and limits.linger_s:
            return Wait(max(room, 1), max(0.0, state.buffered_since + limits.linger_s - now))
        return Wait(max(room, 1), IDLE_POLL_S)
    elapsed = max(0.0, now - state.computing.sealed_at)
    if state.held:
        return Wait(1, BUSY_POLL_MAX_S)
    if room <= 0:
        return Wait(0, max(0.001, HOLD_AFTER_S - elapsed))
    return Wait(room, min(BUSY_POLL_MAX_S, 0.001 + elapsed / 10))


def _apply(state: State, event: Event, limits: Limits) -> tuple[State, list[Command]]:
    match event:
        case PollReturned():
            return _polled(state, event)
        case ComputeReturned():
            return _computed(state, event, limits)
        case CommitReturned():
            return _committed(state, event)
        case RecoveryReturned():
            return _recovered(state, event, limits)
        case PollFailed():
            return _poll_failed(state, event, limits)
        case StopRequested():
            if state.draining_until is not None:
                return state, []
            return replace(state, draining_until=event.now + limits.drain_s, buffer=()), []
        case Tick():
            return state, []


def _polled(state: State, event: PollReturned) -> tuple[State, list[Command]]:
    if event.polled.rebalanced:
        doomed, commands = _doom(state)
        renew = ("renew",) if "renew" in state.recovery else ()
        return replace(doomed, recovery=(*renew, "rewind")), commands
    if state.draining_until is not None or state.recovery:
        return state, []  # what was read before a rewind is read again after it
    since = state.buffered_since if state.buffer else event.now
    buffer = (*state.buffer, *event.polled.records) if event.polled.records else state.buffer
    return replace(state, buffer=buffer, buffered_since=since, snapshot=event.snapshot), []


def _poll_failed(state: State, event: PollFailed, limits: Limits) -> tuple[State, list[Command]]:
    if isinstance(event.error, OffsetsLost):
        return replace(state, exit_code=EXIT_OFFSETS_LOST, exit_reason=str(event.error)), []
    return replace(state, waiting=_wait_longer(state, event.now, "kafka", event.error, event.jitter, limits)), []


def _computed(state: State, event: ComputeReturned, limits: Limits) -> tuple[State, list[Command]]:
    batch = state.computing
    if batch is None or batch.number != event.number:
        return state, []
    outcome = event.outcome
    if isinstance(outcome, BatchResult):
        commands: list[Command] = [Release()] if state.held else []
        return replace(state, computing=None, computed=(batch, outcome), waiting=None, held=False), commands
    if isinstance(outcome, (DependencyDown, TemporaryError)):
        name = outcome.dependency if isinstance(outcome, DependencyDown) else "handler"
        waiting = replace(_wait_longer(state, event.now, name, outcome, event.jitter, limits), recompute=True)
        again = replace(batch, attempt=batch.attempt + 1)
        held: list[Command] = [] if state.held else [Hold()]
        return replace(state, computing=again, waiting=waiting, held=True), held
    reason = f"the batch could not be computed: {type(outcome).__name__}: {outcome}"
    return replace(state, exit_code=EXIT_BUG, exit_reason=reason), []


def _wait_longer(
    state: State, now: float, dependency: str, error: HeadraceError, jitter: float, limits: Limits
) -> Waiting:
    """Back off exponentially with full jitter over the upper half, or as long as the dependency asked for."""
    failures = state.waiting.failures + 1 if state.waiting else 1
    longest = min(limits.backoff_max_s, limits.backoff_s * 2.0 ** min(failures - 1, 30))
    delay = longest * (0.5 + 0.5 * jitter)
    asked = getattr(error, "delay", None)
    recompute = state.waiting is not None and state.waiting.recompute
    return Waiting(str(error), dependency, now + max(delay, asked or 0.0), failures, recompute)


def _committed(state: State, event: CommitReturned) -> tuple[State, list[Command]]:
    if event.error is None:
        return replace(state, computed=None), []
    if isinstance(event.error, ProducerFenced):
        return replace(state, exit_code=EXIT_FENCED, exit_reason=str(event.error)), []
    doomed, commands = _doom(state)
    uncertain = isinstance(event.error, TransactionUncertain)
    return replace(doomed, recovery=("renew", "rewind") if uncertain else ("rewind",)), commands


def _recovered(state: State, event: RecoveryReturned, limits: Limits) -> tuple[State, list[Command]]:
    if event.error is None:
        return replace(state, recovery=state.recovery[1:], waiting=None), []
    if isinstance(event.error, (ProducerFenced, OffsetsLost)):
        code = EXIT_FENCED if isinstance(event.error, ProducerFenced) else EXIT_OFFSETS_LOST
        return replace(state, exit_code=code, exit_reason=str(event.error)), []
    return replace(state, waiting=_wait_longer(state, event.now, "kafka", event.error, event.jitter, limits)), []


def _doom(state: State) -> tuple[State, list[Command]]:
    commands: list[Command] = []
    if state.computing is not None:
        commands.append(Cancel(state.computing.number))
    if state.held:
        commands.append(Release())
    clean = replace(state, buffer=(), snapshot=None, computing=None, computed=None, held=False, waiting=None)
    return clean, commands


def _advance(state: State, now: float, limits: Limits) -> tuple[State, list[Command]]:
    """Go on as far as the state allows: recover, compute again, seal, commit, hold, or finish."""
    if state.waiting is not None and now < state.waiting.until:
        return _finish_if_drained(state, now), []
    if state.recovery:
        return state, [Recover(state.recovery[0])]
    commands: list[Command] = []
    if state.waiting is not None and state.waiting.recompute and state.computing is not None:
        waiting = replace(state.waiting, until=float("inf"), recompute=False)
        return replace(state, waiting=waiting), [Compute(state.computing)]
    state = replace(state, waiting=None)
    if state.computing is None and _ready(state, now, limits):
        state, batch = _seal(state, now, limits)
        commands.append(Compute(batch))
    if state.computed is not None:
        commands.append(Commit(*state.computed))
    elif _must_hold(state, now, limits):
        state = replace(state, held=True)
        commands.append(Hold())
    return _finish_if_drained(state, now), commands


def _must_hold(state: State, now: float, limits: Limits) -> bool:
    """Whether polling can go on only with fetching paused: the buffer is full and the batch computes for long."""
    if state.computing is None or state.held or len(state.buffer) < limits.batch_records:
        return False
    return now - state.computing.sealed_at >= HOLD_AFTER_S


def _ready(state: State, now: float, limits: Limits) -> bool:
    if not state.buffer or state.draining_until is not None:
        return False
    return len(state.buffer) >= limits.batch_records or now >= state.buffered_since + limits.linger_s


def _seal(state: State, now: float, limits: Limits) -> tuple[State, Batch]:
    count = size = 0
    for record in state.buffer[: limits.batch_records]:
        size += len(record.value or b"")
        if count and size > limits.batch_bytes:
            break
        count += 1
    batch = Batch(state.next_number, state.buffer[:count], state.snapshot, now)
    rest = state.buffer[count:]
    sealed = replace(state, buffer=rest, buffered_since=now, computing=batch, next_number=state.next_number + 1)
    return sealed, batch


def _finish_if_drained(state: State, now: float) -> State:
    if state.draining_until is None:
        return state
    idle = state.computing is None and state.computed is None
    if idle or now >= state.draining_until:
        reason = "drained" if idle else "the time to drain is over; the next owner does the rest"
        return replace(state, exit_code=EXIT_DONE, exit_reason=reason)
    return state
