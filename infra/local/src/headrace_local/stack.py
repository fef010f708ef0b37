"""The local stack: Kafka, a schema registry, PostgreSQL and the services, without Docker or a system Java.

Ports and passwords are chosen once and kept in ``stack.json`` in the state folder (readable by its owner only).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg

from headrace_local import parts
from headrace_local.control import Control
from headrace_local.model import (
    Command,
    Endpoints,
    Event,
    External,
    MakeServices,
    OnEvent,
    Prepare,
    ProcessStatus,
    StackError,
)

_LOG_LINES = 15
_PORTS = ("kafka", "controller", "registry", "postgres")


@dataclass(frozen=True, slots=True)
class StackState:
    """A running stack."""

    endpoints: Endpoints
    started: bool
    """False where it ran already."""


class Stack:
    """One stack in one state folder."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir.resolve()
        self._file = self.state_dir / "stack.json"

    @property
    def socket_path(self) -> Path:
        """The supervisor's socket; outside the state folder where that path is too long for one (108 bytes)."""
        inside = self.state_dir / "supervisor.sock"
        if len(str(inside)) < 100:
            return inside
        digest = hashlib.sha256(str(self.state_dir).encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"headrace-{os.getuid()}-{digest}.sock"

    def up(
        self,
        services: MakeServices = lambda _: (),
        *,
        prepare: Prepare = lambda _: None,
        external: External | None = None,
        on_event: OnEvent = lambda _: None,
    ) -> StackState:
        """Start what is not running and wait until all of it is healthy.

        ``prepare`` runs when the infrastructure answers and before the services start. Where anything fails,
        everything is stopped and :class:`StackError` names the part, its last log lines and what to do.
        """
        self.state_dir.mkdir(parents=True, exist_ok=True)
        external = external or External()
        with self._locked():
            if self._running():
                return StackState(self.endpoints(), started=False)
            settings = self._settings()
            commands = self._infrastructure(settings, external, on_event)
            endpoints = self._endpoints(settings, external)
            with self._supervisor() as control:
                self._start(control, commands, on_event)
                if external.postgres is None:
                    _wait_for_login(endpoints.postgres_dsn)
                prepare(endpoints)
                self._start(control, list(services(endpoints)), on_event)
                self._file_write({**settings, "external": _as_dict(external)})
                control.detach()
            return StackState(endpoints, started=True)

    def down(self) -> bool:
        """Stop everything; return False where nothing ran."""
        try:
            with Control(self.socket_path, timeout=120) as control:
                control.stop()
        except StackError:
            return False
        deadline = time.monotonic() + 30
        while self.socket_path.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        return True

    def endpoints(self) -> Endpoints:
        """Return where the parts answer; raises :class:`StackError` where the stack was never started."""
        if not self._file.exists():
            raise StackError("no stack was started here", where=str(self.state_dir), remedy="Run `headrace up`.")
        settings = json.loads(self._file.read_text())
        return self._endpoints(settings, External(**settings.get("external", {})))

    def status(self) -> list[ProcessStatus]:
        """Return every process; an empty list where nothing runs."""
        try:
            with Control(self.socket_path) as control:
                return control.status()
        except StackError:
            return []

    def log_path(self, name: str) -> Path:
        """Return the file that the process writes to."""
        return self.state_dir / "logs" / f"{name}.log"

    def start(self, command: Command) -> None:
        """Start one more process beside the others, or the same again, and wait until it is healthy."""
        with Control(self.socket_path) as control:
            control.start(command)
            self._wait_healthy(control, command)

    def stop(self, *names: str) -> None:
        """Stop single processes for good."""
        with Control(self.socket_path) as control:
            control.stop(list(names))

    def _running(self) -> bool:
        try:
            with Control(self.socket_path):
                return True
        except StackError:
            return False

    def _settings(self) -> dict[str, Any]:
        """Return ports and passwords: those of last time, with new ports for those that are taken by now."""
        kept: dict[str, Any] = json.loads(self._file.read_text()) if self._file.exists() else {}
        ports = dict(kept.get("ports", {}))
        for name in _PORTS:
            if name not in ports or not port_is_free(ports[name]):
                ports[name] = free_port(set(ports.values()))
        settings = {**kept, "ports": ports, "password": kept.get("password") or secrets.token_urlsafe(24)}
        self._file_write(settings)
        return settings

    def _file_write(self, settings: dict[str, Any]) -> None:
        partial = self._file.with_suffix(".partial")
        partial.touch(mode=0o600)
        partial.write_text(json.dumps(settings, indent=2))
        partial.replace(self._file)

    def _infrastructure(self, settings: dict[str, Any], external: External, on_event: OnEvent) -> list[Command]:
        ports = settings["ports"]
        commands = []
        if external.postgres is None:
            commands.append(
                parts.postgres(parts.postgres_folder(self.state_dir), ports["postgres"], settings["password"])
            )
        if external.kafka is None:
            commands.append(parts.kafka(self.state_dir / "kafka", ports["kafka"], ports["controller"], on_event))
        if external.registry is None:
            commands.append(parts.registry(self.state_dir / "registry", ports["registry"], on_event))
        return commands

    def _endpoints(self, settings: dict[str, Any], external: External) -> Endpoints:
        ports = settings["ports"]
        dsn = f"postgresql://headrace:{settings['password']}@127.0.0.1:{ports['postgres']}/postgres"
        return Endpoints(
            external.kafka or f"127.0.0.1:{ports['kafka']}",
            external.registry or f"http://127.0.0.1:{ports['registry']}/apis/ccompat/v7",
            external.postgres or dsn,
            self.state_dir,
        )

    def _start(self, control: Control, commands: Sequence[Command], on_event: OnEvent) -> None:
        for command in commands:
            on_event(Event(command.name, "starting"))
            control.start(command)
        if not commands:
            return
        with ThreadPoolExecutor(len(commands)) as pool:

            def wait(command: Command) -> None:
                with Control(self.socket_path) as own:
                    self._wait_healthy(own, command)
                on_event(Event(command.name, "ready"))

            for future in [pool.submit(wait, command) for command in commands]:
                future.result()

    def _wait_healthy(self, control: Control, command: Command) -> None:
        deadline = time.monotonic() + command.start_s
        pause = 0.02
        while not healthy(command.health):
            state = next((status for status in control.status() if status.name == command.name), None)
            if state is None or state.restarts >= 3 or time.monotonic() > deadline:
                raise self._broken(command, "does not stay up" if state and state.restarts else "is not ready")
            time.sleep(pause)
            pause = min(0.2, pause * 1.5)

    def _broken(self, command: Command, what: str) -> StackError:
        log = self.log_path(command.name)
        lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:] if log.exists() else []
        last = "\n".join(f"    {line}" for line in lines) or "    (nothing was logged)"
        return StackError(
            f"{command.name} {what} after {command.start_s:.0f} s at most; its last lines:\n{last}\n",
            where=str(log),
            remedy="Repair what the last lines say and run `headrace up` again; nothing was left running.",
        )

    @contextmanager
    def _supervisor(self) -> Iterator[Control]:
        """Start the supervisor, tied to this process until all is up."""
        log = (self.state_dir / "supervisor.log").open("ab")
        process = subprocess.Popen(
            [sys.executable, "-m", "headrace_local.supervisor", str(self.state_dir), str(self.socket_path)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, cwd=self.state_dir,
        )  # fmt: skip
        log.close()
        control = _until_connected(self.socket_path, process)
        try:
            control.own()
            yield control
        except BaseException:
            with suppress(StackError):
                control.stop()
            control.close()
            process.wait(60)
            raise
        control.close()
        process.returncode = 0  # it goes on without us

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.state_dir / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def healthy(health: str | None) -> bool:
    """Whether the URL answers 200, or the ``tcp://`` address accepts connections; None is always healthy."""
    if health is None:
        return True
    if health.startswith("tcp://"):
        address = urlsplit(health)
        try:
            socket.create_connection((address.hostname or "", address.port or 0), 1).close()
        except OSError:
            return False
        return True
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(health, timeout=3) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def free_port(avoid: set[int]) -> int:
    """Return a port of the loopback address that nobody listens on.

    It lies below the ports that the kernel gives to outgoing connections (32768 and up on Linux): one of those could be
    taken at any moment between choosing and listening.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        if port not in avoid and port_is_free(port):
            return port


def port_is_free(port: int) -> bool:
    """Whether nobody listens on the port of the loopback address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _until_connected(path: Path, process: subprocess.Popen[bytes]) -> Control:
    deadline = time.monotonic() + 10
    while True:
        try:
            return Control(path)
        except StackError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise StackError("the supervisor did not start", where=str(path.parent / "supervisor.log")) from error
            time.sleep(0.02)


def _wait_for_login(dsn: str) -> None:
    """PostgreSQL accepts connections a moment before it lets anybody in."""
    _retry(lambda: psycopg.connect(dsn, connect_timeout=5).close(), 30)


def _retry(call: Callable[[], None], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return call()
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                raise StackError(f"postgres does not let us in: {error}") from error
            time.sleep(0.05)


def _as_dict(external: External) -> dict[str, str | None]:
    return {"kafka": external.kafka, "registry": external.registry, "postgres": external.postgres}
