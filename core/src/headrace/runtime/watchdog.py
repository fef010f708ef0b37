"""The watchdog: a Kafka call that exceeds its time limit ends the process, so that a supervisor restarts it.

librdkafka has calls that may never return (librdkafka#5456, #5511); a hung worker keeps its partitions.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EXIT_HUNG = 75


def _die(call: str, bound: float) -> None:
    sys.stderr.write(f'{{"event": "kafka call hangs", "level": "critical", "call": "{call}", "bound_s": {bound}}}\n')
    sys.stderr.flush()
    os._exit(EXIT_HUNG)


class Watchdog:
    """Watches one thread's calls; ``expired(call, bound)`` is called once for a call over ``bound`` seconds."""

    def __init__(
        self,
        bound: float,
        *,
        expired: Callable[[str, float], None] = _die,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bound = bound
        self._expired = expired
        self._clock = clock
        self._current: tuple[str, float] | None = None
        self._reported: tuple[str, float] | None = None
        self._closed = threading.Event()

    def start(self) -> None:
        """Check once a second, in a separate thread."""
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def close(self) -> None:
        """Stop checking."""
        self._closed.set()

    @contextmanager
    def watch(self, call: str) -> Iterator[None]:
        """Watch the block as one call."""
        self._current = (call, self._clock())
        try:
            yield
        finally:
            self._current = None

    def check(self) -> None:
        """Report the current call if it exceeds its limit."""
        current = self._current
        if current is None or current is self._reported:
            return
        if self._clock() - current[1] > self._bound:
            self._reported = current
            self._expired(current[0], self._bound)

    def _run(self) -> None:
        while not self._closed.wait(1.0):
            self.check()
