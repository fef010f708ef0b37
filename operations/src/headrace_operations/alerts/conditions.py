"""What is worth an alert: a cap that is reached, a stage that stopped itself or is gone, too many errors; pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from headrace.embeddings.costs import Reached
from headrace.kafka import headers
from headrace.payloads import DeadLetter
from headrace_operations.alerts.alerter import Alert


def of_caps(caps: Sequence[Reached]) -> list[Alert]:
    """Return an alert for each cap that is reached."""
    return [
        Alert(f"cap/{one.whose}/{one.limit}", "spending cap reached", f"{one}; raise it, or wait for its end")
        for one in caps
    ]


def of_stages(readiness: Mapping[str, Mapping[str, Any] | None]) -> list[Alert]:
    """Return an alert for each process that stopped itself or does not answer; by name, what ``/readyz`` said."""
    found = []
    for name, body in sorted(readiness.items()):
        if body is None:
            found.append(Alert(f"silent/{name}", f"{name} does not answer", "see `headrace status` and its log"))
        elif body.get("stopped"):
            found.append(
                Alert(
                    f"stopped/{name}", f"{name} stopped itself",
                    f"{body['stopped']}; repair the cause, then `headrace resume --stage {body.get('stage', name)}`",
                )
            )  # fmt: skip
    return found


@dataclass(slots=True)
class ErrorShare:
    """The share of new records that failed, over the newest looks; ``most`` is the share from which on it alerts."""

    most: float
    looks: int = 20
    least: int = 100
    """Records below which no share is told: one failure of two says nothing."""
    _seen: deque[tuple[datetime, int]] = field(default_factory=deque)

    def window(self, at: datetime, done: int) -> tuple[datetime, int]:
        """Take the records that are done, counted since the beginning, at a look.

        Return since when failures are to be counted, and how many records were done since then.
        """
        self._seen.append((at, done))
        while len(self._seen) > self.looks:
            self._seen.popleft()
        begin, before = self._seen[0]
        return begin, max(0, done - before)

    def alerts(self, records: int, failed: int) -> list[Alert]:
        """Return the alert where too many of the window's records failed.

        Of those that were tried again, some may have been done before it: no more fail than there are.
        """
        errors = min(failed, records)
        if records < self.least or errors / records < self.most:
            return []
        return [
            Alert(
                "errors/embedder", f"{100 * errors / records:.1f} % of the embedder's records fail",
                f"{errors} of {records} lately; `headrace dlq list --stage embedder` says why",
            )
        ]  # fmt: skip


def is_new(letter: DeadLetter) -> bool:
    """Whether the record came by itself: one that a command sent again is not among those that the stage reads."""
    return not {part.name for part in letter.headers} & {headers.REPLAY, headers.REDRIVE}
