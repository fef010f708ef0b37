"""Shows the progress of a start: a live table with download bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from headrace_local.model import Event, OnEvent

_LINE_STEP = 10
"""Plain lines report a download after each further ten percent."""


@contextmanager
def shown(console: Console) -> Iterator[OnEvent]:
    """Yield the function that receives the events of a start."""
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.fields[part]:<16}{task.description:<12}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[size]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        tasks: dict[str, TaskID] = {}

        def take(event: Event) -> None:
            if event.part not in tasks:
                tasks[event.part] = progress.add_task(event.state, part=event.part, size="", total=None)
            total, done = (1, 1) if event.state == "ready" else (event.total or None, event.done)
            size = _megabytes(event) or event.detail
            progress.update(tasks[event.part], description=event.state, total=total, completed=done, size=size)

        yield take


def _lines(console: Console) -> OnEvent:
    started = time.monotonic()
    last: dict[str, tuple[str, int]] = {}

    def take(event: Event) -> None:
        step = event.done * 100 // event.total // _LINE_STEP if event.total else 0
        if last.get(event.part) == (event.state, step):
            return
        last[event.part] = (event.state, step)
        text = f"{event.part}: {event.state} {_megabytes(event) or event.detail}".rstrip()
        console.print(f"{time.monotonic() - started:5.1f} s  {text}", highlight=False, markup=False, soft_wrap=True)

    return take


def _megabytes(event: Event) -> str:
    return f"{event.done / 1e6:.0f} of {event.total / 1e6:.0f} MB" if event.total else ""
