"""A dependency that is down pauses the stage, which says so; nothing is lost and nothing is dead-lettered."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

import pytest

from headrace.topology.stages import DOCUMENT_STAGES
from headrace_testing.committed import dead_letters_of
from headrace_testing.data import reference_with_edits
from headrace_testing.deployment import Deployment, Place
from headrace_testing.fold import fold
from headrace_testing.oracle import versions
from headrace_testing.proxy import Proxy
from headrace_testing.stream import TENANT, dead_letters, publish, wait_until_stored

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def readiness(port: int) -> dict[str, Any]:
    """What ``/readyz`` says, whatever its status."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            said: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as refused:
        said = json.load(refused)
    return said


def proxied(url: str) -> tuple[Proxy, str]:
    """A proxy before the URL's server, and the URL that leads through it."""
    address = urlsplit(url)
    assert address.hostname is not None
    assert address.port is not None
    proxy = Proxy(address.hostname, address.port)
    return proxy, url.replace(f":{address.port}/", f":{proxy.port}/")


def wait_for_waiting(port: int, word: str) -> dict[str, Any]:
    """Wait until the service says that it waits for something of that name."""
    deadline = time.monotonic() + 60
    while True:
        said = readiness(port)
        if said["waiting"] and word in json.dumps(said["waiting"]).lower():
            assert said["ready"] is False
            return said
        assert time.monotonic() < deadline, said
        time.sleep(0.1)


def test_postgresql_down_pauses_and_loses_nothing(deployment: Deployment, place: Place, seed: int) -> None:
    """Records sent while PostgreSQL is down would be lost or dead-lettered."""
    changes = reference_with_edits(edits=10, seed=seed, documents=12)
    proxy, dsn = proxied(place.runtime_dsn())
    try:
        for flow in DOCUMENT_STAGES:
            deployment.start(flow.name, wait=False, env={"HEADRACE_STORE_DSN": dsn})
        for service in deployment.services:
            service.wait_ready()
        publish(place.kafka_settings(), changes[:6])
        wait_until_stored(deployment, fold(versions(TENANT, changes[:6])), 60, print)
        proxy.cut()
        publish(place.kafka_settings(), changes[6:])
        embedder = next(service for service in deployment.services if service.name == "embedder")
        wait_for_waiting(embedder.port, "postgresql")
        proxy.restore()
        wait_until_stored(deployment, fold(versions(TENANT, changes)), 90, print)
    finally:
        proxy.close()
    assert dead_letters(place.kafka_settings()) == 0


def test_registry_down_pauses_and_gives_nothing_up(deployment: Deployment, place: Place, seed: int) -> None:
    """A registry outage is no poison: a record whose schema cannot be looked up now waits."""
    changes = reference_with_edits(edits=0, seed=seed, documents=5)
    proxy, url = proxied(place.registry)
    try:
        deployment.start("ingest", wait=False, env={"HEADRACE_REGISTRY_URL": url})
        deployment.start_all("chunker", "embedder", "indexer")
        deployment.services[0].wait_ready()
        proxy.cut()
        publish(place.kafka_settings(), changes)
        wait_for_waiting(deployment.services[0].port, "registry")
        proxy.restore()
        wait_until_stored(deployment, fold(versions(TENANT, changes)), 90, print)
    finally:
        proxy.close()
    assert dead_letters(place.kafka_settings()) == 0


def test_provider_down_pauses_the_embedder(deployment: Deployment, place: Place, seed: int) -> None:
    """A model server that refuses connections would cost dead letters."""
    changes = reference_with_edits(edits=0, seed=seed, documents=3)
    deployment.start_all("ingest", "chunker", "indexer")
    down = {
        "HEADRACE_EMBEDDER_PROVIDER": "openai-compatible",
        "HEADRACE_EMBEDDER_MODEL": deployment.model,
        "HEADRACE_EMBEDDER_BASE_URL": "http://127.0.0.1:9/v1",
    }
    service = deployment.start("embedder", env=down)
    publish(place.kafka_settings(), changes)
    wait_for_waiting(service.port, "provider")
    service.kill()
    deployment.start("embedder")
    wait_until_stored(deployment, fold(versions(TENANT, changes)), 90, print)
    assert dead_letters(place.kafka_settings()) == 0


def test_bad_events_become_dead_letters_and_the_rest_goes_on(deployment: Deployment, place: Place, seed: int) -> None:
    """One bad event in a batch would stop or lose its neighbours."""
    changes = reference_with_edits(edits=0, seed=seed, documents=4)
    bad: list[dict[str, Any]] = [
        {"id": "no-operation", "content": "x"},
        {"id": "odd-operation", "op": "merge", "content": "x"},
        {"id": "negative", "op": "upsert", "version": -1, "content": "x"},
        {"id": "no-content", "op": "upsert", "version": 1},
        {"id": "no-pipeline", "op": "upsert", "version": 1, "content": "x", "pipeline": "nowhere"},
    ]
    deployment.start_all(*(flow.name for flow in DOCUMENT_STAGES))
    publish(place.kafka_settings(), [changes[0], *bad, *changes[1:]])
    wait_until_stored(deployment, fold(versions(TENANT, changes)), 60, print)
    letters = dead_letters_of(place, "ingest")
    assert sorted(letter.message.split(":")[0].split(" ")[0] for letter in letters) == [
        "content", "operation", "operation", "pipeline", "version",
    ]  # fmt: skip
    assert {json.loads(letter.value or b"")["id"] for letter in letters} == {event["id"] for event in bad}
