"""Progress of long work on stderr: a bar with its rate on a terminal, else a line every two seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from headrace_cli.output import say
from headrace_cli.tables import messages

_LINE_S = 2.0
_ENOUGH = 50
"""Items that must be done before a line estimates the time left: the first ones are irregular."""


class Advance(Protocol):
    """Gets the numbers of items just done and dead-lettered; callable from any thread."""

    def __call__(self, count: int, given_up: int = 0, /) -> None:
        """Count them."""


@contextmanager
def tracked(verb: str, total: int | None) -> Iterator[Advance]:
    """Yield a function that takes the number of items just done and dead-lettered."""
    console = messages()
    if not console.is_terminal:
        lines = _Lines(verb, total)
        yield lines.advance
        lines.end()
        return

    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}{task.fields[lost]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(verb, total=total, rate="", lost="")
        begun = time.monotonic()
        done = lost = 0

        def advance(count: int, given_up: int = 0, /) -> None:
            nonlocal done, lost
            done, lost = done + count, lost + given_up
            progress.update(task, advance=count, rate=_rate(done, time.monotonic() - begun), lost=_lost(lost))

        yield advance


def _rate(done: int, seconds: float) -> str:
    return f"{done / seconds:.0f}/s" if seconds > 0.1 and done >= seconds else ""


def _lost(given_up: int) -> str:
    return f", {given_up} dead-lettered" if given_up else ""


class _Lines:
    """Plain lines, for logs and pipes."""

    def __init__(self, verb: str, total: int | None, now: Callable[[], float] = time.monotonic) -> None:
        self._verb = verb
        self._total = total
        self._now = now
        self._begun = self._said = now()
        self._done = self._lost = 0
        self._told = (0, 0)

    def advance(self, count: int, given_up: int = 0, /) -> None:
        """Count, and print a line at intervals."""
        self._done += count
        self._lost += given_up
        if self._now() - self._said >= _LINE_S:
            self._say()

    def end(self) -> None:
        """Print the final count, unless the last line has it."""
        if (self._done, self._lost) != self._told or not self._done + self._lost:
            self._say()

    def _say(self) -> None:
        self._said = self._now()
        self._told = (self._done, self._lost)
        seconds = self._said - self._begun
        of = "" if self._total is None else f" of {self._total}"
        left = ""
        over = self._done + self._lost
        if self._total is not None and _ENOUGH <= over < self._total:
            left = f", {seconds / over * (self._total - over):.0f} s left"
        rate = _rate(self._done, seconds)
        say(f"{self._verb}: {self._done}{of}{_lost(self._lost)} in {seconds:.1f} s{f' ({rate})' if rate else ''}{left}")
