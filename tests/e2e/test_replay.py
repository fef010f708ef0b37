"""A replay beside live traffic, killed midway and taken up again: nothing is written, nothing is sent twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from headrace.topology.stages import DOCUMENT_STAGES
from headrace_testing.committed import read_all
from headrace_testing.data import reference_with_edits
from headrace_testing.deployment import Deployment, Place
from headrace_testing.fold import fold, read_store
from headrace_testing.oracle import versions
from headrace_testing.stream import TENANT, dead_letters, metric, publish, wait_until_stored

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def command(place: Place, *arguments: str) -> list[str]:
    """The command line, speaking to the test's Kafka and registry."""
    return [
        sys.executable, "-m", "headrace_cli.app", "replay", *arguments,
        "--kafka", place.kafka, "--registry", place.registry, "--json",
    ]  # fmt: skip


def environment(place: Place, tmp_path: Path) -> dict[str, str]:
    """The command's environment: the test's topics, and no local stack."""
    return {
        **os.environ, "HEADRACE_KAFKA_TOPIC_PREFIX": place.prefix, "HEADRACE_STATE_DIR": str(tmp_path / "none"),
        "HEADRACE_STORE_DSN": place.runtime_dsn(), "HEADRACE_STORE_SCHEMA_NAME": place.schema,
    }  # fmt: skip


def run(place: Place, tmp_path: Path, *arguments: str, code: int = 0) -> Any:
    """Run the command to its end and return what it printed."""
    done = subprocess.run(
        command(place, *arguments), env=environment(place, tmp_path), capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if done.stdout else done.stderr


def replayed(place: Place, stage: str) -> list[tuple[str, ...]]:
    """Origins of the records in the stage's replay topic, in order of their place."""
    found = read_all(place.kafka, place.kafka_settings().topic(f"replay.{stage}"))
    said = [dict(record.headers) for record in found]
    return [tuple((one[f"origin-{name}"] or b"").decode() for name in ("topic", "partition", "offset")) for one in said]


def test_a_replay_killed_midway_is_taken_up_and_changes_nothing(
    deployment: Deployment, place: Place, seed: int, tmp_path: Path
) -> None:
    """A replay would write rows, call the model, send a record twice, or lose its place when it dies."""
    changes = reference_with_edits(edits=12, seed=seed, documents=24)
    deployment.start_all(*(flow.name for flow in DOCUMENT_STAGES))
    publish(place.kafka_settings(), changes)
    expected = fold(versions(TENANT, changes))
    wait_until_stored(deployment, expected, 90, print)
    before = read_store(place.postgres, schema=place.schema)
    embedder = next(service for service in deployment.services if service.name == "embedder")
    texts = metric(embedder, "headrace_texts_embedded_total")

    dry = run(place, tmp_path, "start", "--stage", "chunker", "--all", "--dry-run")
    assert dry["documents"] == 24
    assert replayed(place, "chunker") == []

    slow = command(place, "start", "--stage", "chunker", "--all", "--rate", "3")
    process = subprocess.Popen(slow, env=environment(place, tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not any(one["sent"] for one in run(place, tmp_path, "list")):
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (left,) = run(place, tmp_path, "list")
    assert left["state"] == "RUNNING"

    done = run(place, tmp_path, "resume", left["run_id"])
    assert (done["state"], done["percent"]) == ("DONE", 100)
    sent = replayed(place, "chunker")
    assert len(sent) == len(set(sent)) == done["sent"] == dry["records"]
    after = read_store(place.postgres, schema=place.schema)
    assert after == before  # every row's xmin included
    assert metric(embedder, "headrace_texts_embedded_total") == texts
    assert dead_letters(place.kafka_settings()) == 0


def test_one_document_is_replayed_alone_and_a_wrong_one_is_refused(
    deployment: Deployment, place: Place, seed: int, tmp_path: Path
) -> None:
    """A document's replay would send others, or a misspelt one would look done."""
    changes = reference_with_edits(edits=0, seed=seed, documents=6)
    deployment.start_all(*(flow.name for flow in DOCUMENT_STAGES))
    publish(place.kafka_settings(), changes)
    wait_until_stored(deployment, fold(versions(TENANT, changes)), 90, print)
    cached = run(place, tmp_path, "start", "--stage", "embedder", "--all", "--dry-run")
    assert (cached["documents"], cached["model_calls"], cached["exact"]) == (6, 0, True)
    chosen = changes[2]["id"]
    done = run(place, tmp_path, "start", "--stage", "embedder", "--tenant", TENANT, "--document", chosen)
    assert (done["state"], done["sent"]) == ("DONE", 1)
    refused = run(place, tmp_path, "start", "--stage", "embedder", "--tenant", TENANT, "--document", "nope", code=1)
    assert "no record of document 'nope'" in refused
    assert len(replayed(place, "embedder")) == 1
