"""Loads structlog and httpx without rich and click; a stage's process imports this first.

Both import them if they are installed, for coloured tracebacks and a command line. That takes a third of the processor
time of a stage's imports, but a stage writes JSON to a log.
"""

from __future__ import annotations

import importlib
import sys

_UNUSED = ("click", "pygments", "rich")


def _load(*names: str) -> None:
    masked = [name for name in _UNUSED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(masked))  # type: ignore[arg-type]  # with None, an import of that name fails
    try:
        for name in names:
            importlib.import_module(name)
    finally:
        for name in masked:
            del sys.modules[name]


_load("structlog", "httpx")
