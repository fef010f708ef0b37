"""Progress of long work: a bar with its rate on a terminal, a line every two seconds elsewhere; always on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from headrace_cli.output import messages, say

_LINE_S = 2.0
_ENOUGH = 50
"""Items that must be done before a line guesses the time left: the first ones come in leaps."""


@contextmanager
def tracked(verb: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Yield what takes the number of items that were just done; it may be called from any thread."""
    console = messages()
    if not console.is_terminal:
        lines = _Lines(verb, total)
        yield lines.advance
        lines.end()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(verb, total=total, rate="")
        begun = time.monotonic()
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            progress.update(task, advance=count, rate=_rate(done, time.monotonic() - begun))

        yield advance


def _rate(done: int, seconds: float) -> str:
    return f"{done / seconds:.0f}/s" if seconds > 0.1 and done >= seconds else ""


class _Lines:
    """Plain lines, for logs and pipes."""

    def __init__(self, verb: str, total: int | None, now: Callable[[], float] = time.monotonic) -> None:
        self._verb = verb
        self._total = total
        self._now = now
        self._begun = self._said = now()
        self._done = self._told = 0

    def advance(self, count: int) -> None:
        """Count, and say so now and then."""
        self._done += count
        if self._now() - self._said >= _LINE_S:
            self._say()

    def end(self) -> None:
        """Say how it ended, unless the last line said so."""
        if self._done != self._told or not self._done:
            self._say()

    def _say(self) -> None:
        self._said = self._now()
        self._told = self._done
        seconds = self._said - self._begun
        of = "" if self._total is None else f" of {self._total}"
        left = ""
        if self._total is not None and _ENOUGH <= self._done < self._total:
            left = f", {seconds / self._done * (self._total - self._done):.0f} s left"
        rate = _rate(self._done, seconds)
        say(f"{self._verb}: {self._done}{of} in {seconds:.1f} s{f' ({rate})' if rate else ''}{left}")
