"""The circuit breaker between the lane and its dependencies: Kafka, the store, a provider, a setting.

``Closed`` lets work through. A failure opens the circuit: nothing starts until the back-off ends. If a running batch
failed because of the dependency, the circuit is half open while that batch alone is computed again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from headrace.errors import DependencyDown, HeadraceError
from headrace.runtime.backoff import backoff
from headrace.runtime.loop.events import CommitReturned
from headrace.runtime.loop.limits import Limits


@dataclass(frozen=True, slots=True)
class Closed:
    """The lane works."""


@dataclass(frozen=True, slots=True)
class Open:
    """The lane waits for ``dependency`` until ``until``; ``failures`` in a row so far."""

    dependency: str
    reason: str
    failures: int
    until: float
    recompute: bool = False
    """The running batch failed because of the dependency and is computed again after the wait."""


@dataclass(frozen=True, slots=True)
class HalfOpen:
    """The running batch is computed again; nothing else starts before its outcome."""

    dependency: str
    reason: str
    failures: int


Circuit = Closed | Open | HalfOpen


@dataclass(frozen=True, slots=True)
class Breaker:
    """The circuit, and the number of consecutive failed commits."""

    circuit: Circuit = Closed()  # it has no state
    commit_failures: int = 0


def dependency_failed(
    breaker: Breaker, now: float, dependency: str, error: HeadraceError, jitter: float, limits: Limits, *,
    recompute: bool = False,
) -> Breaker:  # fmt: skip
    """Open the circuit for the back-off, or for as long as the dependency asked for.

    A failure while the circuit is open never shortens its wait: another dependency may have asked for it.
    """
    circuit = breaker.circuit
    failures = 1 if isinstance(circuit, Closed) else circuit.failures + 1
    delay = backoff(limits.backoff_s, limits.backoff_max_s, failures, jitter)
    asked = error.delay if isinstance(error, DependencyDown) else None
    until = now + max(delay, asked or 0.0)
    if isinstance(circuit, Open):
        until, recompute = max(until, circuit.until), recompute or circuit.recompute
    opened = Open(dependency, str(error), failures, until, recompute)
    return replace(breaker, circuit=opened)


def commit_failed(breaker: Breaker, event: CommitReturned, limits: Limits) -> Breaker:
    """Open the circuit when consecutive commits fail; a single failure is usually a rebalance."""
    failures = breaker.commit_failures + 1
    if failures == 1:
        return Breaker(commit_failures=failures)
    delay = backoff(limits.backoff_s, limits.backoff_max_s, failures - 1, event.jitter)
    reason = f"{failures} commits in a row failed: {event.error}"
    return Breaker(Open("kafka", reason, failures, event.now + delay), failures)


def committed(breaker: Breaker) -> Breaker:
    """Reset the count of failed commits."""
    return replace(breaker, commit_failures=0)


def close(breaker: Breaker) -> Breaker:
    """Let work through again."""
    return replace(breaker, circuit=Closed())


def half_open(breaker: Breaker) -> Breaker:
    """Let the running batch alone be computed again."""
    circuit = breaker.circuit
    assert isinstance(circuit, Open)
    return replace(breaker, circuit=HalfOpen(circuit.dependency, circuit.reason, circuit.failures))


def blocks(breaker: Breaker, now: float) -> bool:
    """Whether nothing may start now."""
    match breaker.circuit:
        case Closed():
            return False
        case Open(until=until):
            return now < until
        case HalfOpen():
            return True


def recomputes(breaker: Breaker) -> bool:
    """Whether to compute the running batch again when the circuit no longer blocks."""
    return isinstance(breaker.circuit, Open) and breaker.circuit.recompute


def wait_s(breaker: Breaker, now: float) -> float | None:
    """Return the maximum seconds that the circuit blocks, or None if closed; a half-open test has no known end."""
    match breaker.circuit:
        case Closed():
            return None
        case Open(until=until):
            return max(0.0, until - now)
        case HalfOpen():
            return float("inf")
