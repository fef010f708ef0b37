"""The client of the supervisor's socket: one JSON line for each request and each answer."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from headrace_local.model import Command, ProcessStatus, StackError


class Control:
    """A connection to the supervisor; raises :class:`StackError` if none is running."""

    def __init__(self, path: Path, timeout: float = 60.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        try:
            if path.stat().st_uid != os.getuid():
                raise PermissionError(f"{path} belongs to another user")
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise StackError(
                "no stack is running here", where=str(path), remedy="Start it with `headrace up`."
            ) from error
        self._file = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self._socket.close()

    def own(self) -> None:
        """Bind the stack to this connection until :meth:`detach` or :meth:`share`."""
        self._ask({"op": "own"})

    def detach(self) -> None:
        """Let the stack continue without this connection."""
        self._ask({"op": "detach"})

    def share(self) -> None:
        """Bind the stack to this connection and all that :meth:`hold` it; it ends with the last of them."""
        self._ask({"op": "share"})

    def hold(self) -> None:
        """Keep a shared stack while this connection is open; a stack that is not shared continues in any case."""
        self._ask({"op": "hold"})

    def release(self) -> bool:
        """Release the stack; return whether it now ends because no connection holds it."""
        return bool(self._ask({"op": "release"})["ends"])

    def start(self, command: Command) -> None:
        """Start a process, or restart it with another command."""
        self._ask({"op": "start", "command": asdict(command)})

    def restart(self, name: str, env: Mapping[str, str] | None = None) -> None:
        """Stop a process and start it again, with ``env`` over the environment that it had."""
        self._ask({"op": "restart", "name": name, "env": dict(env or {})})

    def kill(self, name: str) -> None:
        """Send SIGKILL to a process; the supervisor restarts it, as after any other death."""
        self._ask({"op": "kill", "name": name})

    def stop(self, names: list[str] | None = None) -> None:
        """Stop the named processes, or everything and the supervisor too."""
        self._ask({"op": "stop", "names": names})

    def status(self) -> list[ProcessStatus]:
        """Return every process in the order of its start."""
        return [ProcessStatus(**fields) for fields in self._ask({"op": "status"})["processes"]]

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        try:
            self._socket.sendall(json.dumps(order).encode() + b"\n")
            line = self._file.readline()
        except OSError as error:
            raise StackError(f"the supervisor does not answer: {error}") from error
        if not line:
            raise StackError("the supervisor exited", remedy="Read supervisor.log in the state folder for the reason.")
        answer: dict[str, Any] = json.loads(line)
        if not answer["ok"]:
            raise StackError(f"the supervisor reports an error: {answer['error']}")
        return answer
