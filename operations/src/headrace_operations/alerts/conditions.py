"""The conditions of alerts: a reached cap, a stage that stopped or does not answer, too many errors. Pure."""

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
        Alert(
            f"cap/{one.whose}/{one.limit}", "spending cap reached", f"{one}; raise the cap, or wait for the next period"
        )
        for one in caps
    ]


def of_stages(readiness: Mapping[str, Mapping[str, Any] | None]) -> list[Alert]:
    """Return an alert for each process that stopped itself or does not answer, from its ``/readyz`` by name."""
    found = []
    for name, body in sorted(readiness.items()):
        if body is None:
            found.append(Alert(f"silent/{name}", f"{name} does not answer", "check `headrace status` and its log"))
        elif body.get("stopped"):
            found.append(
                Alert(
                    f"stopped/{name}", f"{name} stopped itself",
                    f"{body['stopped']}; fix the cause, then run `headrace resume --stage {body.get('stage', name)}`",
                )
            )  # fmt: skip
    return found


@dataclass(slots=True)
class ErrorShare:
    """The share of new records that failed, over the latest checks; it alerts from the share ``most`` on."""

    most: float
    looks: int = 20
    least: int = 100
    """Minimum number of records for a share: one failure in two means nothing."""
    _seen: deque[tuple[datetime, int]] = field(default_factory=deque)

    def window(self, at: datetime, done: int) -> tuple[datetime, int]:
        """Note the total number of processed records at a check.

        Return the start of the window for counting failures, and the number of records processed in it.
        """
        self._seen.append((at, done))
        while len(self._seen) > self.looks:
            self._seen.popleft()
        begin, before = self._seen[0]
        return begin, max(0, done - before)

    def alerts(self, records: int, failed: int) -> list[Alert]:
        """Return an alert if too many records of the window failed.

        Some retried records may date from before the window, so failures count up to the number of records.
        """
        errors = min(failed, records)
        if records < self.least or errors / records < self.most:
            return []
        return [
            Alert(
                "errors/embedder", f"{100 * errors / records:.1f} % of the embedder's records fail",
                f"{errors} of the latest {records}; run `headrace dlq list --stage embedder` for the reasons",
            )
        ]  # fmt: skip


def is_new(letter: DeadLetter) -> bool:
    """Whether the record is neither redriven nor replayed; such records are not among the stage's new records."""
    return not {part.name for part in letter.headers} & {headers.REPLAY, headers.REDRIVE}
