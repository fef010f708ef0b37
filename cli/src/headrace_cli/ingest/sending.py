"""Sends changes in batches, several requests at a time, and keeps the order of each document's changes.

Every document belongs to one lane, by the checksum of its ID; a lane sends its batches one after the other. So two
concurrent requests never contain the same document, and a repeated request cannot overtake a later one.
"""

from __future__ import annotations

import json
import queue
import secrets
import threading
import uuid
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from headrace_cli.client import Answer, Gateway
from headrace_cli.failures import UNKNOWN_DOCUMENT, ProblemError
from headrace_cli.ingest.sources import Change, Failure

LANES = 4
MOST_ITEMS = 500
MOST_BYTES = 4 * 1024 * 1024
_QUEUED = 1
"""Batches that may wait in a lane in addition to the one being sent; this limits the memory."""
_REFUSALS = (403, 413, 422)
"""Status codes that single items can cause: 403 means another tenant in the body, not an invalid key (401)."""
_REPAIR = "Correct it and ingest it again."
_RESULTS = threading.Lock()
"""Guards what the lanes add to a :class:`Sent`."""
Progress = Callable[[int], None]


@dataclass(slots=True)
class Sent:
    """Accepted changes (``versions`` has the newest version by document) and failures."""

    run: str
    """Their name in ``headrace runs``."""
    accepted: int = 0
    versions: dict[str, int] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    """Documents whose last accepted change is a delete."""
    failures: list[Failure] = field(default_factory=list)

    def take(self, change: Change, identifier: str, version: int) -> None:
        """Record an accepted change; of two with the same version, the index keeps the first."""
        if version > self.versions.get(identifier, -1):
            self.versions[identifier] = version
            delete = str(change.item.get("op", change.item.get("operation"))).lower() == "delete"
            (self.deleted.add if delete else self.deleted.discard)(identifier)


@dataclass(slots=True)
class Batch:
    """The changes of one request and their JSON."""

    changes: list[Change] = field(default_factory=list)
    parts: list[bytes] = field(default_factory=list)
    size: int = 0

    def takes(self, part: bytes) -> bool:
        """Whether one more change of this size fits."""
        return not self.parts or (len(self.parts) < MOST_ITEMS and self.size + len(part) + 1 <= MOST_BYTES)

    def add(self, change: Change, part: bytes) -> None:
        """Add a change."""
        self.changes.append(change)
        self.parts.append(part)
        self.size += len(part) + 1

    def body(self) -> bytes:
        """Return the request's body."""
        return b'{"changes":[' + b",".join(self.parts) + b"]}"


def send(gateway: Gateway, changes: Iterable[Change | Failure], progress: Progress = lambda _: None) -> Sent:
    """Send all changes and return the outcome; ``progress`` gets the number of items that are done.

    Raises the first :class:`headrace_cli.failures.CommandError` that concerns more than single items, after the lanes
    have finished their current batches.
    """
    sent = Sent(new_run(datetime.now(UTC)))
    lanes = [_Lane(gateway.another(), sent, progress) for _ in range(LANES)]
    open_batches = [Batch() for _ in lanes]
    try:
        for change in changes:
            if isinstance(change, Failure):
                with _RESULTS:
                    sent.failures.append(change)
                progress(1)
                continue
            part = json.dumps(change.item, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
            number = zlib.crc32(change.document_id.encode("utf-8", "surrogatepass")) % LANES
            if not open_batches[number].takes(part):
                lanes[number].put(open_batches[number])
                open_batches[number] = Batch()
            open_batches[number].add(change, part)
        for lane, batch in zip(lanes, open_batches, strict=True):
            if batch.parts:
                lane.put(batch)
    finally:
        for lane in lanes:
            lane.finish()
    for lane in lanes:
        lane.raise_failure()
    return sent


def delete_of(gateway: Gateway, identifier: str, version: int | None, *, newest: int | None = None) -> Change | Failure:
    """Return the delete; without a given version, its version is one above all known versions of the document.

    Versions in flight count too, because they would overtake a lower delete. ``newest`` is a version that the caller
    knows and the gateway may not know yet; without it, an unknown document is a failure.
    """
    if version is None:
        try:
            known = _newest(gateway.document(identifier))
        except ProblemError as error:
            if error.status != 404:
                raise
            if newest is None:
                return Failure(identifier, identifier, error.message, UNKNOWN_DOCUMENT)
            known = newest
        version = max(known, -1 if newest is None else newest) + 1
    return Change({"id": identifier, "op": "delete", "version": version}, identifier)


def _newest(status: dict[str, Any]) -> int:
    known = [status["version"], (status["stored"] or {}).get("version")]
    known += [one["version"] for one in status["in_flight"]]
    return max((number for number in known if number is not None), default=-1)


def new_run(now: datetime) -> str:
    """Return a name for a run; it tells ``headrace runs`` when the run started."""
    return f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


class _Lane:
    """A thread with its own connection that sends one batch after the other."""

    def __init__(self, gateway: Gateway, sent: Sent, progress: Progress) -> None:
        self._gateway = gateway
        self._sent = sent
        self._progress = progress
        self._queue: queue.Queue[Batch | None] = queue.Queue(_QUEUED)
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    def put(self, batch: Batch) -> None:
        """Send the batch when its turn comes; raises the error of an earlier batch."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="sending", daemon=True)
            self._thread.start()
        self._queue.put(batch)
        self.raise_failure()

    def finish(self) -> None:
        """Wait until everything is sent."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
        self._gateway.close()

    def raise_failure(self) -> None:
        """Raise the lane's error, if there is one."""
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        while (batch := self._queue.get()) is not None:
            if self._failure is None:
                try:
                    self._send(batch)
                except Exception as error:  # noqa: BLE001  # raised when the next batch is put
                    self._failure = error

    def _send(self, batch: Batch) -> None:
        answer = self._gateway.post_changes(batch.body(), str(uuid.uuid4()), self._sent.run)
        if answer.status in _REFUSALS and len(batch.changes) > 1 and not _listed(answer):
            for half in _halves(batch):
                self._send(half)
            return
        accepted, failures = _outcome(answer, batch, self._gateway.url)
        with _RESULTS:
            self._sent.failures += failures
            self._sent.accepted += len(accepted)
            for change, document in accepted:
                self._sent.take(change, document["id"], document["version"])
        self._progress(len(batch.changes))


def _listed(answer: Answer) -> list[dict[str, Any]]:
    """Return the errors in the answer by the index of the item."""
    errors = answer.body.get("errors", []) if isinstance(answer.body, dict) else []
    return [error for error in errors if isinstance(error, dict) and isinstance(error.get("index"), int)]


def _outcome(answer: Answer, batch: Batch, url: str) -> tuple[list[tuple[Change, dict[str, Any]]], list[Failure]]:
    """Return the accepted changes with their documents, and the refused items; raises for other answers."""
    body = answer.body if isinstance(answer.body, dict) else {"detail": str(answer.body)[:500]}
    errors = _listed(answer)
    if answer.status == 202 or (answer.status in _REFUSALS and errors):
        failures = [_failure(batch.changes[error["index"]], error, body) for error in errors]
        if answer.status != 202:
            return [], failures
        refused = {error["index"] for error in errors}
        taken = [change for index, change in enumerate(batch.changes) if index not in refused]
        return list(zip(taken, body["documents"], strict=True)), failures
    if answer.status in _REFUSALS and len(batch.changes) == 1:
        error = {"reason": body.get("detail", f"HTTP {answer.status}")}
        return [], [_failure(batch.changes[0], error, body)]
    raise ProblemError(answer.status, body, where=f"{url}/v1/changes")


def _failure(change: Change, error: dict[str, Any], body: dict[str, Any]) -> Failure:
    reason = ": ".join(str(error[name]) for name in ("field", "reason") if error.get(name))
    remedy = _REPAIR if error.get("field") else str(body.get("remedy") or _REPAIR)
    return Failure(change.origin, change.document_id or None, reason, remedy)


def _halves(batch: Batch) -> tuple[Batch, Batch]:
    middle = len(batch.changes) // 2
    first, second = Batch(), Batch()
    for index, (change, part) in enumerate(zip(batch.changes, batch.parts, strict=True)):
        (first if index < middle else second).add(change, part)
    return first, second
