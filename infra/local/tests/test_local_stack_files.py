"""Ports, the state file, configuration and what a start shows, without starting anything."""

from __future__ import annotations

import io
import socket
import stat
from pathlib import Path
from unittest.mock import Mock

import pytest
from rich.console import Console

from headrace_local import artifacts, parts
from headrace_local.loopback import claim, free_port
from headrace_local.model import Command, Event, External, StackError
from headrace_local.network import healthy, require_reachable
from headrace_local.progress import shown
from headrace_local.stack import Stack
from headrace_local.stack_file import StackFile

pytestmark = pytest.mark.unit


@pytest.fixture
def taken() -> socket.socket:
    """A port that somebody listens on."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", free_port()))
    listener.listen()
    return listener


def test_a_taken_port_is_not_free_and_does_not_pass_for_kafka(taken: socket.socket) -> None:
    """A start would collide with another server, or take it for its own part."""
    with taken:
        port = taken.getsockname()[1]
        assert not claim(port)
        assert healthy(f"tcp://127.0.0.1:{port}")
        taken.close()
        assert not healthy(f"kafka://127.0.0.1:{port}")
        assert not healthy(f"http://127.0.0.1:{port}/healthz")


def test_ports_and_password_stay_the_same_between_starts(tmp_path: Path) -> None:
    """Data would be locked away behind a new password, and every client would have to be told new ports."""
    first = StackFile(tmp_path).renew(External())
    again = StackFile(tmp_path).renew(External())
    assert again == first
    assert len(set(first["ports"].values())) == 4


def test_a_port_taken_meanwhile_is_chosen_anew(tmp_path: Path) -> None:
    """The next start would fail because another program listens on the kept port."""
    first = StackFile(tmp_path).renew(External())
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", first["ports"]["kafka"]))
        other.listen()
        again = StackFile(tmp_path).renew(External())
    assert again["ports"]["kafka"] != first["ports"]["kafka"]
    assert again["ports"]["postgres"] == first["ports"]["postgres"]


def test_the_state_file_is_for_its_owner_only(tmp_path: Path) -> None:
    """Other users of the machine could read the password of the database."""
    StackFile(tmp_path).renew(External())
    assert stat.S_IMODE((tmp_path / "stack.json").stat().st_mode) == 0o600


def test_service_ports_are_kept(tmp_path: Path) -> None:
    """The metrics of a service would move to another port with every start."""
    stack = Stack(tmp_path)
    settings = StackFile(tmp_path).renew(External())
    port = stack.port("chunker")
    assert port not in settings["ports"].values()
    assert Stack(tmp_path).port("chunker") == port
    assert StackFile(tmp_path).renew(External())["ports"]["chunker"] == port


def test_endpoints_name_external_systems_where_given(tmp_path: Path) -> None:
    """Services would talk to local systems although others were given."""
    stack = Stack(tmp_path)
    StackFile(tmp_path).renew(External(kafka="broker:9092"))
    endpoints = stack.endpoints()
    assert endpoints.kafka_bootstrap == "broker:9092"
    assert endpoints.registry_url.startswith("http://127.0.0.1:")
    assert endpoints.postgres_dsn.startswith("postgresql://headrace:")


def test_where_nothing_was_started_the_error_says_what_to_do(tmp_path: Path) -> None:
    """The user would see a missing file instead of the command to run."""
    with pytest.raises(StackError, match="headrace up"):
        Stack(tmp_path).endpoints()
    assert Stack(tmp_path).state() is None
    assert Stack(tmp_path).status() == []


def test_a_long_state_folder_gets_a_short_socket(tmp_path: Path) -> None:
    """A deep project folder could not be used: a socket's path has at most 108 bytes."""
    deep = Stack(tmp_path / ("folder" * 20))
    assert len(str(deep.socket_path)) < 100
    assert deep.socket_path != Stack(tmp_path / ("folder" * 21)).socket_path
    assert Stack(Path("/s")).socket_path == Path("/s/supervisor.sock")


@pytest.mark.parametrize(
    ("external", "name"),
    [
        (External(kafka="127.0.0.1:1,127.0.0.1:2"), "Kafka"),
        (External(registry="http://127.0.0.1:1/apis/ccompat/v7"), "the schema registry"),
        (External(postgres="postgresql://u:secret@127.0.0.1:1/d"), "PostgreSQL"),
    ],
)
def test_an_external_system_that_is_down_is_named(external: External, name: str) -> None:
    """The user would wait for services that can never become ready; the password must not be shown."""
    with pytest.raises(StackError, match=f"{name} at the given address does not answer") as caught:
        require_reachable(external)
    assert "secret" not in str(caught.value)


def test_kafka_is_configured_on_loopback_without_automatic_topics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker would be open to the network, or a typing error would create a topic."""
    monkeypatch.setattr(artifacts, "kafka_jars", lambda _: [Path("/jars/kafka.jar")])
    (tmp_path / "formatted").touch()
    command = parts.kafka(tmp_path, 20001, 20002, lambda _: None, node=3)
    lines = dict(line.split("=", 1) for line in (tmp_path / "server.properties").read_text().splitlines())
    assert lines["listeners"] == "PLAINTEXT://127.0.0.1:20001,CONTROLLER://127.0.0.1:20002"
    assert lines["node.id"] == "3"
    assert lines["controller.quorum.voters"] == "3@127.0.0.1:20002"
    assert lines["auto.create.topics.enable"] == "false"
    assert lines["group.initial.rebalance.delay.ms"] == "0"
    assert int(lines["message.max.bytes"]) >= 9 * 1024 * 1024
    assert command.health == "kafka://127.0.0.1:20001"


def test_the_registry_listens_on_loopback_and_keeps_its_schemas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Schemas would be gone after a restart, and with them the meaning of every record in Kafka."""
    monkeypatch.setattr(artifacts, "registry_home", lambda _: Path("/registry"))
    env = parts.registry(tmp_path, 20003, lambda _: None).env
    assert env["QUARKUS_HTTP_HOST"] == env["QUARKUS_MANAGEMENT_HOST"] == "127.0.0.1"
    assert env["APICURIO_DATASOURCE_URL"] == f"jdbc:h2:file:{tmp_path / 'registry'};WRITE_DELAY=0"


def test_the_data_of_the_parts_is_their_owners_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every user of the machine could read all documents in the topics' files, also those of an earlier version."""
    monkeypatch.setattr(artifacts, "kafka_jars", lambda _: [Path("/jars/kafka.jar")])
    monkeypatch.setattr(artifacts, "registry_home", lambda _: Path("/registry"))
    (tmp_path / "kafka").mkdir(mode=0o755)
    (tmp_path / "kafka" / "formatted").touch()
    parts.kafka(tmp_path / "kafka", 20001, 20002, lambda _: None)
    parts.registry(tmp_path / "registry", 20003, lambda _: None)
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("kafka", "registry")} == {0o700}


def test_data_of_another_postgresql_is_refused_with_its_version(tmp_path: Path) -> None:
    """PostgreSQL's own words would not say what to do with the folder."""
    (tmp_path / "PG_VERSION").write_text("16\n")
    with pytest.raises(StackError, match="PostgreSQL 16 wrote it, but this is version 18"):
        parts._check_major(tmp_path)


def test_a_broken_part_is_named_with_its_last_lines(tmp_path: Path) -> None:
    """The user would not know which part failed nor why."""
    stack = Stack(tmp_path)
    log = stack.log_path("kafka")
    log.parent.mkdir()
    log.write_text("".join(f"line {number}\n" for number in range(40)))
    message = str(stack._broken(Command("kafka", ()), "exited 2 times in a row"))
    assert message.startswith("kafka exited 2 times in a row")
    assert "line 24\n" not in message
    assert "line 25\n" in message
    assert "line 39\n" in message
    assert str(log) in message
    assert "headrace up" in message


def test_a_download_is_reported_in_plain_lines_by_tenths() -> None:
    """A log file would be flooded with one line for each megabyte, or stay silent for minutes."""
    out = io.StringIO()
    with shown(Console(file=out, width=80)) as take:
        for megabytes in range(1, 161):
            take(Event("registry", "downloading", "file.tar.gz", megabytes * 1_000_000, 160_000_000))
        take(Event("registry", "ready"))
    lines = out.getvalue().splitlines()
    assert len(lines) == 12
    assert lines[0].endswith("registry: downloading 1 of 160 MB")
    assert lines[-1].endswith("registry: ready")


def test_what_loads_long_is_said_when_it_starts(tmp_path: Path) -> None:
    """A start would stand still while a model is fetched, and nobody would know what for."""
    out = io.StringIO()
    events: list[Event] = []
    with shown(Console(file=out, width=80)) as take:

        def noted(event: Event) -> None:
            events.append(event)
            take(event)

        for command in (Command("embedder", (), loads="the model m"), Command("chunker", ())):
            Stack(tmp_path)._launch(Mock(), [command], noted)
    assert [(event.part, event.state) for event in events] == [
        ("embedder", "starting"), ("embedder", "loading"), ("chunker", "starting"),
    ]  # fmt: skip
    assert "embedder: loading the model m" in out.getvalue()


def test_a_terminal_shows_bars() -> None:
    """The progress of a download could not be seen on a terminal."""
    out = io.StringIO()
    with shown(Console(file=out, width=100, force_terminal=True)) as take:
        take(Event("kafka", "downloading", "a.jar", 23_000_000, 46_000_000))
        take(Event("kafka", "ready"))
        take(Event("registry", "starting"))
    assert "ready" in out.getvalue()
    assert "━" in out.getvalue()
