"""Loads structlog and httpx without rich and click; a stage's process imports this first.

Both load them when they are installed, for tracebacks in colour and for a command line of their own. That is a third
of the processor time that a stage's imports take, and a stage writes JSON to a log.
"""

from __future__ import annotations

import importlib
import sys

_UNUSED = ("click", "pygments", "rich")


def _load(*names: str) -> None:
    masked = [name for name in _UNUSED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(masked))  # type: ignore[arg-type]  # None makes an import of that name fail
    try:
        for name in names:
            importlib.import_module(name)
    finally:
        for name in masked:
            del sys.modules[name]


_load("structlog", "httpx")
