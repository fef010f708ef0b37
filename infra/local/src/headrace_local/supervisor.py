"""The process that owns all others: it starts them, restarts what dies, and takes them along when it ends itself.

``python -m headrace_local.supervisor STATE_DIR`` listens on a socket in the state folder for JSON lines
(:mod:`headrace_local.control`). Every child dies with it (``PR_SET_PDEATHSIG``), even when it is killed.
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headrace_local.model import Command

PR_SET_PDEATHSIG = 1
GRACE_S = 15.0
"""Seconds between asking a process to stop and killing it."""
STABLE_S = 60.0
"""A process that ran so long starts again without delay."""
_LIBC = ctypes.CDLL(None, use_errno=True)


def restart_delay(failures: int) -> float:
    """Return the seconds before the next start: 0.2 s, doubling, at most 10 s."""
    return min(10.0, 0.2 * 2.0 ** min(max(failures - 1, 0), 10))


@dataclass(slots=True)
class Child:
    """One process and what is known of it; times are monotonic seconds."""

    command: Command
    log: Path
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
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
        }


@dataclass(slots=True)
class Supervisor:
    """Children by name in the order of their start; they stop in the opposite order."""

    state_dir: Path
    clock: Callable[[], float] = time.monotonic
    children: dict[str, Child] = field(default_factory=dict)

    def start(self, command: Command) -> None:
        """Start a process, or start it again with another command."""
        old = self.children.pop(command.name, None)
        if old is not None:
            self._stop([old])
        logs = self.state_dir / "logs"
        logs.mkdir(exist_ok=True)
        child = Child(command, logs / f"{command.name}.log")
        if child.log.exists():
            child.log.replace(child.log.with_suffix(".log.1"))
        self.children[command.name] = child
        self._spawn(child)

    def tick(self) -> None:
        """Notice what died and start again what is due."""
        now = self.clock()
        for child in self.children.values():
            if child.process is not None and child.process.poll() is not None:
                code = child.process.returncode
                child.process = None
                child.failures = 1 if now - child.started > STABLE_S else child.failures + 1
                child.next_start = now + restart_delay(child.failures)
                _note(child.log, f"supervisor: exited with {code}")
            if child.process is None and child.wanted and now >= child.next_start:
                child.restarts += 1
                self._spawn(child)

    def stop(self, names: list[str] | None = None) -> None:
        """Stop the named processes and forget them, or all; the last one started stops first."""
        chosen = [child for name, child in self.children.items() if names is None or name in names]
        self._stop(list(reversed(chosen)))
        for child in chosen:
            del self.children[child.command.name]

    def _spawn(self, child: Child) -> None:
        command = child.command
        death = signal.SIGQUIT if command.name == "postgres" else signal.SIGKILL

        def die_with_parent() -> None:
            _LIBC.prctl(PR_SET_PDEATHSIG, death)
            if os.getppid() == 1:
                os._exit(1)

        with child.log.open("ab") as log:
            child.process = subprocess.Popen(
                command.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **command.env},
                user=command.user,
                cwd="/" if command.user else self.state_dir,
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509  # this process has one thread
            )
        child.started = self.clock()

    def _stop(self, children: list[Child]) -> None:
        """Stop services together, then each part of the infrastructure alone, last started first."""
        infrastructure = {"kafka", "registry", "postgres"}
        _end([child for child in children if child.command.name not in infrastructure])
        for child in children:
            if child.command.name in infrastructure:
                _end([child])


def _end(children: list[Child]) -> None:
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
    for child in children:
        child.process = None


def _note(log: Path, line: str) -> None:
    with log.open("a") as file:
        file.write(f"{line}\n")


class Server:
    """Carries out orders from the socket; an order is a JSON line, and so is its answer.

    Until the order ``detach``, the stack belongs to the connection that starts it: when that ends, all ends.
    """

    def __init__(self, supervisor: Supervisor, path: Path) -> None:
        self._supervisor = supervisor
        self._selector = selectors.DefaultSelector()
        self._listener = socket.socket(socket.AF_UNIX)
        path.unlink(missing_ok=True)
        self._listener.bind(str(path))
        path.chmod(0o600)
        self._listener.listen()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._buffers: dict[socket.socket, bytes] = {}
        self._owner: socket.socket | None = None
        self.running = True

    def run(self) -> None:
        """Serve until told to stop."""
        while self.running:
            for key, _ in self._selector.select(0.1):
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.fileobj, socket.socket):
                    self._read(key.fileobj)
            self._supervisor.tick()

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        self._buffers[connection] = b""
        self._selector.register(connection, selectors.EVENT_READ)

    def _read(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(65536)
        except ConnectionError:
            data = b""
        if not data:
            self._selector.unregister(connection)
            connection.close()
            del self._buffers[connection]
            if connection is self._owner:
                self.running = False
            return
        *lines, self._buffers[connection] = (self._buffers[connection] + data).split(b"\n")
        for line in lines:
            answer = self._carry_out(connection, json.loads(line))
            connection.sendall(json.dumps(answer).encode() + b"\n")

    def _carry_out(self, connection: socket.socket, order: dict[str, Any]) -> dict[str, Any]:
        now = self._supervisor.clock()
        match order["op"]:
            case "own":
                self._owner = connection
            case "detach":
                self._owner = None
            case "start":
                self._supervisor.start(Command(**{**order["command"], "argv": tuple(order["command"]["argv"])}))
            case "stop":
                self._supervisor.stop(order.get("names"))
                self.running = order.get("names") is not None
            case "status":
                return {"ok": True, "processes": [child.status(now) for child in self._supervisor.children.values()]}
            case other:
                return {"ok": False, "error": f"no order {other!r}"}
        return {"ok": True}


def main() -> int:
    """Supervise until told to stop, or until the owner is gone before it detached."""
    state_dir = Path(sys.argv[1])
    supervisor = Supervisor(state_dir)
    server = Server(supervisor, Path(sys.argv[2]))
    signal.signal(signal.SIGTERM, lambda *_: setattr(server, "running", False))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        server.run()
    finally:
        supervisor.stop()
        Path(sys.argv[2]).unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
