"""Sends changes, waits until search finds them, and reports the outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from headrace_cli.client import Gateway
from headrace_cli.exit_codes import ExitCode
from headrace_cli.ingest.sending import send
from headrace_cli.ingest.sources import Change, Failure, Found
from headrace_cli.ingest.waiting import Arrivals, wait_until_searchable
from headrace_cli.views.tracking import tracked


@dataclass(slots=True)
class Outcome:
    """What a command did with its items; ``waited`` is None if it did not wait."""

    accepted: int = 0
    skipped: tuple[str, ...] = ()
    failures: list[Failure] = field(default_factory=list)
    waited: Arrivals | None = None
    run: str | None = None
    """Its name in ``headrace runs``; None if nothing was sent."""

    def document(self) -> dict[str, Any]:
        """Return the outcome for ``--json``."""
        return {
            "accepted": self.accepted,
            "run": self.run,
            "indexed": None if self.waited is None else self.waited.indexed,
            "given_up": None if self.waited is None else self.waited.given_up,
            "pending": None if self.waited is None else self.waited.pending,
            "skipped": list(self.skipped),
            "failures": [asdict(failure) for failure in self.failures],
        }

    @property
    def exit_code(self) -> ExitCode:
        """Failures take precedence over a timeout."""
        if self.failures:
            return ExitCode.SOME_FAILED
        return ExitCode.TIMED_OUT if self.waited is not None and self.waited.pending else ExitCode.OK


def deliver(
    gateway: Gateway, changes: Iterable[Change | Failure], total: int | None, *, wait_s: float | None
) -> Outcome:
    """Send the changes and, if ``wait_s`` is given, wait until search finds them."""
    with tracked("sent", total) as progress:
        sent = send(gateway, changes, progress)
    outcome = Outcome(sent.accepted, failures=sent.failures, run=sent.run if sent.accepted else None)
    if wait_s is not None and sent.versions:
        with tracked("indexed", len(sent.versions)) as progress:
            outcome.waited = wait_until_searchable(gateway, sent.versions, wait_s, progress, deleted=sent.deleted)
        outcome.failures += outcome.waited.failures
    return outcome


def dry_run_of(found: Found, changes: Iterator[Change | Failure], take: Callable[[Change], None]) -> Outcome:
    """Read everything and send nothing; pass each change that would be sent to ``take``."""
    outcome = Outcome(skipped=found.skipped, failures=list(found.failures))
    for change in changes:
        if isinstance(change, Failure):
            outcome.failures.append(change)
            continue
        outcome.accepted += 1
        take(change)
    return outcome
