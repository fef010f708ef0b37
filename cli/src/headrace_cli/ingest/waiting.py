"""Waits until search shows the changes that were sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from headrace_cli.client import Clock
from headrace_cli.ingest.sources import Failure
from headrace_cli.views.tracking import Advance

LOOKUP = 1000
"""Documents in one lookup, the gateway's limit."""
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0


class Lookup(Protocol):
    """The part of the gateway that waiting needs."""

    def lookup(self, documents: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return for each document whether it has arrived."""


@dataclass(slots=True)
class Arrivals:
    """The state of the documents: arrived, dead-lettered, or still pending at the timeout.

    ``failures`` are the dead-lettered documents and those that stay deleted.
    """

    indexed: int = 0
    given_up: int = 0
    failures: list[Failure] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)


def wait_until_searchable(
    gateway: Lookup,
    versions: Mapping[str, int],
    timeout_s: float,
    progress: Advance = lambda *_: None,
    clock: Clock | None = None,
    *,
    deleted: Collection[str] = (),
) -> Arrivals:
    """Look up each document until its version, or a newer one, is indexed, deleted or dead-lettered.

    A document that should exist but was deleted by a newer change is a failure; ``deleted`` are those that should be
    deleted. ``progress`` gets the numbers of documents that arrived and that were dead-lettered. There is one lookup at
    a time, for the documents that have waited longest.
    """
    clock = clock or Clock()
    deadline = clock.now() + timeout_s
    pending = deque(versions.items())
    arrivals = Arrivals()
    pause = _FIRST_PAUSE_S
    while pending:
        asked = [pending.popleft() for _ in range(min(LOOKUP, len(pending)))]
        found = gateway.lookup([{"id": identifier, "version": version} for identifier, version in asked])
        indexed, given_up = arrivals.indexed, arrivals.given_up
        left = _count(arrivals, asked, found, deleted)
        pending += left
        progress(arrivals.indexed - indexed, arrivals.given_up - given_up)
        if pending and clock.now() >= deadline:
            break
        if len(left) < len(asked):
            pause = _FIRST_PAUSE_S
        elif pending:
            clock.sleep(min(pause, max(0.0, deadline - clock.now())))
            pause = min(pause * 1.5, _LONGEST_PAUSE_S)
    arrivals.pending = [identifier for identifier, _ in pending]
    return arrivals


def _count(
    arrivals: Arrivals,
    asked: Sequence[tuple[str, int]],
    found: Sequence[Mapping[str, Any]],
    deleted: Collection[str],
) -> list[tuple[str, int]]:
    """Count the documents that arrived or never will; return those that are still pending."""
    left = []
    for (identifier, version), result in zip(asked, found, strict=True):
        if result["indexed"] and result["deleted"] and identifier not in deleted:
            arrivals.failures.append(_older_than_delete(identifier, version, result["version"]))
        elif result["indexed"]:
            arrivals.indexed += 1
        elif result["dead_letter"] is not None:
            arrivals.given_up += 1
            arrivals.failures.append(_given_up(identifier, version, result["dead_letter"]))
        else:
            left.append((identifier, version))
    return left


def _older_than_delete(identifier: str, version: int, newest: int) -> Failure:
    return Failure(
        identifier,
        identifier,
        f"version {version} is older than the delete at version {newest}, so the document stays deleted",
        "Send it with a newer version: pass --version, or touch the file.",
    )


def _given_up(identifier: str, version: int, letter: Mapping[str, Any]) -> Failure:
    origin = f"{letter['stage']}, dead-letters.{letter['stage']}[{letter['partition']}]@{letter['offset']}"
    message = letter["message"].removesuffix(letter["remedy"] or "").rstrip()
    return Failure(origin, identifier, f"version {version}: {letter['reason']}: {message}", letter["remedy"])
