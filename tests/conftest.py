"""The stack under test, chosen by HEADRACE_TEST_STACK: local (default), containers or external.

local: shared by the whole run, started by whoever comes first. external: HEADRACE_TEST_KAFKA, HEADRACE_TEST_REGISTRY
and HEADRACE_TEST_POSTGRES_DSN say where. Each test has topics and tables of its own, by prefix and schema.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from headrace_local import shared
from headrace_testing.deployment import Deployment, Place
from headrace_testing.stack import TestStack, opened

_LAST_LINES = 15


@pytest.fixture(scope="session")
def state_dir() -> Path:
    """The folder of the run's local stack; HEADRACE_TEST_STATE keeps it from run to run."""
    return _state_dir()


def _state_dir() -> Path:
    named = os.environ.get("HEADRACE_TEST_STATE")
    return Path(named) if named else Path(tempfile.gettempdir()) / f"headrace-test-{os.getuid()}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
    """After a failure, show what the stack's own processes said last."""
    if exitstatus == pytest.ExitCode.TESTS_FAILED:
        for log in sorted((_state_dir() / "logs").glob("*.log")):
            terminalreporter.section(f"last lines of {log.name}")
            terminalreporter.write("".join(log.read_text(errors="replace").splitlines(keepends=True)[-_LAST_LINES:]))


@pytest.fixture(scope="session")
def stack(state_dir: Path) -> Iterator[TestStack]:
    """Kafka, registry and PostgreSQL of this run."""
    with opened(state_dir, _local) as found:
        yield found


@contextmanager
def _local(state_dir: Path) -> Iterator[TestStack]:
    endpoints = shared.acquire(state_dir)
    try:
        yield TestStack(endpoints.kafka_bootstrap, endpoints.registry_url, endpoints.postgres_dsn)
    finally:
        shared.release(state_dir)


@pytest.fixture
def place(stack: TestStack) -> Iterator[Place]:
    """Topics and tables of this test alone; the topics go with it."""
    name = f"test{uuid4().hex[:8]}"
    own = Place(stack.kafka, stack.registry, stack.postgres, f"{name}-", name)
    yield own
    own.delete_topics()


@pytest.fixture
def deployment(place: Place, tmp_path: Path) -> Iterator[Deployment]:
    """The test's place, bootstrapped; what it starts is killed at its end."""
    own = Deployment(place, tmp_path)
    own.bootstrap()
    yield own
    own.close()


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A seed, printed with the test; HEADRACE_TEST_SEED sets it."""
    named = os.environ.get("HEADRACE_TEST_SEED")
    chosen = int(named) if named else random.SystemRandom().randrange(2**32)
    print(f"HEADRACE_TEST_SEED={chosen} for {request.node.nodeid}")
    return chosen
