"""The supervisor's side of its socket; a request is a JSON line, and so is its answer.

The stack belongs to the connection that starts it, until that connection detaches it (it then continues alone) or
shares it (it then ends with the last connection that holds it). So nothing remains after a start that is interrupted,
or after test processes that are killed.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
from pathlib import Path
from typing import Any

from headrace_local.model import Command
from headrace_local.supervisor import Supervisor

CLAIM_S = 10.0
"""Seconds after which a supervisor without a connection ends."""


class Server:
    """Executes the requests from the socket at ``path``, which listens when the constructor returns."""

    def __init__(self, supervisor: Supervisor, path: Path) -> None:
        self._supervisor = supervisor
        self._selector = selectors.DefaultSelector()
        self._listener = socket.socket(socket.AF_UNIX)
        path.unlink(missing_ok=True)
        mask = os.umask(0o177)
        self._listener.bind(str(path))
        os.umask(mask)
        self._listener.listen()
        self._buffers: dict[socket.socket, bytes] = {}
        self._holders: set[socket.socket] = set()
        self._shared = False
        self._claimed = False
        self.running = True

    def run(self) -> None:
        """Serve until told to stop, or until no connection holds a stack that is not detached."""
        wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only wakes up the loop
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "running", False))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(wake, selectors.EVENT_READ)
        unclaimed_until = self._supervisor.clock() + CLAIM_S
        while self.running:
            due = self._supervisor.tick()
            if not self._claimed:
                left = unclaimed_until - self._supervisor.clock()
                self.running = left > 0
                due = min(left, CLAIM_S if due is None else due)
            for key, _ in self._selector.select(due):
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.fileobj, socket.socket):
                    self._read(key.fileobj)
                else:
                    os.read(wake, 4096)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        self._buffers[connection] = b""
        self._selector.register(connection, selectors.EVENT_READ)

    def _read(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(65536)
            *lines, self._buffers[connection] = (self._buffers[connection] + data).split(b"\n")
            for line in lines:
                connection.sendall(json.dumps(self.answer(connection, line)).encode() + b"\n")
        except ConnectionError:
            data = b""
        if not data:
            self._selector.unregister(connection)
            connection.close()
            del self._buffers[connection]
            self._let_go(connection)

    def _let_go(self, connection: socket.socket) -> None:
        if connection in self._holders:
            self._holders.remove(connection)
            if not self._holders:
                self.running = False

    def answer(self, connection: socket.socket, line: bytes) -> dict[str, Any]:
        """Execute one request and return the answer; a request that cannot be executed is refused with the reason."""
        try:
            order = json.loads(line)
            return {"ok": True, **self._carry_out(connection, order)}
        except KeyError as error:
            return {"ok": False, "error": f"unknown name {error}"}
        except (OSError, ValueError, TypeError) as error:
            return {"ok": False, "error": str(error)}

    def _carry_out(self, connection: socket.socket, order: dict[str, Any]) -> dict[str, Any]:
        supervisor = self._supervisor
        match order["op"]:
            case "own":
                self._claimed = True
                self._holders = {connection}
            case "share":
                self._shared = True
            case "detach":
                self._holders = set()
            case "hold":
                if self._shared:
                    self._holders.add(connection)
            case "release":
                self._let_go(connection)
                return {"ends": not self.running}
            case "start":
                supervisor.start(Command(**{**order["command"], "argv": tuple(order["command"]["argv"])}))
            case "restart":
                supervisor.restart(order["name"], order.get("env"))
            case "kill":
                supervisor.kill(order["name"])
            case "stop":
                supervisor.stop(order.get("names"))
                self.running = order.get("names") is not None
            case "status":
                now = supervisor.clock()
                return {"processes": [child.status(now) for child in supervisor.children.values()]}
            case other:
                raise ValueError(f"unknown request {other!r}")
        return {}
