"""Reads the log files of the local stack, even while they grow and are replaced."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from headrace_cli.failures import NotFound, NotReachable

_PAUSE_S = 0.2


@dataclass(slots=True)
class Tail:
    """The end of one log file; a restart of its process puts a new file in its place."""

    name: str
    path: Path
    file: BinaryIO
    inode: int
    rest: bytes = b""

    def new_lines(self) -> Iterator[str]:
        """Yield the lines that were completed since the last call."""
        yield from self._read()
        try:
            inode = self.path.stat().st_ino
        except FileNotFoundError:  # between two files
            return
        if inode != self.inode:
            self.file.close()
            self.file = self.path.open("rb")
            self.inode = inode
            yield from self._read()

    def _read(self) -> Iterator[str]:
        *lines, self.rest = (self.rest + self.file.read()).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace")


def read_logs(
    state_dir: Path,
    service: str | None,
    lines: int,
    *,
    follow: bool,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[tuple[str, str]]:
    """Yield process name and line: the last ``lines`` of each, then, with ``follow``, each new one until Ctrl-C.

    Raises :class:`NotReachable` if there are no logs and :class:`NotFound` for an unknown process.
    """
    paths = {path.stem: path for path in sorted((state_dir / "logs").glob("*.log"))}
    if not paths:
        raise NotReachable("no logs found", where=str(state_dir), remedy="Start a stack with `headrace up`.")
    if service is not None and service not in paths:
        raise NotFound(f"unknown process {service!r}", remedy=f"Use one of {', '.join(paths)}.")
    tails = []
    for name, path in paths.items():
        if service in (None, name):
            file = path.open("rb")
            tail = Tail(name, path, file, path.stat().st_ino)
            tails.append(tail)
            for line in deque(tail.new_lines(), maxlen=lines):
                yield name, line
    try:
        while follow:
            sleep(_PAUSE_S)
            for tail in tails:
                for line in tail.new_lines():
                    yield tail.name, line
    except KeyboardInterrupt:
        return
    finally:
        for tail in tails:
            tail.file.close()
