"""Rows 1, 14, 21 and 22, with the real services: a PostgreSQL that dies, and events in any order and at any time."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from random import Random
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from headrace.config.settings import KafkaSettings
from headrace.topology.stages import DOCUMENT_STAGES
from headrace_local.stack import Stack
from headrace_testing.committed import read_all
from headrace_testing.data import reference_with_edits
from headrace_testing.deployment import Deployment
from headrace_testing.faults.checkers import replayed
from headrace_testing.fold import fold, read_store
from headrace_testing.oracle import versions
from headrace_testing.proxy import Proxy
from headrace_testing.stream import (
    TENANT,
    dead_letters,
    lag,
    publish,
    rewind_groups,
    wait_until_drained,
    wait_until_stored,
)

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]


@pytest.fixture
def postgres(store: Deployment) -> Iterator[Proxy]:
    """The way to PostgreSQL for every service that the deployment starts."""
    address = urlsplit(store.place.postgres)
    proxy = Proxy(str(address.hostname), int(address.port or 0))
    dsn = store.place.runtime_dsn().replace(f":{address.port}/", f":{proxy.port}/")
    store.env = {"HEADRACE_STORE_DSN": dsn, "HEADRACE_WORKER_BACKOFF_MAX_S": "2"}
    yield proxy
    proxy.close()


def crash(stack: Stack) -> None:
    """End PostgreSQL at once, without a checkpoint, as ``pg_ctl -m immediate`` does; the stack starts it again.

    Returns when it answers again.
    """
    found = next(process for process in stack.status() if process.name == "postgres")
    assert found.pid is not None
    os.kill(found.pid, signal.SIGQUIT)
    deadline = time.monotonic() + 60
    while True:
        time.sleep(0.2)
        try:
            psycopg.connect(stack.endpoints().postgres_dsn, connect_timeout=5).close()
        except psycopg.OperationalError:
            assert time.monotonic() < deadline, "PostgreSQL does not come back"
        else:
            return


def revive(deployment: Deployment) -> None:
    """Start again what ended."""
    for service in list(deployment.services):
        if service.process.poll() is not None:
            deployment.services.remove(service)
            deployment.start(service.name, service.slot, wait=False)


def test_row_14_and_1_postgresql_crashes_and_loses_replies(
    own_stack: Stack, store: Deployment, postgres: Proxy, chance: Random, figures: dict[str, Any]
) -> None:
    """Broken: a crash, a lost reply or a kill between the two commits loses, doubles or rewrites rows."""
    changes = reference_with_edits(edits=20, seed=chance.randrange(2**32), documents=12)
    expected = fold(versions(TENANT, changes))
    kafka = store.place.kafka_settings()
    store.start_all("ingest", "chunker", "embedder")
    kill = {"HEADRACE_FAILPOINTS": f"store.committed=kill@{chance.randint(1, 3)}", "HEADRACE_WORKER_BATCH_RECORDS": "5"}
    indexer = store.start("indexer", env=kill)
    order = chance.sample(["crash", "reset", "lose", "lose", "crash"], 5)
    size = len(changes) // len(order)
    for number, what in enumerate(order):
        if what == "lose":
            postgres.lose_reply(b"COMMIT")
        publish(kafka, changes[number * size : (number + 1) * size])
        time.sleep(chance.uniform(0.3, 1.5))
        if what == "crash":
            crash(own_stack)
        elif what == "reset":
            postgres.cut()
            time.sleep(chance.uniform(0.1, 1.0))
            postgres.restore()
        revive(store)
    publish(kafka, changes[size * len(order) :])
    assert indexer.process.wait(60) == -signal.SIGKILL
    revive(store)
    wait_until_stored(store, expected, 120, print)
    wait_until_drained(kafka, 60)
    figures |= {"row": 14, "records": len(changes), "crashes": 2, "lost_replies": postgres.disturbed, "kills": 1}
    assert dead_letters(kafka) == 0
    assert _replay(store) == []


def _replay(deployment: Deployment) -> list[str]:
    """Read every topic again from its beginning and return which rows changed."""
    place = deployment.place
    for service in deployment.services:
        service.drain()
    deployment.services.clear()
    before = read_store(place.postgres, schema=place.schema)
    rewind_groups(place.kafka_settings())
    deployment.start_all(*(flow.name for flow in DOCUMENT_STAGES))
    wait_until_drained(place.kafka_settings(), 120)
    return replayed(before, read_store(place.postgres, schema=place.schema))


def test_rows_21_and_22_any_order_twice_and_at_any_time(
    store: Deployment, chance: Random, figures: dict[str, Any]
) -> None:
    """Broken: a late or repeated event makes a document stale or brings a deleted one back, or a clock decides."""
    changes = reference_with_edits(edits=30, seed=chance.randrange(2**32), documents=12)
    shuffled = changes + chance.sample(changes, len(changes) // 2)
    chance.shuffle(shuffled)
    kafka = store.place.kafka_settings()
    store.start_all(*(flow.name for flow in DOCUMENT_STAGES))
    producer = Producer({**kafka.client(), "partitioner": "murmur2_random", "enable.idempotence": True})
    now = time.time()
    for change in shuffled:
        forged = int(1000 * (now + chance.uniform(-5 * 86_400, 3000)))
        producer.produce(kafka.topic("changes"), json.dumps(change), f"{TENANT}/{change['id']}", timestamp=forged)
    assert producer.flush(60) == 0
    wait_until_stored(store, fold(versions(TENANT, changes)), 120, print)
    wait_until_drained(kafka, 60)
    figures |= {"row": 21, "records": len(shuffled)}
    wait_until_stored(store, fold(versions(TENANT, changes)), 1, print)
    assert dead_letters(kafka) == 0


def test_row_24_compaction_ahead_of_a_slow_consumer(store: Deployment, chance: Random, figures: dict[str, Any]) -> None:
    """Broken: a stage that lags needs versions that compaction has taken away, or stands at the gap."""
    changes = reference_with_edits(edits=40, seed=chance.randrange(2**32), documents=6)
    kafka = store.place.kafka_settings()
    _compact_at_once(kafka, "documents")
    store.start("ingest")
    publish(kafka, changes)
    deadline = time.monotonic() + 90
    while lag(kafka)["ingest"]:
        assert time.monotonic() < deadline, f"ingest is behind: {lag(kafka)}"
        time.sleep(0.3)
    filler = [{**changes[0], "id": f"topics/filler-{number}"} for number in range(24)]
    left = len(changes)
    while left == len(changes):
        assert time.monotonic() < deadline, "nothing was compacted"
        publish(kafka, filler)  # a new record lets Kafka roll the segment, whose end is then compacted
        time.sleep(3)
        found = read_all(kafka.bootstrap, kafka.topic("documents"))
        left = sum(b"filler" not in (record.key or b"") for record in found)
    store.start_all("chunker", "embedder", "indexer")
    wait_until_stored(store, fold(versions(TENANT, [*changes, *filler])), 120, print)
    figures |= {"row": 24, "records": len(changes), "compacted_away": len(changes) - left}
    assert dead_letters(kafka) == 0


def _compact_at_once(kafka: KafkaSettings, topic: str) -> None:
    """Have Kafka roll and compact the topic's segments as soon as it can."""
    admin = AdminClient(kafka.client())
    settings = {"segment.ms": "200", "min.cleanable.dirty.ratio": "0.001", "min.compaction.lag.ms": "0"}
    entries = [
        ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in settings.items()
    ]
    resource = ConfigResource(ConfigResource.Type.TOPIC, kafka.topic(topic), incremental_configs=entries)
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(30)
