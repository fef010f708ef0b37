"""The fault suite's fixtures: three real brokers for the run, a lab for each test, seeds from the environment.

HEADRACE_FAULT_SEEDS names the seeds: ``7``, ``1-20`` or ``3,9,100-120``; without it each test runs one, drawn
at random.
HEADRACE_FAULT_FIGURES names a file that gets a line of JSON for each test that ran.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from headrace_local import artifacts, shared
from headrace_local.stack import Stack
from headrace_testing.deployment import Deployment, Place
from headrace_testing.faults.brokers import Cluster, Distribution
from headrace_testing.faults.lab import Lab
from headrace_testing.faults.schedules import seeds
from headrace_testing.proxy import Proxy

DRAWN = int(os.environ.setdefault("HEADRACE_FAULT_DRAWN", str(random.SystemRandom().randrange(2**32))))
"""The same for every process of the run, which have to agree on the tests that there are."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that asks for a seed once for each seed."""
    if "fault_seed" in metafunc.fixturenames:
        metafunc.parametrize("fault_seed", seeds(os.environ.get("HEADRACE_FAULT_SEEDS", ""), DRAWN))


@pytest.fixture
def chance(fault_seed: int, request: pytest.FixtureRequest) -> random.Random:
    """Every random choice of the test."""
    print(f"HEADRACE_FAULT_SEEDS={fault_seed} for {request.node.nodeid}")
    return random.Random(fault_seed)


@pytest.fixture(scope="session")
def distribution() -> Distribution:
    """Kafka's jars and the Java to run them."""
    return Distribution(artifacts.java(), artifacts.kafka_jars(lambda _: None))


@pytest.fixture(scope="session")
def network() -> Iterator[list[Proxy]]:
    """The proxies before the brokers' client ports, in the brokers' order; the cluster puts them there."""
    proxies: list[Proxy] = []
    yield proxies
    for proxy in proxies:
        proxy.close()


@pytest.fixture(scope="session")
def cluster(
    distribution: Distribution, network: list[Proxy], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """Three brokers, which each test leaves as it found them."""

    def advertise(port: int) -> int:
        network.append(Proxy("127.0.0.1", port))
        return network[-1].port

    brokers = Cluster(distribution, tmp_path_factory.mktemp("brokers"), advertise=advertise)
    try:
        brokers.start()
        yield brokers
    finally:
        brokers.close()


@pytest.fixture
def lab(cluster: Cluster, network: list[Proxy], tmp_path: Path) -> Iterator[Lab]:
    """Topics, a group and workers of this test alone, on a whole cluster."""
    cluster.heal()
    own = Lab(cluster, tmp_path)
    yield own
    for proxy in network:
        proxy.restore()
    cluster.heal()
    own.close()


@pytest.fixture(scope="session")
def own_stack() -> Iterator[Stack]:
    """Kafka, registry and PostgreSQL of this process of the suite alone, for it ends PostgreSQL now and then."""
    process = os.environ.get("PYTEST_XDIST_WORKER", "alone")
    folder = Path(tempfile.gettempdir()) / f"headrace-faults-{os.getuid()}-{process}"
    shared.acquire(folder)
    try:
        yield Stack(folder)
    finally:
        shared.release(folder)


@pytest.fixture
def store(own_stack: Stack, tmp_path: Path) -> Iterator[Deployment]:
    """A bootstrapped place of the test's own, without services yet."""
    endpoints = own_stack.endpoints()
    name = f"fault{uuid4().hex[:8]}"
    place = Place(endpoints.kafka_bootstrap, endpoints.registry_url, endpoints.postgres_dsn, f"{name}-", name)
    own = Deployment(place, tmp_path)
    own.bootstrap()
    yield own
    own.close()


@pytest.fixture(autouse=True)
def figures(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """What the test counts; written down with its seed and its time where a file for it is named."""
    counted: dict[str, Any] = {}
    started = time.monotonic()
    yield counted
    path = os.environ.get("HEADRACE_FAULT_FIGURES")
    if path:
        line = {"test": request.node.nodeid, "seconds": round(time.monotonic() - started, 1), **counted}
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
