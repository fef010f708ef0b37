"""Provides Kafka, the registry and PostgreSQL for tests: the local stack, containers, or existing systems."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

VARIABLE = "HEADRACE_TEST_STACK"


@dataclass(frozen=True, slots=True)
class TestStack:
    """Kafka's bootstrap servers, the registry's URL, and the DSN of PostgreSQL's owner."""

    __test__ = False
    kafka: str
    registry: str
    postgres: str


class LocalStack(Protocol):
    """Starts the local stack; the caller passes it in, because this package does not import the tool that starts it."""

    def __call__(self, state_dir: Path) -> AbstractContextManager[TestStack]:
        """Yield the stack."""


@contextmanager
def opened(state_dir: Path, local: LocalStack) -> Iterator[TestStack]:
    """Yield the stack that HEADRACE_TEST_STACK names: local (default), containers or external.

    Raises :class:`ValueError` for another name, and for missing addresses of external systems.
    """
    sources: dict[str, Callable[[], AbstractContextManager[TestStack]]] = {
        "local": lambda: local(state_dir),
        "containers": _containers,
        "external": _external,
    }
    name = os.environ.get(VARIABLE, "local")
    if name not in sources:
        raise ValueError(f"{VARIABLE}={name!r}: choose one of {', '.join(sources)}")
    with sources[name]() as stack:
        yield stack


@contextmanager
def _external() -> Iterator[TestStack]:
    names = ("HEADRACE_TEST_KAFKA", "HEADRACE_TEST_REGISTRY", "HEADRACE_TEST_POSTGRES_DSN")
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise ValueError(f"{VARIABLE}=external needs {', '.join(missing)}")
    yield TestStack(*(os.environ[name] for name in names))


@contextmanager
def _containers() -> Iterator[TestStack]:
    """Start containers with testcontainers; requires a Docker engine."""
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415
    from testcontainers.core.wait_strategies import HttpWaitStrategy  # noqa: PLC0415
    from testcontainers.kafka import KafkaContainer  # noqa: PLC0415
    from testcontainers.postgres import PostgresContainer  # noqa: PLC0415

    registry = DockerContainer("apicurio/apicurio-registry:3.3.3").with_exposed_ports(8080)
    registry.waiting_for(HttpWaitStrategy(8080, "/apis/ccompat/v7/subjects"))
    postgres = PostgresContainer("pgvector/pgvector:0.8.5-pg18")
    with KafkaContainer().with_kraft() as kafka, postgres as database, registry:
        address = f"http://{registry.get_container_host_ip()}:{registry.get_exposed_port(8080)}"
        yield TestStack(
            kafka.get_bootstrap_server(), f"{address}/apis/ccompat/v7", database.get_connection_url(driver=None)
        )
