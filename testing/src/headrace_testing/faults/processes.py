"""Child processes that a test kills, stops and continues, and that never outlive the test's process."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_SPAWNER = ThreadPoolExecutor(1, "spawner")
"""One thread that lives as long as the process, because Linux ties a child's life to the thread that started it."""


@dataclass(slots=True)
class Child:
    """One process and its log."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def alive(self) -> bool:
        """Whether it has not exited; a stopped process is alive."""
        return self.process.poll() is None

    def stopped(self) -> bool:
        """Whether it is stopped by SIGSTOP."""
        try:
            state = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return False
        return state == "T"

    def kill(self) -> None:
        """Send SIGKILL, which also works while it is stopped."""
        self.process.kill()
        self.process.wait(30)

    def stop(self) -> None:
        """Send SIGSTOP."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Send SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def drain(self, timeout: float = 60.0) -> int:
        """Send SIGTERM, wait, and return its exit code."""
        self.process.terminate()
        return self.process.wait(timeout)

    def wait(self, timeout: float) -> int:
        """Wait until it exits and return the exit code; raises :class:`AssertionError` with the end of its log."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs after {timeout:.0f} s:\n{self.tail()}") from None

    def wait_stopped(self, timeout: float) -> None:
        """Wait until SIGSTOP takes effect; raises :class:`AssertionError` with the end of its log."""
        deadline = time.monotonic() + timeout
        while not self.stopped():
            if not self.alive() or time.monotonic() > deadline:
                raise AssertionError(f"{self.name} did not stop (exit {self.process.poll()}):\n{self.tail()}")
            time.sleep(0.02)

    def tail(self, lines: int = 25) -> str:
        """Return the end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def spawn(name: str, argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> Child:
    """Start a process that ends with this one, whatever the reason."""

    def start() -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})}, preexec_fn=_die_with_parent,  # noqa: PLW1509  # one prctl, no Python locks
            )  # fmt: skip

    return Child(name, _SPAWNER.submit(start).result(), log)


def _die_with_parent() -> None:
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
