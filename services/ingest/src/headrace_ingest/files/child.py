"""The file reader process: ``python -m headrace_ingest.files.child``, started with an empty environment.

It loads the parsers, then answers requests on standard input one by one on standard output. It forks for each
request: the copy confines itself, reads the file and exits. A malicious file can harm only its own copy, and nothing
of one file remains for the next.
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
from headrace_ingest.files.framing import framed, is_frame, read_frame

_PIECE = 1 << 16
_TRIAL_BYTES = 1 << 30
_LATE = "late"
_AT_WORK = 0.5
"""Share of the time limit that a copy must have spent computing for the file to be too slow, not the machine."""
_BESIDES = 1 << 20
"""Maximum bytes of an answer in addition to the text: title and pages."""


def main() -> int:
    """Answer until standard input ends."""
    confine.die_with_parent()
    extract.load()
    gc.freeze()
    source, target = sys.stdin.buffer, sys.stdout.buffer
    target.write(framed({"filtered": confine.is_filtered(), "refused": _refused()}))
    target.flush()
    while (request := read_frame(source)) is not None:
        answer = _forked(*request)
        target.write(answer)
        target.flush()
    return 0


def _refused() -> str:
    """Return why a copy cannot confine itself on this machine, or an empty string if it can."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            confine.confine(_TRIAL_BYTES, 1)
        except (OSError, ValueError) as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    try:
        return os.read(reading, _PIECE).decode("utf-8", "replace")
    finally:
        os.close(reading)
        os.waitpid(child, 0)


def _forked(head: dict[str, Any], data: bytes) -> bytes:
    """Return the framed answer of a copy that reads this file, or a framed error with the reason why it ended."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        # The copy must not reach the service's other requests, answers and logs.
        os.dup2(os.open(os.devnull, os.O_RDWR), 2)
        for own in (0, 1, reading):
            os.close(own)
        _read_file(head, data, writing)
    os.close(writing)
    try:
        answer, reason = _collect(reading, head["timeout_s"], head["text_bytes"])
    finally:
        os.close(reading)
    if reason is not None:
        os.kill(child, signal.SIGKILL)
    _, status, used = os.wait4(child, 0)
    if reason is None and status == 0 and is_frame(answer):
        return answer
    busy_s = used.ru_utime + used.ru_stime
    # If the copy got no processor time or was killed for lack of memory, the machine is to blame, not the file.
    starved = reason == _LATE and busy_s < head["timeout_s"] * _AT_WORK
    ended = reason is None and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    said = _too_late(head) if reason == _LATE else reason or _why(status, head)
    return framed({"error": said, "temporary": starved or ended})


def _read_file(head: dict[str, Any], data: bytes, writing: int) -> None:
    """Read the file in this copy, write the framed answer and exit."""
    try:
        confine.die_with_parent()
        confine.confine(head["memory_bytes"], int(head["timeout_s"]) + 1)
        answer = framed(*extract.answer(head, data))
    except MemoryError:
        answer = framed({"error": _too_much(head)})
    except Exception as error:  # noqa: BLE001  # the sender gets the error; the copy exits anyway
        answer = framed({"error": f"cannot be read: {type(error).__name__}: {str(error)[:300]}"})
    try:
        view = memoryview(answer)
        while view:
            view = view[os.write(writing, view) :]
    finally:
        os._exit(0)


def _collect(reading: int, timeout_s: float, text_bytes: int) -> tuple[bytes, str | None]:
    """Return the copy's output, and the reason to kill it early if there is one."""
    parts: list[bytes] = []
    size = 0
    deadline = time.monotonic() + timeout_s
    while True:
        ready, _, _ = select.select([reading], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return b"", _LATE
        part = os.read(reading, _PIECE)
        if not part:
            return b"".join(parts), None
        parts.append(part)
        size += len(part)
        if size > text_bytes + _BESIDES:
            return b"", f"contains more than {text_bytes} bytes of text"


def _why(status: int, head: dict[str, Any]) -> str:
    """Return why a copy ended without an answer."""
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return "was not read because another process killed its reader"
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU:
        return _too_late(head)
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return f"crashed its reader ({name}): it is broken, malicious, or {_too_much(head)}"
    return f"crashed its reader (exit status {os.WEXITSTATUS(status)}): it is broken, malicious, or {_too_much(head)}"


def _too_late(head: dict[str, Any]) -> str:
    return f"takes longer than {head['timeout_s']:g} s to read"


def _too_much(head: dict[str, Any]) -> str:
    return f"needs more memory than {head['memory_bytes'] >> 20} MiB to read"


if __name__ == "__main__":
    raise SystemExit(main())
