"""One stack for several processes, for test runs: whoever comes first starts it, whoever goes last stops it."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from headrace_local.model import Endpoints
from headrace_local.stack import Stack


def acquire(state_dir: Path) -> Endpoints:
    """Return the endpoints of the infrastructure in ``state_dir``, started where it does not run."""
    state_dir.mkdir(parents=True, exist_ok=True)
    with _holders(state_dir) as holders:
        endpoints = Stack(state_dir).up().endpoints
        holders.append([os.getpid(), psutil.Process().create_time()])
    return endpoints


def release(state_dir: Path) -> None:
    """Give the stack back; the last holder stops it. Holders that died count no more."""
    with _holders(state_dir) as holders:
        holders[:] = [holder for holder in holders if holder[0] != os.getpid()]
        if not holders:
            Stack(state_dir).down()


@contextmanager
def _holders(state_dir: Path) -> Iterator[list[list[float]]]:
    path = state_dir / "holders.json"
    with (state_dir / "holders.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = json.loads(path.read_text()) if path.exists() else []
        holders = [holder for holder in known if _alive(int(holder[0]), holder[1])]
        yield holders
        path.write_text(json.dumps(holders))


def _alive(pid: int, created: float) -> bool:
    try:
        return bool(abs(psutil.Process(pid).create_time() - created) < 0.01)
    except psutil.NoSuchProcess:
        return False
