"""What a worker does next, as a pure function: ``state + event -> state, commands``.

This module uses no clock, broker or randomness: the worker (:mod:`headrace.runtime.worker`) passes time and jitter with
the events and executes the commands. Times are monotonic seconds.

This module is the table of contents: one function for each event, then how the worker continues. Each concern is a
part of the state with its own module: ``batching`` (the life of a batch), ``pacing``, ``parking``, ``suspicion``,
``breaker`` and ``lifecycle``. One function serves both lanes; the side lane differs by its limits.
"""

from __future__ import annotations

from dataclasses import replace

from headrace.errors import ConfigurationError, DependencyDown
from headrace.kafka.broker_contract import BrokerError, TransactionUncertain
from headrace.runtime.loop import batching, breaker, lifecycle, pacing, parking, suspicion
from headrace.runtime.loop.batch import Batch, BatchResult
from headrace.runtime.loop.commands import Command, Commit, Recover
from headrace.runtime.loop.events import (
    CommitReturned,
    ComputeReturned,
    Event,
    LiveLaneChanged,
    OrdersChanged,
    PollFailed,
    PollReturned,
    RecoveryReturned,
    StopRequested,
    Tick,
)
from headrace.runtime.loop.lifecycle import EXIT_BUG
from headrace.runtime.loop.limits import Limits
from headrace.runtime.loop.state import State

Decision = tuple[State, list[Command]]


def decide(state: State, event: Event, limits: Limits) -> Decision:
    """Return the state after the event and the commands to execute, in this order.

    A cancellation comes first, so that handlers stop working on dropped batches. Fetching follows, because a commit or
    recovery may take long and the client fetches in the background meanwhile. A computation starts before a commit, so
    that the handlers work on the next batch while the worker waits for the transaction.
    """
    state, cancelling = _apply(state, event, limits)
    if state.exit is not None:
        return state, cancelling
    state, starting = _go_on(state, event.now, limits)
    state, fetching = _fetch(state, event.now, limits)
    return state, [*cancelling, *fetching, *starting]


def _apply(state: State, event: Event, limits: Limits) -> Decision:
    match event:
        case PollReturned():
            return _polled(state, event, limits)
        case PollFailed():
            return _kafka_failed(state, event, limits)
        case ComputeReturned():
            return _computed(state, event, limits)
        case CommitReturned():
            return _committed(state, event, limits)
        case RecoveryReturned():
            return _recovered(state, event, limits)
        case OrdersChanged():
            return replace(state, lifecycle=lifecycle.ordered(state.lifecycle, event)), []
        case LiveLaneChanged():
            return replace(state, pacing=pacing.live_lane_changed(state.pacing, event)), []
        case StopRequested():
            return _stop(state, event, limits)
        case Tick():
            return state, []


def _polled(state: State, event: PollReturned, limits: Limits) -> Decision:
    if event.polled.rebalanced:
        return _doom(replace(state, suspicion=suspicion.reassign(state.suspicion, event.polled)))
    if state.lifecycle.draining or state.in_progress.recovery is not None:
        return state, []  # records read before a rewind are read again after it
    state = replace(state, in_progress=replace(state.in_progress, snapshot=event.snapshot))
    if limits.is_side:  # it parks all records, so that those behind one that is not due keep their order
        return replace(state, parking=parking.park(state.parking, event, limits)), []
    return replace(state, in_progress=batching.read(state.in_progress, event.polled.records, event.now)), []


def _computed(state: State, event: ComputeReturned, limits: Limits) -> Decision:
    batch, outcome = state.in_progress.computing, event.outcome
    if batch is None or batch.number != event.number:
        return state, []  # it was cancelled
    if isinstance(outcome, BatchResult):
        return _succeeded(state, batch, outcome, limits)
    if isinstance(outcome, (DependencyDown, ConfigurationError)):
        return _must_try_again(state, batch, outcome, event, limits)
    return _end(state, EXIT_BUG, f"a bug ended the batch: {type(outcome).__name__}: {outcome}")


def _succeeded(state: State, batch: Batch, result: BatchResult, limits: Limits) -> Decision:
    """Accept the result for the commit, unless it has too many dead letters: then nothing of it is written."""
    state = replace(
        state,
        in_progress=batching.computed(state.in_progress, batch, result),
        breaker=breaker.close(state.breaker),
        lifecycle=lifecycle.judge(state.lifecycle, batch, result, limits),
    )
    return (state, []) if state.lifecycle.stopped is None else _doom(state)


def _must_try_again(
    state: State, batch: Batch, error: DependencyDown | ConfigurationError, event: ComputeReturned,
    limits: Limits,
) -> Decision:  # fmt: skip
    name = error.dependency if isinstance(error, DependencyDown) else "configuration"
    opened = breaker.dependency_failed(state.breaker, event.now, name, error, event.jitter, limits, recompute=True)
    return replace(state, in_progress=batching.compute_again(state.in_progress, batch), breaker=opened), []


def _committed(state: State, event: CommitReturned, limits: Limits) -> Decision:
    if event.error is not None:
        return _not_committed(state, event, event.error, limits)
    assert state.in_progress.awaiting_commit is not None
    batch = state.in_progress.awaiting_commit.batch
    return replace(
        state,
        in_progress=batching.committed(state.in_progress),
        suspicion=suspicion.committed(state.suspicion, batch),
        pacing=pacing.committed(state.pacing, batch, event.now, limits),
        breaker=breaker.committed(state.breaker),
    ), []


def _not_committed(state: State, event: CommitReturned, error: BrokerError, limits: Limits) -> Decision:
    if (code := lifecycle.exit_code_of(error)) is not None:
        return _end(state, code, str(error))
    doomed, commands = _doom(state, renew=isinstance(error, TransactionUncertain))
    return replace(doomed, breaker=breaker.commit_failed(state.breaker, event, limits)), commands


def _recovered(state: State, event: RecoveryReturned, limits: Limits) -> Decision:
    if event.error is not None:
        return _kafka_failed(state, event, limits)
    return replace(state, in_progress=batching.recovered(state.in_progress), breaker=breaker.close(state.breaker)), []


def _kafka_failed(state: State, event: PollFailed | RecoveryReturned, limits: Limits) -> Decision:
    assert event.error is not None
    if (code := lifecycle.exit_code_of(event.error)) is not None:
        return _end(state, code, str(event.error))
    opened = breaker.dependency_failed(state.breaker, event.now, "kafka", event.error, event.jitter, limits)
    return replace(state, breaker=opened), []


def _stop(state: State, event: StopRequested, limits: Limits) -> Decision:
    draining = lifecycle.drain(state.lifecycle, event, limits)
    left = batching.leave_buffer(state.in_progress)
    return replace(state, lifecycle=draining, in_progress=left, parking=parking.Parking()), []


def _end(state: State, code: int, reason: str) -> Decision:
    return replace(state, lifecycle=lifecycle.end(state.lifecycle, code, reason)), []


def _doom(state: State, *, renew: bool = False) -> Decision:
    """Drop everything in progress, including its waits."""
    in_progress, commands = batching.doom(state.in_progress, renew=renew)
    doomed = replace(state, in_progress=in_progress, parking=parking.Parking(), breaker=breaker.close(state.breaker))
    return doomed, commands


def _go_on(state: State, now: float, limits: Limits) -> Decision:
    """Continue as far as the state allows: wait, recover, compute again, or seal and commit.

    The worker executes Commit and Recover at once and decides on their outcome next, so neither is emitted twice.
    """
    if breaker.blocks(state.breaker, now):
        return _finish(state, now), []
    if state.in_progress.recovery is not None:
        return state, [Recover(state.in_progress.recovery.step)]
    if breaker.recomputes(state.breaker) and state.in_progress.computing is not None:
        again, commands = batching.start_again(state.in_progress, state.in_progress.computing, now)
        return replace(state, breaker=breaker.half_open(state.breaker), in_progress=again), commands
    state, commands = _seal(_unpark(replace(state, breaker=breaker.close(state.breaker)), now), now, limits)
    if state.in_progress.awaiting_commit is not None:
        commands.append(Commit(state.in_progress.awaiting_commit.batch, state.in_progress.awaiting_commit.result))
    return _finish(state, now), commands


def _unpark(state: State, now: float) -> State:
    rest, due = parking.take_due(state.parking, now)
    return replace(state, parking=rest, in_progress=batching.read(state.in_progress, due, now)) if due else state


def _seal(state: State, now: float, limits: Limits) -> Decision:
    if state.lifecycle.draining or state.lifecycle.idles:
        return state, []
    if not batching.ready(state.in_progress, state.pacing, state.suspicion, now, limits):
        return state, []
    sealed, commands = batching.seal(state.in_progress, state.pacing, state.suspicion, now, limits)
    return replace(state, in_progress=sealed), commands


def _finish(state: State, now: float) -> State:
    return replace(state, lifecycle=lifecycle.finish(state.lifecycle, now, idle=state.in_progress.idle))


def _fetch(state: State, now: float, limits: Limits) -> Decision:
    """Stop fetching if records would pile up, and start again otherwise; polls always continue."""
    wanted = state.exit is not None or not _piles_up(state, now, limits)
    changed, commands = pacing.fetch(state.pacing, wanted=wanted)
    return replace(state, pacing=changed), commands


def _piles_up(state: State, now: float, limits: Limits) -> bool:
    if state.lifecycle.idles or parking.full(state.parking, limits):
        return True
    full = batching.room(state.in_progress, limits) == 0
    if state.in_progress.computing is None:
        return full and pacing.yields(state.pacing, state.in_progress.buffer, now, limits)
    again = state.in_progress.computing.attempt > 1  # its dependency failed, and may be down for hours
    return again or (full and pacing.lasts(state.in_progress.computing, now))
