"""Tables and consoles: results on stdout, everything else on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPE_WIDTH = 160
"""Width of tables if stdout is not a terminal."""


def console() -> Console:
    """Return the console for results (stdout)."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def messages() -> Console:
    """Return the console for everything else (stderr)."""
    return Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[str] = ()) -> Table:
    """Return a plain table; the columns in ``right`` are aligned to the right."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text("–" if cell is None else str(cell)) for cell in row))
    return made
