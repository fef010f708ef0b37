"""Runs ``headrace ingest --watch``: connects the watch, file system events, the gateway and the output."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from types import FrameType
from typing import Any

import typer
from watchfiles import watch
from watchfiles._rust_notify import WatchfilesRustInternalError

from headrace.errors import sentences
from headrace_cli import output
from headrace_cli.client import Gateway
from headrace_cli.failures import CommandError
from headrace_cli.ingest.folders import Folders
from headrace_cli.ingest.sending import Sent, delete_of, send
from headrace_cli.ingest.sources import Change, Failure
from headrace_cli.ingest.watching import Event, Watch

_STEP_MS = 100
"""Milliseconds without another event after which events are handled."""
_TURN_MS = 500
"""Maximum time between two steps of the watch, and maximum delay of events."""
_TELL_EACH = 500
_UNSENT = 10
"""Maximum number of unsent documents that the summary names."""


def follow(paths: Sequence[str], prefix: str, gateway: Gateway, *, as_json: bool) -> None:
    """Send the contents of the folders, then every change, until SIGINT or SIGTERM; always ends with a summary."""
    folders = Folders(paths)
    lines = Lines(as_json=as_json)
    stop = threading.Event()
    watch = Watch(folders, GatewaySender(gateway), lines, prefix, stopped=stop.is_set)
    with stopping(stop):
        try:
            watch.run(file_events(folders.watched, stop))
        finally:
            lines.end(watch.unsent)


class GatewaySender:
    """Sends to the gateway, and looks up the version that a delete needs."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def delete(self, identifier: str, newest: int | None) -> Change | Failure:
        """Return a delete with a version above all known versions."""
        return delete_of(self._gateway, identifier, None, newest=newest)

    def send(self, changes: Iterable[Change | Failure]) -> Sent:
        """Send the changes."""
        return send(self._gateway, changes)


class Lines:
    """Reports events: JSON lines on stdout, or lines on stderr; documents that exist at the start are only counted."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._counts: Counter[str] = Counter()
        self._skipped: list[str] = []

    def event(self, event: Event) -> None:
        """Report the outcome of a document."""
        self._counts[event.event] += 1
        if event.event == "skipped":
            self._skipped.append(event.origin)
            output.say(f"skipped: {event.origin}: {event.reason}")
        elif event.initial and event.event == "sent":
            if self._counts["sent"] % _TELL_EACH == 0:
                output.say(f"sent: {self._counts['sent']}")
        elif self._as_json:
            output.emit({name: value for name, value in asdict(event).items() if value != "" and name != "initial"})
        elif event.event == "failed":
            named = f" (document {event.id})" if event.id else ""
            output.say(sentences(f"failed: {event.origin}{named}: {event.reason}", event.remedy))
        else:
            output.say(f"{event.event}: {event.id} version {event.version}")

    def ready(self) -> None:
        """Report that the watch is ready."""
        self.say(f"{self._counts['sent']} documents sent; watching for changes (stop with Ctrl-C)")

    def say(self, text: str) -> None:
        """Print a message."""
        output.say(text)

    def end(self, unsent: Sequence[str]) -> None:
        """Print the summary."""
        counts: dict[str, Any] = {name: self._counts[name] for name in ("sent", "deleted", "failed")}
        if self._as_json:
            output.emit({"event": "summary", **counts, "unsent": list(unsent), "skipped": self._skipped})
            return
        typer.echo("{sent} changes accepted, {deleted} deletes accepted, {failed} failed".format(**counts))
        if unsent:
            names = ", ".join(unsent[:_UNSENT]) + (", …" if len(unsent) > _UNSENT else "")
            output.say(f"{len(unsent)} not sent: {names}. The next start sends existing files, but no deletes.")


@contextmanager
def stopping(stop: threading.Event) -> Iterator[None]:
    """Set ``stop`` at the first SIGINT or SIGTERM; the second interrupts."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def file_events(paths: Sequence[str], stop: threading.Event) -> Iterator[Collection[str]]:
    """Yield the paths that changed, or nothing every half second without changes, until ``stop`` is set."""
    events = watch(
        *paths,
        watch_filter=None,
        debounce=_TURN_MS,
        step=_STEP_MS,
        rust_timeout=_TURN_MS,
        yield_on_timeout=True,
        stop_event=stop,
        raise_interrupt=False,
        ignore_permission_denied=True,
    )
    while True:
        try:
            changes = next(events, None)
        except (OSError, WatchfilesRustInternalError) as error:
            raise CommandError(
                f"cannot watch the folders: {error}",
                where=", ".join(paths),
                remedy="Raise the limit fs.inotify.max_user_watches, or set WATCHFILES_FORCE_POLLING=true.",
            ) from error
        if changes is None:
            return
        yield {path for _, path in changes}
