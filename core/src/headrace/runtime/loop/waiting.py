"""What an idle worker waits for: how many records, and how long."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.runtime.loop import batching, breaker, pacing, parking
from headrace.runtime.loop.limits import Limits
from headrace.runtime.loop.state import State

IDLE_POLL_S = 0.25
"""Maximum seconds of a poll, and so the maximum delay to notice an order, a stop or the other lane."""
YIELDING_POLL_S = 0.02
"""Seconds of a poll while replayed records wait for the live lane, which may become idle at any time."""
BUSY_POLL_MAX_S = 0.05
"""Maximum wait for an outcome before the next poll, so that a long batch does not lose the group membership."""
BUSY_POLL_PARTS = 10
"""A wait for an outcome is a tenth of the time that the batch has computed so far: polls do not delay a short
batch, and during a long one they cost little."""
SHORTEST_WAIT_S = 0.001
"""A wait for an outcome is never shorter, or the worker would spin."""


@dataclass(frozen=True, slots=True)
class Wait:
    """What the worker waits for next: a poll for ``max_records``, or, with 0, for the computation alone."""

    max_records: int
    timeout: float


def next_wait(state: State, now: float, limits: Limits) -> Wait:
    """Return what to wait for; the wait is short while a batch runs, so that its commit follows at once."""
    blocked_s = breaker.wait_s(state.breaker, now)
    if blocked_s is not None:
        return Wait(1, min(blocked_s, IDLE_POLL_S))
    room, computing = batching.room(state.in_progress, limits), state.in_progress.computing
    if computing is None:
        return Wait(max(room, 1), _idle_timeout(state, now, limits))
    if not state.pacing.fetching:
        return Wait(1, BUSY_POLL_MAX_S)
    elapsed = max(0.0, now - computing.started_at)
    if room == 0:
        return Wait(0, max(SHORTEST_WAIT_S, pacing.PAUSE_AFTER_S - elapsed))
    return Wait(room, min(BUSY_POLL_MAX_S, SHORTEST_WAIT_S + elapsed / BUSY_POLL_PARTS))


def _idle_timeout(state: State, now: float, limits: Limits) -> float:
    """Return how long a poll may wait if no batch runs: until the next batch can start."""
    timeout = min(IDLE_POLL_S, parking.next_due(state.parking) - now)
    if state.in_progress.buffer and not state.lifecycle.idles:
        yields = pacing.yields(state.pacing, state.in_progress.buffer, now, limits)
        timeout = min(timeout, YIELDING_POLL_S if yields else batching.due_at(state.in_progress, limits) - now)
    return max(0.0, timeout)
