"""The local stack as it is: Kafka, the registry and PostgreSQL as child processes that always go along."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from headrace_local import shared
from headrace_local.loopback import free_port
from headrace_local.model import Command, Endpoints, Event, External, StackError
from headrace_local.stack import Stack

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("local-stack")]

SLEEP = (sys.executable, "-S", "-c", "import signal; signal.pause()")
SCHEMA = {"schema": '{"type": "record", "name": "A", "fields": []}'}
INTERRUPTED = """
import sys
from pathlib import Path
from headrace_local.model import Command
from headrace_local.stack import Stack
def services(_):
    return [Command("good", SLEEP), Command("never", SLEEP, health="tcp://127.0.0.1:1")]
Stack(Path(sys.argv[1])).up(
    services, external=EXTERNAL, on_event=lambda event: print(event.part, event.state, flush=True)
)
"""


def new_folder() -> Path:
    """A state folder that PostgreSQL's own user can enter when the tests run as root."""
    folder = Path(tempfile.mkdtemp(prefix="headrace-"))
    folder.chmod(0o755)
    return folder


def family(stack: Stack) -> list[psutil.Process]:
    """The supervisor and all below it."""
    supervisor = psutil.Process(stack.status()[0].pid).parent()
    assert supervisor is not None
    return [supervisor, *supervisor.children(recursive=True)]


def still_running(processes: list[psutil.Process]) -> list[psutil.Process]:
    """What has not ended within 20 s; a process that only waits to be noted by the system has."""
    _, left = psutil.wait_procs(processes, timeout=20)
    return [process for process in left if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def admin(endpoints: Endpoints) -> AdminClient:
    """A client of the stack's Kafka."""
    return AdminClient({"bootstrap.servers": endpoints.kafka_bootstrap})


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """A running stack without services."""
    stack = Stack(new_folder())
    stack.up()
    yield stack
    processes = family(stack)
    assert stack.down()
    assert not stack.down()
    assert still_running(processes) == []
    shutil.rmtree(stack.state_dir)


@pytest.fixture
def beside(stack: Stack) -> Iterator[tuple[Stack, External]]:
    """A second stack, which uses the first one's systems as external ones."""
    endpoints = stack.endpoints()
    second = Stack(new_folder())
    yield second, External(endpoints.kafka_bootstrap, endpoints.registry_url, endpoints.postgres_dsn)
    second.down()
    shutil.rmtree(second.state_dir)


def test_the_three_systems_answer(stack: Stack) -> None:
    """The local stack would not be usable at all."""
    endpoints = stack.endpoints()
    assert len(admin(endpoints).list_topics(timeout=10).brokers) == 1
    assert httpx.get(f"{endpoints.registry_url}/subjects").status_code == 200
    with psycopg.connect(endpoints.postgres_dsn) as connection:
        connection.execute("create extension if not exists vector")
        assert connection.info.server_version // 10000 == 18
        row = connection.execute("select '[1,2]'::vector <-> '[1,4]'::vector, current_setting('jit')").fetchone()
    assert row == (2.0, "off")


def test_everything_listens_on_loopback_only(stack: Stack) -> None:
    """Kafka or the registry would be open to the network without any password."""
    addresses = {
        connection.laddr.ip.removeprefix("::ffff:")
        for process in family(stack)
        for connection in connections(process)
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses == {"127.0.0.1"}


def connections(process: psutil.Process) -> list[Any]:
    """What the process has open; nothing where it ended meanwhile, as PostgreSQL's workers do."""
    try:
        return list(process.net_connections("inet"))
    except psutil.NoSuchProcess:
        return []


def test_a_wrong_password_is_refused(stack: Stack) -> None:
    """Every user of the machine could read and change all documents."""
    dsn = stack.endpoints().postgres_dsn
    password = dsn.split(":")[2].split("@")[0]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(dsn.replace(password, "wrong"))


def test_up_on_a_running_stack_changes_nothing(stack: Stack) -> None:
    """A second `headrace up` would start everything twice or move the ports."""
    before = [process.pid for process in stack.status()]
    again = stack.up()
    assert not again.started
    assert again.endpoints == stack.endpoints()
    assert [process.pid for process in stack.status()] == before


def test_a_registered_schema_survives_the_registrys_death(stack: Stack) -> None:
    """Records in Kafka would name a schema that nobody knows any more."""
    url = stack.endpoints().registry_url
    registered = httpx.post(f"{url}/subjects/survives/versions", json=SCHEMA).raise_for_status().json()["id"]
    stack.kill("registry")
    stack.up()  # waits until it is healthy again
    assert httpx.get(f"{url}/schemas/ids/{registered}").status_code == 200
    assert {process.name: process.restarts for process in stack.status()}["registry"] == 1


def test_a_killed_supervisor_leaves_no_process_and_no_data_is_lost(stack: Stack) -> None:
    """Servers would stay behind after a crash, or the next start would find an empty Kafka and database."""
    endpoints = stack.endpoints()
    client = admin(endpoints)
    (created,) = client.create_topics([NewTopic("kept", 1, 1)]).values()
    created.result(10)
    with psycopg.connect(endpoints.postgres_dsn) as connection:
        connection.execute("create table kept as select 7 as value")
    supervisor, *others = family(stack)
    supervisor.kill()
    assert still_running([supervisor, *others]) == []
    assert stack.state() is None
    assert stack.up().endpoints == endpoints
    assert "kept" in admin(endpoints).list_topics(timeout=10).topics
    with psycopg.connect(endpoints.postgres_dsn) as connection:
        assert connection.execute("select value from kept").fetchone() == (7,)


def test_services_start_after_preparation_and_early_ones_before(beside: tuple[Stack, External]) -> None:
    """Services would start before their topics and tables exist, or a model would load only after them."""
    second, external = beside
    events: list[Event] = []
    running: list[str] = []

    def services(endpoints: Endpoints) -> list[Command]:
        env = {"KAFKA": endpoints.kafka_bootstrap}
        return [Command("worker", SLEEP, env=env), Command("loader", SLEEP, env=env, early=True)]

    def prepare(endpoints: Endpoints) -> None:
        assert endpoints.kafka_bootstrap == external.kafka
        running.extend(process.name for process in second.status())

    state = second.up(services, prepare=prepare, external=external, on_event=events.append)
    assert state.endpoints.kafka_bootstrap == external.kafka
    assert running == ["loader"]
    started = [event.part for event in events if event.state == "starting"]
    assert started == ["loader", "worker"]
    assert {event.part for event in events if event.state == "ready"} == {"loader", "worker"}
    for process in second.status():
        assert process.pid is not None
        assert psutil.Process(process.pid).environ()["KAFKA"] == external.kafka


def test_a_broken_service_is_named_and_everything_is_stopped(beside: tuple[Stack, External]) -> None:
    """The user would see neither which service failed nor why, and half a stack would keep running."""
    second, external = beside
    bad = Command(
        "chunker", (sys.executable, "-c", "raise SystemExit('no such pipeline: x')"), health="tcp://127.0.0.1:1"
    )
    with pytest.raises(StackError, match="chunker exited 2 times in a row") as caught:
        second.up(lambda _: [Command("good", SLEEP), bad], external=external)
    assert "no such pipeline: x" in str(caught.value)
    assert second.state() is None


def test_a_broken_kafka_is_named_with_its_own_last_lines(beside: tuple[Stack, External]) -> None:
    """The user would be told of a time-out instead of Kafka's own reason."""
    second, external = beside
    (second.state_dir / "kafka").mkdir()
    (second.state_dir / "kafka" / "formatted").touch()  # it is not: there is no data folder
    with pytest.raises(StackError, match="kafka exited 2 times in a row") as caught:
        second.up(external=External(registry=external.registry, postgres=external.postgres))
    assert "meta.properties" in str(caught.value)
    assert second.state() is None


def test_a_start_that_is_killed_leaves_nothing_running(beside: tuple[Stack, External]) -> None:
    """Processes would stay behind when the command is killed, or the terminal is closed, before all is ready."""
    second, external = beside
    setting = f"from headrace_local.model import External\nSLEEP = {SLEEP!r}\nEXTERNAL = {external!r}\n"
    start = subprocess.Popen(
        [sys.executable, "-c", setting + INTERRUPTED, str(second.state_dir)], stdout=subprocess.PIPE, text=True
    )
    with start:
        assert start.stdout is not None
        assert [start.stdout.readline().strip() for _ in range(3)] == ["good starting", "never starting", "good ready"]
        processes = family(second)
        assert len(processes) == 3
        start.send_signal(signal.SIGKILL)
    assert still_running(processes) == []
    assert second.state() is None


def test_a_stack_that_is_up_serves_test_runs_and_outlives_them(stack: Stack) -> None:
    """A test run would stop the stack that the user started."""
    assert shared.acquire(stack.state_dir) == stack.endpoints()
    shared.release(stack.state_dir)
    assert len(stack.status()) == 3
    with pytest.raises(StackError, match="does not hold the stack"):
        shared.release(stack.state_dir)


def test_an_unreachable_external_system_is_refused_before_anything_starts() -> None:
    """Kafka would be downloaded and started only to fail for a mistyped address."""
    folder = new_folder()
    with pytest.raises(StackError, match="PostgreSQL at the given address"):
        Stack(folder).up(external=External(postgres=f"postgresql://127.0.0.1:{free_port()}/x"))
    assert not (folder / "logs").exists()
    shutil.rmtree(folder)
