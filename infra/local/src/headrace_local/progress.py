"""Shows a start: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from headrace_local.model import Event, OnEvent


@contextmanager
def shown(console: Console) -> Iterator[OnEvent]:
    """Return what takes the events of a start."""
    started = time.monotonic()
    if not console.is_terminal:
        yield lambda event: console.print(
            f"{time.monotonic() - started:5.1f} s  {event.part}: {event.state} {event.detail}".rstrip(), highlight=False
        )
        return
    columns = (SpinnerColumn(), TextColumn("{task.fields[part]:<16}{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        tasks = {}

        def take(event: Event) -> None:
            if event.part not in tasks:
                tasks[event.part] = progress.add_task(event.state, part=event.part, total=1)
            text = f"{event.state} {event.detail}".strip()
            progress.update(tasks[event.part], description=text, completed=1 if event.state == "ready" else 0)

        yield take
