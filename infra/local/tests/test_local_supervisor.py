"""The supervisor: when it starts what again, and what it answers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from headrace_local.model import Command
from headrace_local.server import Server
from headrace_local.supervisor import STABLE_S, Supervisor, after_exit, clear_leftovers

ENDLESS = (sys.executable, "-S", "-c", "import signal; signal.pause()")


class FakeTime:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeTime:
    """A clock that each test moves."""
    return FakeTime()


@pytest.fixture
def supervisor(tmp_path: Path, clock: FakeTime) -> Iterator[Supervisor]:
    """A supervisor in this process; its children end with the test."""
    supervisor = Supervisor(tmp_path, clock)
    yield supervisor
    supervisor.stop()


@pytest.fixture
def server(supervisor: Supervisor, tmp_path: Path) -> Server:
    """Its server, which is asked directly."""
    return Server(supervisor, tmp_path / "s")


def pid_of(supervisor: Supervisor, name: str) -> int:
    """The id of a running child."""
    process = supervisor.children[name].process
    assert process is not None
    return process.pid


def kill(supervisor: Supervisor, name: str) -> None:
    """Kill a child and wait until the kernel has noted its end, without taking note of it ourselves."""
    pid = pid_of(supervisor, name)
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def ask(server: Server, **order: object) -> dict[str, Any]:
    """The answer to an order."""
    with socket.socket() as connection:
        return server.answer(connection, json.dumps(order).encode())


@pytest.mark.unit
def test_delays_double_up_to_a_bound() -> None:
    """A part that cannot start would otherwise be started in a tight loop, or never again."""
    failures, delays = 0, []
    for _ in range(9):
        failures, delay = after_exit(failures, ran_s=1.0)
        delays.append(delay)
    assert delays == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 10.0]


@pytest.mark.unit
def test_a_stable_minute_forgives_earlier_failures() -> None:
    """A service that dies once a day would otherwise wait ever longer."""
    assert after_exit(7, ran_s=STABLE_S) == (1, 0.2)


@pytest.mark.integration
def test_a_dead_child_starts_again_when_its_delay_is_over(supervisor: Supervisor, clock: FakeTime) -> None:
    """A crashed service would stay down, or its restart would not be counted."""
    supervisor.start(Command("service", ENDLESS))
    first = pid_of(supervisor, "service")
    kill(supervisor, "service")
    assert supervisor.tick() == pytest.approx(0.2)
    assert supervisor.children["service"].status(clock())["state"] == "waiting"
    clock.now += 0.2
    assert supervisor.tick() is None
    status = supervisor.children["service"].status(clock())
    assert (status["state"], status["restarts"], status["failures"]) == ("running", 1, 1)
    assert status["pid"] != first


@pytest.mark.integration
def test_the_log_of_the_start_before_is_kept(supervisor: Supervisor, tmp_path: Path) -> None:
    """The reason of a crash would be lost with the next start."""
    log = tmp_path / "logs" / "service.log"
    supervisor.start(Command("service", ENDLESS))
    log.write_text("the reason")
    supervisor.restart("service")
    assert (tmp_path / "logs" / "service.log.1").read_text() == "the reason"
    assert log.read_text() == ""


@pytest.mark.integration
def test_a_program_that_vanished_does_not_take_the_supervisor_along(
    supervisor: Supervisor, clock: FakeTime, tmp_path: Path
) -> None:
    """One broken service would stop Kafka and PostgreSQL too."""
    program = tmp_path / "program"
    program.symlink_to("/bin/sleep")
    supervisor.start(Command("service", (str(program), "600")))
    program.unlink()
    kill(supervisor, "service")
    supervisor.tick()
    clock.now += 1.0
    assert supervisor.tick() == pytest.approx(0.4)
    assert "cannot be started" in (tmp_path / "logs" / "service.log").read_text()


@pytest.mark.integration
def test_stopping_ends_what_a_service_started_itself(supervisor: Supervisor, tmp_path: Path) -> None:
    """A service's own helpers would stay behind after `headrace down`."""
    note = tmp_path / "pid"
    os.mkfifo(note)
    script = f"sleep 600 & echo $! > {note}; wait"
    supervisor.start(Command("service", ("/bin/sh", "-c", script)))
    helper = psutil.Process(int(note.read_text()))
    supervisor.stop()
    gone, alive = psutil.wait_procs([helper], timeout=10)
    assert (gone, alive) == ([helper], [])


@pytest.mark.integration
def test_leftovers_are_killed_only_when_they_are_ours(tmp_path: Path) -> None:
    """A process id that another program got meanwhile would be killed, or a leftover would hold our port."""
    ours, theirs = (subprocess.Popen(ENDLESS, start_new_session=True) for _ in range(2))
    created = psutil.Process(ours.pid).create_time()
    record = tmp_path / "processes.json"
    record.write_text(json.dumps([[ours.pid, created], [theirs.pid, created - 5.0]]))
    assert clear_leftovers(tmp_path) == 1
    assert ours.wait(10) == -signal.SIGKILL
    assert theirs.poll() is None
    assert not record.exists()
    theirs.kill()
    theirs.wait()


@pytest.mark.integration
def test_orders_over_the_socket(server: Server, supervisor: Supervisor) -> None:
    """The command line could not start, look at, kill or stop anything."""
    command = {"name": "service", "argv": ENDLESS, "env": {"A": "b"}, "health": "http://127.0.0.1:1/healthz"}
    assert ask(server, op="start", command=command) == {"ok": True}
    (status,) = ask(server, op="status")["processes"]
    assert (status["name"], status["state"], status["health"]) == ("service", "running", command["health"])
    pid = pid_of(supervisor, "service")
    assert ask(server, op="kill", name="service") == {"ok": True}
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert ask(server, op="stop", names=["service"]) == {"ok": True}
    assert supervisor.children == {}
    assert server.running


@pytest.mark.unit
@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "Expecting"),
        (b'{"op": "sing"}', "unknown request 'sing'"),
        (b'{"op": "kill", "name": "nobody"}', "unknown name 'nobody'"),
        (b'{"op": "start", "command": {"name": "x", "argv": ["/does/not/exist"]}}', "No such file"),
        (b'{"op": "start", "command": {"name": "x", "argv": ["/bin/true"], "colour": "red"}}', "colour"),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_reason(server: Server, line: bytes, reason: str) -> None:
    """One wrong order would end the supervisor and everything with it."""
    with socket.socket() as connection:
        answer = server.answer(connection, line)
    assert answer["ok"] is False
    assert reason in answer["error"]


@pytest.mark.unit
def test_a_shared_stack_ends_with_its_last_holder(server: Server) -> None:
    """The first test process to finish would stop the stack under the others, or nobody would."""
    with socket.socket() as first, socket.socket() as second:
        for connection, op in ((first, "own"), (first, "share"), (second, "hold")):
            assert server.answer(connection, json.dumps({"op": op}).encode())["ok"]
        assert server.answer(first, b'{"op": "release"}')["ends"] is False
        assert server.running
        assert server.answer(second, b'{"op": "release"}')["ends"] is True
        assert not server.running


@pytest.mark.unit
def test_a_detached_stack_outlives_those_who_join_it(server: Server) -> None:
    """A test run beside `headrace up` would stop the user's stack."""
    with socket.socket() as first, socket.socket() as second:
        for connection, op in ((first, "own"), (first, "detach"), (second, "hold")):
            assert server.answer(connection, json.dumps({"op": op}).encode())["ok"]
        assert server.answer(second, b'{"op": "release"}')["ends"] is False
        assert server.running
