"""Services as processes of a test, started and killed one by one; topic prefix and schema separate tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from headrace.codec.codec import Codec
from headrace.codec.schema_registry import Registry, register_all
from headrace.config.settings import KafkaSettings, ObjectSettings, RegistrySettings
from headrace.migrate import BootstrapSettings, bootstrap, create_topics
from headrace.topology import topics
from headrace_local.loopback import free_port

log = structlog.get_logger(__name__)

LOGIN = "headrace_tests"
PASSWORD = "only-for-tests-on-loopback"
START_S = 90.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a test's topics and tables are: endpoints, topic prefix and schema. The DSN is the owner's."""

    kafka: str
    registry: str
    postgres: str
    prefix: str
    schema: str

    def kafka_settings(self) -> KafkaSettings:
        """Return Kafka's settings for this place."""
        return KafkaSettings(bootstrap=self.kafka, topic_prefix=self.prefix)

    def codec(self) -> Codec:
        """Return a codec with this place's registry."""
        return Codec(Registry(self.registry))

    def create_topics(self) -> Codec:
        """Create the topics and register their schemas, without a store; return a codec."""
        create_topics(self.kafka_settings(), 1)
        register_all(Registry(self.registry), topics.record_schemas())
        return self.codec()

    def delete_topics(self) -> None:
        """Delete the remaining topics, because thousands of partitions make a small broker slow."""
        admin = AdminClient({**self.kafka_settings().client(), "log_level": 0})
        try:
            own = [name for name in admin.list_topics(timeout=10).topics if name.startswith(self.prefix)]
            if own:
                for deleted in admin.delete_topics(own, operation_timeout=30).values():
                    deleted.result(40)
        except KafkaException as error:
            log.warning("topics stay behind", prefix=self.prefix, error=str(error))

    def runtime_dsn(self) -> str:
        """Return the DSN of a service's login, which owns nothing."""
        return f"postgresql://{LOGIN}:{PASSWORD}@{self.postgres.rpartition('@')[2]}"


@dataclass(slots=True)
class Service:
    """One running process of a service."""

    name: str
    slot: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def ready(self) -> bool:
        """Whether ``/readyz`` returns 200."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def wait_ready(self, timeout: float = START_S) -> None:
        """Wait until the service is ready; raises :class:`AssertionError` with the end of its log if it is late."""
        deadline = time.monotonic() + timeout
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
                raise AssertionError(f"{self.name}-{self.slot} is not ready (exit {self.process.poll()}):\n{tail}")
            time.sleep(0.05)

    def kill(self) -> None:
        """Kill it with SIGKILL, without a drain."""
        self.process.kill()
        self.process.wait()

    def drain(self, timeout: float = 30.0) -> int:
        """Stop it with SIGTERM and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)


def object_settings(variables: Mapping[str, str]) -> ObjectSettings:
    """Return the settings of the object store from these variables."""
    mark = "HEADRACE_OBJECTS_"
    named = {name.removeprefix(mark).lower(): value for name, value in variables.items() if name.startswith(mark)}
    return ObjectSettings.model_validate(named)


@dataclass(slots=True)
class Deployment:
    """The services of one place."""

    place: Place
    logs: Path
    provider: str = "hashing"
    model: str = "hashing-384"
    env: Mapping[str, str] = field(default_factory=dict)
    services: list[Service] = field(default_factory=list)
    embedder_port: int = field(default_factory=free_port)
    copies: int = 1
    """Copies of every partition: 1, or 3 with three brokers."""

    def bootstrap(self) -> None:
        """Create topics, schemas, tables and pipelines, and mark the object store that :attr:`env` names."""
        settings = BootstrapSettings(
            postgres_dsn=self.place.postgres, store_schema=self.place.schema, runtime_login=LOGIN,
            runtime_password=PASSWORD, model=self.model, replication_factor=self.copies,
        )  # fmt: skip
        registry = RegistrySettings(url=self.place.registry)
        bootstrap(settings, self.place.kafka_settings(), registry, object_settings(self.env))

    def start(self, name: str, slot: str = "0", *, wait: bool = True, env: Mapping[str, str] | None = None) -> Service:
        """Start a service; a running service with the same slot would be fenced."""
        port = free_port()
        log = self.logs / f"{name}-{slot}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", f"headrace_{name}.main"],
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                env={**os.environ, **self._environment(slot, port), **self.env, **(env or {})},
            )  # fmt: skip
        service = Service(name, slot, port, process, log)
        self.services.append(service)
        if wait:
            service.wait_ready()
        return service

    def start_all(self, *names: str) -> None:
        """Start all services concurrently and wait until they are ready."""
        started = [self.start(name, wait=False) for name in names]
        for service in started:
            service.wait_ready()

    def close(self) -> None:
        """Kill the running services and delete the place's topics."""
        for service in self.services:
            if service.process.poll() is None:
                with suppress(ProcessLookupError):
                    service.kill()
        self.services.clear()
        self.place.delete_topics()

    def _environment(self, slot: str, port: int) -> dict[str, str]:
        embedder_port = self.embedder_port if slot == "0" else free_port()
        return {
            "HEADRACE_KAFKA_BOOTSTRAP": self.place.kafka,
            "HEADRACE_KAFKA_TOPIC_PREFIX": self.place.prefix,
            "HEADRACE_REGISTRY_URL": self.place.registry,
            "HEADRACE_STORE_DSN": self.place.runtime_dsn(),
            "HEADRACE_STORE_SCHEMA_NAME": self.place.schema,
            "HEADRACE_WORKER_SLOT": slot,
            "HEADRACE_WORKER_SESSION_TIMEOUT_MS": "6000",
            "HEADRACE_HTTP_PORT": str(port),
            "HEADRACE_EMBEDDER_PROVIDER": self.provider,
            "HEADRACE_EMBEDDER_PORT": str(embedder_port),
            "HEADRACE_GATEWAY_PORT": str(port),
            "HEADRACE_GENERATOR_EMBEDDER_URL": f"http://127.0.0.1:{self.embedder_port}",
            "HEADRACE_GATEWAY_EMBEDDER_URL": f"http://127.0.0.1:{self.embedder_port}",
        }
