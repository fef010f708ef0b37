"""Waits until search sees what was sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from headrace_cli.client import Clock
from headrace_cli.sources import Failure

LOOKUP = 1000
"""Documents in one lookup, the gateway's limit."""
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0
Progress = Callable[[int], None]


class Lookup(Protocol):
    """What is needed of the gateway."""

    def lookup(self, documents: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return for each document whether it has arrived."""


@dataclass(slots=True)
class Arrivals:
    """How far the documents came: arrived, given up, or still under way when the time was over."""

    indexed: int = 0
    failures: list[Failure] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)


def wait_until_searchable(
    gateway: Lookup,
    versions: Mapping[str, int],
    timeout_s: float,
    progress: Progress = lambda _: None,
    clock: Clock | None = None,
    *,
    deleted: Collection[str] = (),
) -> Arrivals:
    """Ask for each document until its version, or a newer one, is in the index (or deleted from it) or given up.

    A document that should be there and was deleted by a newer change is a failure; ``deleted`` are those that should
    be gone. ``progress`` takes the number of documents that are done with. One lookup is asked at a time, of those
    that have waited longest.
    """
    clock = clock or Clock()
    deadline = clock.now() + timeout_s
    pending = deque(versions.items())
    arrivals = Arrivals()
    pause = _FIRST_PAUSE_S
    while pending:
        asked = [pending.popleft() for _ in range(min(LOOKUP, len(pending)))]
        found = gateway.lookup([{"id": identifier, "version": version} for identifier, version in asked])
        done = 0
        for (identifier, version), result in zip(asked, found, strict=True):
            if result["indexed"] and result["deleted"] and identifier not in deleted:
                arrivals.failures.append(_older_than_delete(identifier, version, result["version"]))
            elif result["indexed"]:
                arrivals.indexed += 1
            elif result["dead_letter"] is not None:
                arrivals.failures.append(_given_up(identifier, version, result["dead_letter"]))
            else:
                pending.append((identifier, version))
                continue
            done += 1
        progress(done)
        if pending and clock.now() >= deadline:
            break
        if done:
            pause = _FIRST_PAUSE_S
        elif pending:
            clock.sleep(min(pause, max(0.0, deadline - clock.now())))
            pause = min(pause * 1.5, _LONGEST_PAUSE_S)
    arrivals.pending = [identifier for identifier, _ in pending]
    return arrivals


def _older_than_delete(identifier: str, version: int, newest: int) -> Failure:
    return Failure(
        identifier,
        identifier,
        f"version {version} is older than the delete at version {newest}, so the document stays deleted",
        "Send it with a newer version: --version, or a newer time of the file.",
    )


def _given_up(identifier: str, version: int, letter: Mapping[str, Any]) -> Failure:
    origin = f"{letter['stage']}, dead-letters.{letter['stage']}[{letter['partition']}]@{letter['offset']}"
    message = letter["message"].removesuffix(letter["remedy"] or "").rstrip()
    return Failure(origin, identifier, f"version {version}: {letter['reason']}: {message}", letter["remedy"])
