"""The local stack: Kafka, a schema registry, PostgreSQL and the services, without Docker or a system Java.

Ports and passwords are chosen once and kept in ``stack.json`` in the state folder (readable by its owner only).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from headrace_local.network import healthy, require_reachable
from headrace_local.stack_file import StackFile
from headrace_local.supervisor import clear_leftovers

TRIES = 2
"""A part that exits this often before it was ever ready is broken."""
_LOG_LINES = 15
_LINE_LENGTH = 400
_SOCKET_PATH_LENGTH = 100
_STOP_S = 120.0
"""Maximum seconds to stop a stack: all services together, then three parts one by one, each with its grace period."""


@dataclass(frozen=True, slots=True)
class StackState:
    """A running stack."""

    endpoints: Endpoints
    started: bool
    """False if it was already running."""


class Stack:
    """One stack in one state folder."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir.resolve()
        self._file = StackFile(self.state_dir)

    @property
    def socket_path(self) -> Path:
        """The supervisor's socket; outside the state folder if the path would be too long for a socket (108 bytes)."""
        inside = self.state_dir / "supervisor.sock"
        if len(os.fsencode(inside)) < _SOCKET_PATH_LENGTH:
            return inside
        digest = hashlib.sha256(os.fsencode(self.state_dir)).hexdigest()[:16]
        runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
        return runtime / f"headrace-{os.getuid()}-{digest}.sock"

    def up(
        self,
        services: MakeServices = lambda _: (),
        *,
        prepare: Prepare = lambda _: None,
        external: External | None = None,
        on_event: OnEvent = lambda _: None,
    ) -> StackState:
        """Start all parts that are not running and wait until they are healthy; they continue when the caller ends.

        ``prepare`` runs when the infrastructure answers and before services start. If anything fails, the parts that
        this call started are stopped, and :class:`StackError` names the part, its last log lines and what to do.
        """
        state, control = self._up(services, prepare, external or External(), on_event, shared=False)
        control.close()
        return state

    def hold(self, *, on_event: OnEvent = lambda _: None) -> tuple[Endpoints, Control]:
        """Start the infrastructure, or join it if it runs; the last process to close its connection stops it.

        A stack that :meth:`up` started keeps running.
        """
        state, control = self._up(lambda _: (), lambda _: None, External(), on_event, shared=True)
        return state.endpoints, control

    def release(self, control: Control) -> None:
        """Release what :meth:`hold` returned, and wait for the end if no other process holds the stack."""
        with self._locked():
            ends = control.release()
            control.close()
            if ends:
                with self._no_supervisor():
                    pass

    def down(self) -> bool:
        """Stop everything; return False if nothing was running."""
        if not self.state_dir.exists():
            return False
        try:
            with Control(self.socket_path, timeout=_STOP_S) as control:
                control.stop()
            ran = True
        except StackError:
            ran = False
        with self._no_supervisor():
            return clear_leftovers(self.state_dir) > 0 or ran

    def state(self) -> StackState | None:
        """Return the running stack, or None."""
        try:
            Control(self.socket_path).close()
        except StackError:
            return None
        return StackState(self.endpoints(), started=False)

    def endpoints(self) -> Endpoints:
        """Return the parts' endpoints; raises :class:`StackError` if the stack was never started."""
        return self._file.endpoints()

    def port(self, name: str) -> int:
        """Return the port of the service ``name``; the first call chooses it."""
        return self._file.port(name)

    def status(self) -> list[ProcessStatus]:
        """Return every process; an empty list if nothing runs."""
        try:
            with Control(self.socket_path) as control:
                return control.status()
        except StackError:
            return []

    def log_path(self, name: str) -> Path:
        """Return the process's log file; the log of its previous start ends in ``.log.1``."""
        return self.state_dir / "logs" / f"{name}.log"

    def start(self, command: Command) -> None:
        """Start one more process, or restart it, and wait until it is healthy."""
        with Control(self.socket_path) as control:
            self._start(control, [command], lambda _: None)

    def restart(self, name: str, env: Mapping[str, str] | None = None) -> None:
        """Stop one process and start it again, with ``env`` over the environment that it had."""
        with Control(self.socket_path) as control:
            control.restart(name, env)

    def kill(self, name: str) -> None:
        """Send SIGKILL to one process, to test how the others react; it is restarted."""
        with Control(self.socket_path) as control:
            control.kill(name)

    def stop(self, *names: str) -> None:
        """Stop single processes permanently."""
        with Control(self.socket_path) as control:
            control.stop(list(names))

    def _up(
        self, services: MakeServices, prepare: Prepare, external: External, on_event: OnEvent, *, shared: bool
    ) -> tuple[StackState, Control]:
        self.state_dir.mkdir(parents=True, exist_ok=True)
        with self._locked(on_event):
            running = self._join()
            if running is not None:
                try:
                    self._complete(running, services, prepare, on_event)
                except BaseException:
                    running.close()
                    raise
                return StackState(self.endpoints(), started=False), running
            with self._no_supervisor():
                clear_leftovers(self.state_dir)
            require_reachable(external)
            settings = self._file.renew(external)
            endpoints = self.endpoints()
            commands = self._infrastructure(settings, external, on_event)
            wanted = list(services(endpoints))
            early = [command for command in wanted if command.early]
            with self._supervisor() as control:
                self._launch(control, early, on_event)
                self._start(control, commands, on_event)
                if external.postgres is None:
                    _wait_for_login(endpoints.postgres_dsn)
                prepare(endpoints)
                self._launch(control, [command for command in wanted if not command.early], on_event)
                self._wait(control, wanted, on_event)
                if shared:
                    control.share()
                else:
                    control.detach()
            return StackState(endpoints, started=True), control

    def _join(self) -> Control | None:
        """Return a connection to the running supervisor; None if there is none, or it is about to end."""
        control = None
        try:
            control = Control(self.socket_path, timeout=_STOP_S)
            control.hold()
        except StackError:
            if control is not None:
                control.close()
            return None
        return control

    def _complete(self, control: Control, services: MakeServices, prepare: Prepare, on_event: OnEvent) -> None:
        """Start the services that a running stack lacks, and check that all others are healthy."""
        endpoints = self.endpoints()
        known = control.status()
        names = {process.name for process in known}
        self._wait(control, [Command(process.name, (), health=process.health) for process in known], on_event)
        missing = [command for command in services(endpoints) if command.name not in names]
        if not missing:
            return
        prepare(endpoints)
        try:
            self._start(control, missing, on_event)
        except BaseException:
            control.stop([command.name for command in missing])
            raise

    def _infrastructure(self, settings: dict[str, Any], external: External, on_event: OnEvent) -> list[Command]:
        ports = settings["ports"]
        commands = []
        if external.postgres is None:
            folder = parts.postgres_folder(self.state_dir)
            commands.append(parts.postgres(folder, ports["postgres"], settings["password"]))
        if external.kafka is None:
            commands.append(parts.kafka(self.state_dir / "kafka", ports["kafka"], ports["controller"], on_event))
        if external.registry is None:
            commands.append(parts.registry(self.state_dir / "registry", ports["registry"], on_event))
        return commands

    def _start(self, control: Control, commands: Sequence[Command], on_event: OnEvent) -> None:
        """Start all commands at once and wait until each is healthy."""
        self._launch(control, commands, on_event)
        self._wait(control, commands, on_event)

    def _launch(self, control: Control, commands: Sequence[Command], on_event: OnEvent) -> None:
        for command in commands:
            on_event(Event(command.name, "starting"))
            try:
                control.start(command)
            except StackError as error:
                raise self._broken(command, f"could not be started: {error.message}") from error
            if command.loads:
                on_event(Event(command.name, "loading", command.loads))

    def _wait(self, control: Control, commands: Sequence[Command], on_event: OnEvent) -> None:
        begun = time.monotonic()
        pending = {command.name: command for command in commands}
        pause = 0.02
        while pending:
            processes = {process.name: process for process in control.status()}
            for command in list(pending.values()):
                process = processes.get(command.name)
                if process is None:
                    raise self._broken(command, "was stopped by another command")
                if process.failures >= TRIES:
                    raise self._broken(command, f"exited {process.failures} times in a row")
                if process.state == "running" and healthy(command.health):
                    del pending[command.name]
                    on_event(Event(command.name, "ready"))
                elif time.monotonic() - begun > command.start_s:
                    raise self._broken(command, f"is not ready after {command.start_s:.0f} s")
            if pending:
                time.sleep(pause)
                pause = min(0.2, pause * 1.5)

    def _broken(self, command: Command, what: str) -> StackError:
        log = self.log_path(command.name)
        lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:] if log.exists() else []
        last = "\n".join(f"    {line[:_LINE_LENGTH]}" for line in lines) or "    (nothing was logged)"
        return StackError(
            f"{command.name} {what}; its last lines:\n{last}\n",
            where=str(log),
            remedy="Fix the cause in the last lines and run `headrace up` again. The processes that this "
            "command started were stopped.",
        )

    @contextmanager
    def _supervisor(self) -> Iterator[Control]:
        """Start the supervisor, tied to this process until it detaches; stop it if anything fails."""
        path = self.state_dir / "supervisor.log"
        with path.open("wb") as log:
            done = subprocess.run(
                [sys.executable, "-m", "headrace_local.supervisor", str(self.state_dir), str(self.socket_path)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=self.state_dir,
                check=False,
            )  # fmt: skip
        if done.returncode != 0:
            raise self._no_start(path)
        control = Control(self.socket_path, timeout=_STOP_S)
        try:
            control.own()
            yield control
        except BaseException:
            with suppress(StackError):  # it exited by itself; the error says why
                control.stop()
            control.close()
            with self._no_supervisor():
                raise

    @staticmethod
    def _no_start(log: Path) -> StackError:
        last = "\n".join(f"    {line}" for line in log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
        return StackError(
            f"the supervisor did not start; its last lines:\n{last}\n",
            where=str(log),
            remedy="Check that the state folder is writable, or choose another one with HEADRACE_STATE_DIR.",
        )

    @contextmanager
    def _locked(self, on_event: OnEvent = lambda _: None) -> Iterator[None]:
        """Let one caller at a time start or release the stack."""
        with (self.state_dir / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_event(Event("stack", "waiting", "another process is starting it"))
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _no_supervisor(self) -> Iterator[None]:
        """Wait until the supervisor has ended, and prevent others from starting one meanwhile."""
        deadline = time.monotonic() + _STOP_S
        with (self.state_dir / "supervisor.lock").open("a") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() > deadline:
                        raise StackError(
                            "the supervisor does not answer and does not exit",
                            where=str(self.state_dir / "supervisor.log"),
                            remedy="Kill the process `headrace_local.supervisor` of this folder; its children end "
                            "with it.",
                        ) from error
                time.sleep(0.02)
            yield


def _wait_for_login(dsn: str, seconds: float = 30.0) -> None:
    """Wait until PostgreSQL accepts the login; it accepts connections a moment earlier."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return psycopg.connect(dsn, connect_timeout=5).close()
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                raise StackError(
                    f"cannot log in to postgres: {error}",
                    where="postgres",
                    remedy="See `headrace logs postgres`. The password is in stack.json in the state folder.",
                ) from error
            time.sleep(0.05)
