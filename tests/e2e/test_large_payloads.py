"""Documents whose records are too large for Kafka, through all services: the object store in a folder and a bucket."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from headrace.codec.codec import Codec
from headrace.codec.schema_registry import Registry
from headrace.config.settings import KafkaSettings, ObjectSettings
from headrace.objects.places import named_in
from headrace.objects.store import MARKER, store_of
from headrace.store.pool import StoreSettings
from headrace.topology.stages import DOCUMENT_STAGES
from headrace_local import artifacts
from headrace_operations.audit.model import Report
from headrace_operations.audit.run import Scope, audit
from headrace_operations.dead_letters.log import DeadLetterLog
from headrace_operations.dead_letters.model import Selection
from headrace_operations.objects.garbage import Collector
from headrace_testing import s3
from headrace_testing.committed import read_all
from headrace_testing.deployment import Deployment, Place, Service
from headrace_testing.fold import fold
from headrace_testing.oracle import versions
from headrace_testing.stream import TENANT, metric, publish, wait_until_stored

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

TOPICS = ("documents", "chunks", "vectors")


def document(identity: str, paragraphs: int, version: int = 1) -> dict[str, object]:
    """An event with about 330 bytes of text for each paragraph, no two alike."""
    sentence = "The wheel of mill {0} turns while water comes down channel {1}, and stops when gate {0} of {2} closes. "
    text = "\n\n".join((sentence * 3).format(number, number * 7, identity) for number in range(paragraphs))
    return {"id": identity, "op": "upsert", "version": version, "title": identity, "source": None, "content": text}


def named(place: Place) -> dict[str, set[str]]:
    """The objects that records name, by topic."""
    kafka = place.kafka_settings()
    return {
        topic: {key for record in read_all(place.kafka, kafka.topic(topic)) for key in named_in(record.value or b"")}
        for topic in TOPICS
    }


def dayless(keys: set[str]) -> set[tuple[str, str]]:
    """Folder and digest of each ``folder/day/digest``: midnight may lie between a write and its repeat."""
    return {(key.split("/")[0], key.split("/")[2]) for key in keys}


def test_a_large_document_is_found_with_its_payloads_in_a_folder(
    deployment: Deployment, place: Place, tmp_path: Path
) -> None:
    """A large document would be dead-lettered, lost with a worker that dies, or leave objects for ever."""
    folder = tmp_path / "objects"
    folder.mkdir()
    url = f"file://{folder}"
    deployment.env = {"HEADRACE_OBJECTS_URL": url}
    deployment.bootstrap()
    changes = [document("large", 4000), document("small", 3)]
    assert len(json.dumps(changes[0])) > 1024 * 1024
    dying = deployment.start("chunker", wait=False, env={"HEADRACE_FAILPOINTS": "objects.stored=kill@1"})
    deployment.start_all("ingest", "embedder", "indexer")
    publish(place.kafka_settings(), changes)
    assert dying.process.wait(120) == -9, "the worker dies between its object and its record"
    deployment.services.remove(dying)
    assert named(place)["chunks"] == set()
    deployment.start("chunker")
    wait_until_stored(deployment, fold(versions(TENANT, changes)), 120, print)

    found = named(place)
    assert [len(found[topic]) for topic in TOPICS] == [1, 1, 1]
    stored = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert dayless(stored - {MARKER}) == dayless(set().union(*found.values())), (
        "the killed worker's object is the one that counts now"
    )
    attempts = {one.name: metric(one, "headrace_objects_stored_total") for one in deployment.services}
    assert {name: count >= 1 for name, count in attempts.items()} == {
        "ingest": True, "chunker": True, "embedder": True, "indexer": False,
    }, "a batch that is done again on a slow machine stores its object again"  # fmt: skip

    kafka, settings = place.kafka_settings(), ObjectSettings(url=url)
    store = store_of(settings, kafka)
    assert store is not None
    codec = Codec(Registry(place.registry), store)
    report = audit_of(kafka, codec, place)
    assert (report.documents_in_log, report.findings) == (2, ())
    assert DeadLetterLog(kafka, codec).select(Selection()) == []

    garbage = folder / TENANT / "20260101" / ("ab" * 32)
    garbage.parent.mkdir()
    garbage.write_bytes(b"what a worker left that died")
    now = datetime.now(UTC) + timedelta(days=7)
    collector = Collector(store, kafka)
    assert set(collector.find(now - timedelta(days=2), now).keys) == {f"{TENANT}/20260101/{'ab' * 32}"}
    assert gc(place, url, tmp_path, "--older-than", "23h")[0] == 2
    code, said = gc(place, url, tmp_path, "--dry-run")
    assert (code, said["garbage"], said["deleted"]) == (0, {"objects": 1, "bytes": 28}, {"objects": 0, "bytes": 0})
    code, said = gc(place, url, tmp_path, "--yes")
    assert (code, said["held"]["objects"], said["deleted"]) == (0, 4, {"objects": 1, "bytes": 28})
    assert not garbage.exists()
    assert set().union(*named(place).values()) == {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and path.name != MARKER
    }


def gc(place: Place, url: str, folder: Path, *arguments: str) -> tuple[int, Any]:
    """Run `headrace objects gc`; return its exit code and what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "headrace_cli.app", "objects", "gc", "--json", "--state-dir", str(folder), *arguments],
        env={**os.environ, "HEADRACE_KAFKA_BOOTSTRAP": place.kafka, "HEADRACE_KAFKA_TOPIC_PREFIX": place.prefix,
             "HEADRACE_OBJECTS_URL": url},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout) if done.returncode == 0 else done.stderr


def waiting(service: Service) -> str | None:
    """The dependency that the stage says it waits for."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{service.port}/readyz", timeout=2).close()
    except urllib.error.HTTPError as answer:
        return (json.loads(answer.read())["waiting"] or {}).get("dependency")
    return None


def audit_of(kafka: KafkaSettings, codec: Codec, place: Place) -> Report:
    """Compare log and store."""
    store = StoreSettings(dsn=place.postgres, schema_name=place.schema)
    return asyncio.run(audit(kafka, codec, store, Scope(tenant=TENANT)))


def test_an_outage_of_the_bucket_pauses_and_loses_nothing(deployment: Deployment, place: Place, tmp_path: Path) -> None:
    """An S3 service that goes away would cost dead letters, or large documents."""
    jar = artifacts.s3proxy_jar(lambda _: None)
    with s3.served(artifacts.java(), jar, tmp_path) as server:
        deployment.env = {
            **server.settings(), "HEADRACE_OBJECTS_TIMEOUT_S": "2", "HEADRACE_WORKER_BACKOFF_MAX_S": "1",
        }  # fmt: skip
        deployment.bootstrap()
        deployment.start_all(*(flow.name for flow in DOCUMENT_STAGES))
        server.process.send_signal(signal.SIGSTOP)  # it accepts and does not answer
        changes = [document("large", 4000), document("small", 3)]
        publish(place.kafka_settings(), changes)
        ingest = next(service for service in deployment.services if service.name == "ingest")
        deadline = time.monotonic() + 60
        while waiting(ingest) != "object-store":
            assert time.monotonic() < deadline, waiting(ingest)
            time.sleep(0.1)
        server.process.send_signal(signal.SIGCONT)
        wait_until_stored(deployment, fold(versions(TENANT, changes)), 120, print)
        assert [len(keys) for keys in named(place).values()] == [1, 1, 1]
        with psycopg.connect(place.postgres, options=f"-c search_path={place.schema},public") as own:
            [(count,)] = own.execute("SELECT count(*) FROM chunk WHERE document_id = 'large'").fetchall()
        assert count > 1000
    assert DeadLetterLog(place.kafka_settings(), place.codec()).select(Selection()) == []
