"""The decisions of ``headrace ingest --watch``: compares the files with what was sent, and derives changes.

A new state of a file counts after it has been stable for :data:`QUIET_S`; the same applies to its absence. Events only
say where to look. A full scan at intervals finds changes without events.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from headrace.errors import HeadraceError
from headrace_cli.client import Clock
from headrace_cli.exit_codes import ExitCode
from headrace_cli.failures import ProblemError, exit_code_of
from headrace_cli.ingest import sources
from headrace_cli.ingest.folders import Folders
from headrace_cli.ingest.sending import Sent
from headrace_cli.ingest.sources import Change, Failure, Shape, Stamp

QUIET_S = 0.5
LOOK_S = 60.0
"""Seconds between two full scans: for file systems without events, and for lost events."""
AT_ONCE = 500
"""Documents that are sent together, and again together if the gateway became unreachable."""
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 10.0


@dataclass(frozen=True, slots=True)
class Known:
    """The known state of a document: its file's state (None: missing), and the newest accepted version."""

    stamp: Stamp | None
    version: int | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A state of a file (None: missing) that differs from the known one, and the time since which it is stable."""

    stamp: Stamp | None
    since: float


@dataclass(frozen=True, slots=True)
class Event:
    """The outcome of a document; ``initial`` if it was there when the watch started."""

    event: Literal["sent", "deleted", "failed", "skipped"]
    id: str | None
    version: int | None
    origin: str
    reason: str = ""
    remedy: str = ""
    initial: bool = False


class Sender(Protocol):
    """Sends changes; raises what :func:`headrace_cli.ingest.sending.send` does."""

    def delete(self, identifier: str, newest: int | None) -> Change | Failure:
        """Return a delete with a version above all known versions, including ``newest``."""

    def send(self, changes: Iterable[Change | Failure]) -> Sent:
        """Send the changes."""


class Report(Protocol):
    """Reports to people or a script."""

    def event(self, event: Event) -> None:
        """Report the outcome of a document."""

    def ready(self) -> None:
        """Report that all documents that exist at the start are sent."""

    def say(self, text: str) -> None:
        """Report the state of the gateway."""


def settle(
    looked: Mapping[str, Stamp | None], known: Mapping[str, Known], waiting: Mapping[str, Waiting], now: float
) -> dict[str, Waiting]:
    """Return the waiting states after a look at some documents; pure.

    A document in its known state no longer waits, a new state waits from now on, and other states keep their time.
    """
    after = dict(waiting)
    for identifier, stamp in looked.items():
        before = known.get(identifier)
        if stamp == (None if before is None else before.stamp):
            after.pop(identifier, None)
        elif identifier not in after or after[identifier].stamp != stamp:
            after[identifier] = Waiting(stamp, now)
    return after


def due(waiting: Mapping[str, Waiting], now: float) -> list[str]:
    """Return the documents whose files have stopped changing, sorted by ID; pure."""
    return sorted(identifier for identifier, one in waiting.items() if now - one.since >= QUIET_S)


def version_of(stamp: Stamp, newest: int | None) -> int:
    """Return the version of a file: its time, or one above ``newest`` if the file is older; pure."""
    return stamp.mtime_ns if newest is None else max(stamp.mtime_ns, newest + 1)


def is_outage(error: HeadraceError) -> bool:
    """Whether a retry may help without a change of the command."""
    return exit_code_of(error) is ExitCode.UNREACHABLE or (isinstance(error, ProblemError) and error.status >= 500)


class Watch:
    """Follows folders: each :meth:`step` looks at changed places and sends stable changes."""

    def __init__(
        self,
        folders: Folders,
        sender: Sender,
        report: Report,
        prefix: str = "",
        clock: Clock | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._folders = folders
        self._sender = sender
        self._report = report
        self._shape = Shape(prefix)
        self._clock = clock or Clock()
        self._stopped = stopped
        self._known: dict[str, Known] = {}
        self._waiting: dict[str, Waiting] = {}
        self._initial: frozenset[str] = frozenset()
        """Documents that exist at the start, until they are sent."""
        self._ready_at: float | None = float("inf")
        """When the documents that exist at the start are stable; None once they are sent."""
        self._told: set[Failure] = set()
        self._look_at = self._try_at = float("-inf")
        self._pause_s: float | None = None
        """The last delay before a retry; None while the gateway answers."""

    @property
    def unsent(self) -> list[str]:
        """The documents whose change was not sent, by their IDs in the index."""
        return sorted(self._shape.prefix + identifier for identifier in self._waiting)

    def run(self, events: Iterable[Collection[str]]) -> None:
        """Process paths as they change, or none if only time passed; at the end, send the stable changes."""
        for paths in events:
            self.step(paths)
        if self._pause_s is None:
            self._look_at = float("-inf")
            self.step(())
            self._clock.sleep(QUIET_S)
            self.step(())

    def step(self, paths: Collection[str]) -> None:
        """Look at possible changes and send what is due; raises if a folder is missing or the gateway refuses."""
        now = self._clock.now()
        self._folders.check()
        ids = (
            self._everything(now)
            if now >= self._look_at
            else self._folders.touched(paths, self._ids() if paths else ())
        )
        may_send = now >= self._try_at
        looked = self._folders.look(ids | self._waiting.keys() if may_send else ids)
        self._folders.check()  # Otherwise the documents of a folder that disappeared meanwhile would be deleted.
        self._waiting = settle(looked, self._known, self._waiting, now)
        if (
            may_send
            and self._send_all(due(self._waiting, now))
            and self._ready_at is not None
            and now >= self._ready_at
        ):
            self._ready_at, self._initial = None, frozenset()
            self._report.ready()

    def _ids(self) -> set[str]:
        return self._known.keys() | self._waiting.keys()

    def _everything(self, now: float) -> set[str]:
        self._look_at = now + LOOK_S
        found = self._folders.everything()
        if self._ready_at == float("inf"):
            self._ready_at, self._initial = now + QUIET_S, found.ids
            for path, reason in found.skipped.items():
                self._report.event(Event("skipped", None, None, path, reason, initial=True))
        for failure in found.failures:
            if failure not in self._told:
                self._told.add(failure)
                self._failed(failure, None)
        return self._ids() | found.ids

    def _send_all(self, ids: list[str]) -> bool:
        """Send the changes of the documents; returns False if the gateway is down or the watch stops."""
        try:
            for start in range(0, len(ids), AT_ONCE):
                if start and self._stopped():
                    return False
                self._send(ids[start : start + AT_ONCE])
        except HeadraceError as error:
            if not is_outage(error):
                raise
            if self._pause_s is None:
                self._report.say(f"the gateway does not accept changes ({error.message}); retrying until it does")
            self._pause_s = min((self._pause_s or _FIRST_PAUSE_S / 2) * 2, _LONGEST_PAUSE_S)
            self._try_at = self._clock.now() + self._pause_s
            return False
        if ids and self._pause_s is not None:
            self._pause_s = None
            self._report.say("the gateway accepts changes again")
        return True

    def _send(self, ids: list[str]) -> None:
        tried: dict[str, Change] = {}
        sent = self._sender.send(self._changes(ids, tried))
        reasons = {failure.document_id: failure for failure in sent.failures}
        for identifier, change in tried.items():
            version = sent.versions.get(change.document_id)
            if version is not None:
                self._done(identifier, version)
                kind: Literal["deleted", "sent"] = "deleted" if change.item["op"] == "delete" else "sent"
                initial = identifier in self._initial
                self._report.event(Event(kind, change.document_id, version, change.origin, initial=initial))
            elif change.document_id in reasons:
                self._failed(reasons[change.document_id], identifier)

    def _changes(self, ids: list[str], tried: dict[str, Change]) -> Iterator[Change]:
        """Yield the changes of the documents, each read when its turn comes, and add them to ``tried``."""
        for identifier in ids:
            gone = self._waiting[identifier].stamp is None
            change = self._delete(identifier) if gone else self._upsert(identifier)
            if isinstance(change, Failure):
                self._failed(change, identifier)
            elif change is not None:
                tried[identifier] = change
                yield change

    def _delete(self, identifier: str) -> Change | Failure | None:
        version = self._known[identifier].version
        change = self._sender.delete(self._shape.prefix + identifier, version)
        if isinstance(change, Failure) and version is None:  # never accepted and unknown to the gateway: nothing to do
            self._done(identifier, None)
            return None
        return change

    def _upsert(self, identifier: str) -> Change | Failure | None:
        """Return the change, or None if the file was replaced in the meantime; the next look will process it."""
        source = self._folders.source(identifier)
        if source is None:
            return None
        try:
            stamp, raw = sources.read_steady(source.path)
        except (sources.Unsteady, FileNotFoundError):
            return None
        except OSError as error:
            return sources.unreadable(source, self._shape, error)
        if stamp != self._waiting[identifier].stamp:
            return None
        before = self._known.get(identifier)
        version = version_of(stamp, None if before is None else before.version)
        return sources.change_of(source, self._shape, version, raw)

    def _done(self, identifier: str, version: int | None) -> None:
        self._known[identifier] = Known(self._waiting.pop(identifier).stamp, version)

    def _failed(self, failure: Failure, identifier: str | None) -> None:
        """Report the failure; the document is retried when its file changes."""
        if identifier is not None:
            before = self._known.get(identifier)
            self._done(identifier, None if before is None else before.version)
        self._report.event(Event("failed", failure.document_id, None, failure.origin, failure.reason, failure.remedy))
