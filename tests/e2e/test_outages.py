"""A dependency that is down pauses the stage, which says so; nothing is lost and nothing is given up."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import pytest

from headrace.topology.stages import DOCUMENT_STAGES
from headrace_testing.committed import dead_letters_of
from headrace_testing.data import reference_with_edits
from headrace_testing.fold import fold
from headrace_testing.oracle import versions
from headrace_testing.proxy import Proxy
from headrace_testing.stream import TENANT, dead_letters, publish, wait_until_stored

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def readiness(port: int) -> dict[str, object]:
    """What ``/readyz`` says, whatever its status."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as refused:
        return json.load(refused)


def wait_for_waiting(port: int, word: str) -> dict[str, object]:
    """Wait until the service says that it waits for something of that name."""
    deadline = time.monotonic() + 60
    while True:
        said = readiness(port)
        if said["waiting"] and word in json.dumps(said["waiting"]).lower():
            assert said["ready"] is False
            return said
        assert time.monotonic() < deadline, said
        time.sleep(0.1)


def test_postgresql_down_pauses_and_loses_nothing(deployment, place, seed):
    """Records sent while PostgreSQL is down would be lost or given up."""
    changes = reference_with_edits(edits=10, seed=seed, documents=12)
    address = urlsplit(place.postgres)
    proxy = Proxy(address.hostname, address.port)
    dsn = place.runtime_dsn().replace(f":{address.port}/", f":{proxy.port}/")
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


def test_registry_down_pauses_and_gives_nothing_up(deployment, place, seed):
    """A registry outage is no poison: a record whose schema cannot be looked up now waits."""
    changes = reference_with_edits(edits=0, seed=seed, documents=5)
    address = urlsplit(place.registry)
    proxy = Proxy(address.hostname, address.port)
    url = place.registry.replace(f":{address.port}/", f":{proxy.port}/")
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


def test_provider_down_pauses_the_embedder(deployment, place, seed):
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


def test_bad_events_become_dead_letters_and_the_rest_goes_on(deployment, place, seed):
    """One bad event in a batch would stop or lose its neighbours."""
    changes = reference_with_edits(edits=0, seed=seed, documents=4)
    bad = [
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
    assert {json.loads(letter.value)["id"] for letter in letters} == {event["id"] for event in bad}
