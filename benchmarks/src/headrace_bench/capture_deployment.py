"""A table, the services, and Kafka Connect, which captures the table."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import psycopg
from psycopg import sql

from headrace.config.captured_tables import Table
from headrace.topology.stages import DOCUMENT_STAGES
from headrace_bench.capture_writer import CREATE_TABLE
from headrace_local import parts, shared
from headrace_local.loopback import free_port
from headrace_operations.capture.connector import FAILED, Connect, configuration, slot_of
from headrace_operations.capture.database import drop_slot
from headrace_operations.capture.reconcile import reconcile
from headrace_testing.deployment import Deployment, Place, Service

TENANT = "acme"
TABLE = "article"
MAPPED = Table.model_validate(
    {"tenant": TENANT, "id": "article/{id}", "title": "{title}", "text": "{body}", "attributes": {"author": "{author}"}}
)
CONNECT = "connect"
MAPPING = """\
tables:
  {schema}.article:
    tenant: acme
    id: "article/{{id}}"
    title: "{{title}}"
    text: "{{body}}"
    attributes: {{author: "{{author}}"}}
"""
START_S = 90.0


@dataclass(slots=True)
class ConnectProcess:
    """Kafka Connect as a process of the test, restarted by hand."""

    folder: Path
    place: Place
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def client(self) -> Connect:
        """Its REST API."""
        return Connect(f"http://127.0.0.1:{self.port}")

    def start(self) -> None:
        """Start it without waiting."""
        command = parts.connect(
            self.folder / CONNECT, self.port, self.place.kafka, lambda _: None, prefix=self.place.prefix
        )
        with (self.folder / "connect.log").open("ab") as output:
            self.process = subprocess.Popen(
                command.argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                env={**os.environ, **command.env},
            )  # fmt: skip

    def wait_ready(self) -> None:
        """Wait until it is ready."""
        deadline = time.monotonic() + START_S
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/connectors", timeout=10).close()
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@dataclass(slots=True)
class Capture:
    """A deployment with a captured table in its own schema."""

    deployment: Deployment
    connect: ConnectProcess
    source: str
    """The schema of the table, and the name of the capture."""

    @property
    def dsn(self) -> str:
        """The source database, with the schema first on the search path."""
        return f"{self.deployment.place.postgres}?options=-csearch_path%3D{self.source}"

    @property
    def file(self) -> Path:
        """The file that maps the table's rows to documents."""
        return self.deployment.logs / "tables.yaml"

    def service(self, name: str) -> Service:
        """Return the running process."""
        return next(service for service in self.deployment.services if service.name == name)

    def begin(self) -> None:
        """Create the table, and start everything."""
        with psycopg.connect(self.deployment.place.postgres) as connection:
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(self.source)))
            connection.execute(sql.SQL("SET search_path = {}").format(sql.Identifier(self.source)))
            connection.execute(CREATE_TABLE)
        self.file.write_text(MAPPING.format(schema=self.source))
        self.deployment.env = {**self.deployment.env, "HEADRACE_INGEST_TABLES": str(self.file)}
        self.connect.start()
        self.deployment.bootstrap()
        self.deployment.start_all(*(flow.name for flow in DOCUMENT_STAGES))
        self.connect.wait_ready()

    def configure(self) -> None:
        """Start the connector."""
        place = self.deployment.place
        config = configuration(
            self.source, place.postgres, {f"{self.source}.{TABLE}": MAPPED}, place.kafka_settings().topic("changes")
        )
        self.connect.client.put(self.source, config)

    def pause(self) -> None:
        """Stop the capture and drop its slot, so that nothing is captured until it is configured again."""
        self.connect.wait_ready()
        self.connect.client.delete(self.source)
        slot = slot_of(self.source)
        asyncio.run(drop_slot(self.deployment.place.postgres, slot, slot))

    def reconcile(self) -> int:
        """Delete documents whose rows no longer exist; return the count."""
        place = self.deployment.place
        done = asyncio.run(
            reconcile(
                place.kafka_settings(), place.codec(), place.postgres, self.source, f"{self.source}.{TABLE}", MAPPED,
                dry_run=False,
            )
        )  # fmt: skip
        assert not done.left
        return len(done.gone)

    def kill(self, target: str) -> None:
        """Kill the process and restart it without waiting."""
        if target == CONNECT:
            self.connect.kill()
            self.connect.start()
            return
        victim = self.service(target)
        victim.kill()
        self.deployment.services.remove(victim)
        self.deployment.start(target, victim.slot, wait=False)

    def close(self) -> None:
        """Stop everything and clean up the source database."""
        self.connect.kill()
        self.deployment.close()
        dsn, slot = self.deployment.place.postgres, slot_of(self.source)
        asyncio.run(drop_slot(dsn, slot, slot))
        with psycopg.connect(dsn) as connection:
            connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(self.source)))


@contextmanager
def capturing(state_dir: Path, *, start: bool = True) -> Iterator[Capture]:
    """Yield a table, services and Kafka Connect, which captures it with ``start``; remove everything at the end."""
    endpoints = shared.acquire(state_dir)
    name = f"capture{uuid4().hex[:8]}"
    folder = Path(tempfile.mkdtemp(prefix="headrace-capture-"))
    place = Place(endpoints.kafka_bootstrap, endpoints.registry_url, endpoints.postgres_dsn, f"{name}-", name)
    capture = Capture(Deployment(place, folder), ConnectProcess(folder, place), f"src_{name}")
    try:
        capture.begin()
        if start:
            capture.configure()
            status = capture.connect.client.wait_running(capture.source, START_S)
            assert status.state != FAILED, status.reason
        yield capture
    finally:
        capture.close()
        shared.release(state_dir)
