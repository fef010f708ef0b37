"""The process that reads files: ``python -m headrace_ingest.files.child``, started without environment.

It loads what parses, then answers one request after the other on standard input with one answer on standard output.
For each it forks: the copy confines itself, reads the file and ends. What a hostile file does to it, it does to
nothing else, and nothing of one file is left for the next.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import sys
import time
from typing import Any

from headrace_ingest.files import confine, extract
from headrace_ingest.files.framing import framed, read_frame

_PIECE = 1 << 16
_BESIDES = 1 << 20
"""What an answer may hold beside the text: title, pages."""


def main() -> int:
    """Answer until standard input ends."""
    confine.die_with_parent()
    extract.load()
    gc.freeze()
    source, target = sys.stdin.buffer, sys.stdout.buffer
    target.write(framed({"filtered": confine.is_filtered()}))
    target.flush()
    while (request := read_frame(source)) is not None:
        answer = _forked(*request)
        target.write(answer)
        target.flush()
    return 0


def _forked(head: dict[str, Any], data: bytes) -> bytes:
    """Return the framed answer of a copy that reads this file, or of what ended it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _read_file(head, data, writing)
    os.close(writing)
    try:
        answer, reason = _collect(reading, head["timeout_s"], head["text_bytes"])
    finally:
        os.close(reading)
    if reason is not None:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if reason is None and status == 0 and answer:
        return answer
    return framed({"error": reason or _why(status, head)})


def _read_file(head: dict[str, Any], data: bytes, writing: int) -> None:
    """Read the file in this copy, write the framed answer and end."""
    try:
        confine.die_with_parent()
        confine.confine(head["memory_bytes"], int(head["timeout_s"]) + 1)
        answer = framed(*extract.answer(head, data))
    except MemoryError:
        answer = framed({"error": _too_much(head)})
    except Exception as error:  # noqa: BLE001  # told to the sender; the copy ends in any case
        answer = framed({"error": f"cannot be read: {type(error).__name__}: {str(error)[:300]}"})
    try:
        view = memoryview(answer)
        while view:
            view = view[os.write(writing, view) :]
    finally:
        os._exit(0)


def _collect(reading: int, timeout_s: float, text_bytes: int) -> tuple[bytes, str | None]:
    """Return what the copy wrote, and why it is ended before it is done."""
    parts: list[bytes] = []
    size = 0
    deadline = time.monotonic() + timeout_s
    while True:
        ready, _, _ = select.select([reading], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return b"", f"takes longer than {timeout_s:g} s to read"
        part = os.read(reading, _PIECE)
        if not part:
            return b"".join(parts), None
        parts.append(part)
        size += len(part)
        if size > text_bytes + _BESIDES:
            return b"", f"holds more text than {text_bytes} bytes"


def _why(status: int, head: dict[str, Any]) -> str:
    """Return why a copy ended without an answer."""
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
        return f"takes longer than {head['timeout_s']:g} s to read, or was ended from outside"
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return f"ended its reader by {name}: it is broken, hostile, or {_too_much(head)}"
    return f"ended its reader with {os.WEXITSTATUS(status)}: it is broken, hostile, or {_too_much(head)}"


def _too_much(head: dict[str, Any]) -> str:
    return f"needs more memory than {head['memory_bytes'] >> 20} MiB to read"


if __name__ == "__main__":
    raise SystemExit(main())
