"""The process that owns all others: it starts them, restarts those that die, and ends them when it ends itself.

``python -m headrace_local.supervisor STATE_DIR SOCKET`` holds ``supervisor.lock`` in the state folder while it lives,
and serves the socket (:mod:`headrace_local.server`). The command returns as soon as the socket listens, and the
supervisor continues in the background. On Linux, all children die with it (``PR_SET_PDEATHSIG``), even if it is killed.
On other systems, and for any remaining processes, ``processes.json`` tells the next start what to clean up.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from headrace_local.model import Command

GRACE_S = 15.0
"""Seconds between asking a process to stop and killing it."""
STABLE_S = 60.0
"""Seconds after which a failure of a process counts as its first one again."""
FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 10.0
INFRASTRUCTURE = ("postgres", "kafka", "registry")
"""In the order of start; each one is needed by the next, so they stop one after the other."""
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def after_exit(failures: int, ran_s: float) -> tuple[int, float]:
    """Return the number of consecutive failures including this one, and the seconds until the next start.

    The delay doubles from 0.2 s to at most 10 s; a stable minute resets it.
    """
    failures = 1 if ran_s >= STABLE_S else failures + 1
    return failures, min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(failures - 1, 10))


@dataclass(slots=True)
class Child:
    """The state of one process; times are monotonic seconds."""

    command: Command
    log: Path
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    created: float = 0.0
    """Start of the process in seconds since 1970; together with the process ID, it is unique."""
    restarts: int = 0
    failures: int = 0
    next_start: float = 0.0
    wanted: bool = True

    def status(self, now: float) -> dict[str, Any]:
        """Return the fields of :class:`headrace_local.model.ProcessStatus`."""
        running = self.process is not None
        return {
            "name": self.command.name,
            "pid": self.process.pid if self.process else None,
            "state": "running" if running else "waiting" if self.wanted else "stopped",
            "restarts": self.restarts,
            "uptime_s": now - self.started if running else 0.0,
            "health": self.command.health,
            "failures": self.failures,
        }


@dataclass(slots=True)
class Supervisor:
    """Children by name in the order of their start; they stop in reverse order."""

    state_dir: Path
    clock: Callable[[], float] = time.monotonic
    children: dict[str, Child] = field(default_factory=dict)

    def start(self, command: Command) -> None:
        """Start a process, or restart it with another command; raises OSError if it cannot be executed."""
        old = self.children.pop(command.name, None)
        if old is not None:
            self._stop([old])
        logs = self.state_dir / "logs"
        logs.mkdir(exist_ok=True)
        child = Child(command, logs / f"{command.name}.log")
        if child.log.exists():
            child.log.replace(child.log.with_name(f"{child.log.name}.1"))
        child.log.touch(mode=0o600)
        self._spawn(child)
        self.children[command.name] = child
        self._record()

    def restart(self, name: str, env: Mapping[str, str] | None = None) -> None:
        """Stop a process and start it again, with ``env`` over its environment; raises KeyError for an unknown one."""
        command = self.children[name].command
        self.start(replace(command, env={**command.env, **(env or {})}))

    def kill(self, name: str) -> None:
        """Send SIGKILL to a process; raises KeyError if it is not running."""
        process = self.children[name].process
        if process is None:
            raise KeyError(name)
        process.kill()

    def tick(self) -> float | None:
        """Notice exits, restart what is due, and return the seconds until the next restart is due, if any."""
        now = self.clock()
        for child in self.children.values():
            if child.process is not None and child.process.poll() is not None:
                _note(child.log, f"supervisor: exited with {child.process.returncode}")
                _end_group(child.process.pid)
                child.process = None
                child.failures, delay = after_exit(child.failures, now - child.started)
                child.next_start = now + delay
            if child.process is None and child.wanted and now >= child.next_start:
                child.restarts += 1
                self._spawn_again(child, now)
        due = [child.next_start for child in self.children.values() if child.process is None and child.wanted]
        return max(0.0, min(due) - now) if due else None

    def stop(self, names: list[str] | None = None) -> None:
        """Stop the named processes, or all, and forget them; the last one started stops first."""
        chosen = [child for name, child in self.children.items() if names is None or name in names]
        self._stop(list(reversed(chosen)))
        for child in chosen:
            del self.children[child.command.name]
        self._record()

    def _spawn_again(self, child: Child, now: float) -> None:
        try:
            self._spawn(child)
        except OSError as error:
            _note(child.log, f"supervisor: cannot be started: {error}")
            child.failures, delay = after_exit(child.failures, 0.0)
            child.next_start = now + delay
        else:
            self._record()

    def _spawn(self, child: Child) -> None:
        command = child.command
        group = pwd.getpwnam(command.user).pw_gid if command.user else None
        with child.log.open("ab") as log:
            child.process = subprocess.Popen(
                command.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **command.env},
                user=command.user,
                group=group,
                extra_groups=None if group is None else [],
                cwd="/" if command.user else self.state_dir,
                start_new_session=True,
                preexec_fn=_dies_with(os.getpid(), signal.Signals[command.orphan_signal]),  # noqa: PLW1509  # one thread
            )
        child.started = self.clock()
        child.created = _created(child.process.pid)

    def _stop(self, children: list[Child]) -> None:
        """Stop all services together, then each part of the infrastructure alone, last started first."""
        _end([child for child in children if child.command.name not in INFRASTRUCTURE])
        for child in children:
            if child.command.name in INFRASTRUCTURE:
                _end([child])

    def _record(self) -> None:
        """Record the processes of this stack."""
        ours = [[child.process.pid, child.created] for child in self.children.values() if child.process is not None]
        partial = self.state_dir / "processes.partial"
        partial.write_text(json.dumps(ours))
        partial.replace(self.state_dir / "processes.json")


def clear_leftovers(state_dir: Path) -> int:
    """Kill the processes that a killed supervisor left behind, and return their number.

    Only a process with the recorded ID *and* start time is ours. Call this while no supervisor runs.
    """
    record = state_dir / "processes.json"
    if not record.exists():
        return 0
    ours = [int(pid) for pid, created in json.loads(record.read_text()) if created and _created(int(pid)) == created]
    for pid in ours:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    record.unlink()
    return len(ours)


def _created(pid: int) -> float:
    """Return when a process started, in seconds since 1970, or 0 if it has ended."""
    try:
        process = psutil.Process(pid)
        return 0.0 if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.NoSuchProcess:
        return 0.0


def _dies_with(parent: int, death: signal.Signals) -> Callable[[], None]:
    """Return the function that a child runs before its program, so that it gets ``death`` when the supervisor ends."""

    def prepare() -> None:
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, death)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


def _end(children: list[Child]) -> None:
    """Ask processes to stop, wait for all of them, kill the remaining ones, and kill their children."""
    alive = [child for child in children if child.process is not None and child.process.poll() is None]
    for child in children:
        child.wanted = False
    for child in alive:
        assert child.process is not None
        child.process.send_signal(signal.Signals[child.command.stop_signal])
    deadline = time.monotonic() + GRACE_S
    for child in alive:
        assert child.process is not None
        try:
            child.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _note(child.log, f"supervisor: did not stop within {GRACE_S:.0f} s, killed")
            child.process.kill()
            child.process.wait()
        _end_group(child.process.pid)
    for child in children:
        child.process = None


def _end_group(leader: int) -> None:
    """Kill the processes that an exited process started and left behind."""
    with suppress(ProcessLookupError, PermissionError):  # nothing is left; macOS raises the second for a zombie
        os.killpg(leader, signal.SIGKILL)


def _note(log: Path, line: str) -> None:
    with log.open("a") as file:
        file.write(f"{line}\n")


def _lock(descriptor: int) -> bool:
    """Take the lock; a process that only checks for a supervisor holds it for a moment."""
    for _ in range(20):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.1)
        else:
            return True
    return False


def main() -> int:
    """Supervise until told to stop, or until the owners of the stack are gone."""
    from headrace_local.server import Server  # noqa: PLC0415  # the server imports this module

    state_dir, path = Path(sys.argv[1]), Path(sys.argv[2])
    lock = (state_dir / "supervisor.lock").open("w")  # held until this process ends
    if not _lock(lock.fileno()):
        print(f"another supervisor owns {state_dir}", file=sys.stderr)
        return 1
    supervisor = Supervisor(state_dir)
    server = Server(supervisor, path)
    if os.fork():
        os._exit(0)  # the caller waits for this: from here on, the socket can be reached
    try:
        server.run()
    finally:
        supervisor.stop()
        path.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
