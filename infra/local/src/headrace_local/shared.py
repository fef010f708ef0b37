"""One stack for several processes, for test runs: the first process starts it, the last one stops it.

Each holder is an open connection to the supervisor, so a killed process no longer counts.
"""

from __future__ import annotations

from pathlib import Path

from headrace_local.control import Control
from headrace_local.model import Endpoints, OnEvent, StackError
from headrace_local.stack import Stack

_held: dict[Path, list[Control]] = {}


def acquire(state_dir: Path, *, on_event: OnEvent = lambda _: None) -> Endpoints:
    """Return the endpoints of the infrastructure in ``state_dir``, and start it if it is not running."""
    stack = Stack(state_dir)
    endpoints, control = stack.hold(on_event=on_event)
    _held.setdefault(stack.state_dir, []).append(control)
    return endpoints


def release(state_dir: Path) -> None:
    """Release the stack, once for each :func:`acquire`; the last holder waits until it has stopped."""
    stack = Stack(state_dir)
    controls = _held.get(stack.state_dir)
    if not controls:
        raise StackError("this process does not hold the stack", where=str(stack.state_dir))
    stack.release(controls.pop())
