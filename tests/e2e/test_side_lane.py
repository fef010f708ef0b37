"""What fails for now is tried again beside the stream, what kills the process is found out, a paused stage waits."""

from __future__ import annotations

import json
import textwrap
import time
import urllib.request

import pytest
from confluent_kafka import Consumer, TopicPartition

from headrace import control
from headrace.avro.codec import Codec
from headrace.avro.registry import Registry
from headrace.pipeline import load
from headrace.pipelines_log import apply
from headrace.records import DeadLetter
from headrace_bench.data import reference_with_edits
from headrace_bench.oracle import versions
from headrace_testing.fold import fold
from headrace_testing.stream import STAGES, TENANT, publish, wait_until_stored

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

HANDLER = '''
import os, signal
from collections import Counter
from headrace.errors import TemporaryError
from headrace.handler import Handler
from headrace.records import SourceDocument

tries = Counter()

class Moody(Handler):
    """Fails a document three times, and dies of another one."""

    name = "moody"
    stage = "chunker"
    consumes = SourceDocument
    produces = SourceDocument

    async def process(self, context):
        document = context.change.document_id
        tries[document] += 1
        if document == "later" and tries[document] <= 3:
            raise TemporaryError("not yet")
        if document == "deadly":
            os.kill(os.getpid(), signal.SIGKILL)
        return context
'''

TEMPLATE = """
id: default
stages:
  - stage: ingest
    handlers: [change-event]
  - stage: chunker
    handlers: [moody, sections]
  - stage: embedder
    handlers: [embed]
  - stage: indexer
    handlers: [index]
"""
FAST = {"HEADRACE_WORKER_RETRY_FIRST_S": "0.2", "HEADRACE_WORKER_RETRY_MAX_S": "1"}


@pytest.fixture
def moody(deployment, place, tmp_path):
    """The chunker with the moody handler, and the other stages."""
    site = tmp_path / "site"
    metadata = site / "moody-1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / "moody_headrace.py").write_text(textwrap.dedent(HANDLER))
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: moody\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[headrace.handlers]\nchunker.moody = moody_headrace:Moody\n")
    apply(place.kafka_settings(), codec(place), load(TEMPLATE, "moody.yaml"), applied_by="test")
    env = {"PYTHONPATH": str(site), **FAST}
    for flow in STAGES:
        deployment.start(flow.name, wait=False, env=env if flow.name == "chunker" else None)
    for service in deployment.services:
        service.wait_ready()
    return env


def codec(place) -> Codec:
    """A codec over the test's registry."""
    return Codec(Registry(place.registry))


def letters(place, stage: str) -> list[DeadLetter]:
    """The stage's dead letters."""
    settings = place.kafka_settings()
    consumer = Consumer({**settings.client(), "group.id": "test", "isolation.level": "read_committed"})
    topic = settings.topic(f"dead-letters.{stage}")
    found = []
    try:
        for number in consumer.list_topics(topic, 10).topics[topic].partitions:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), 10)
            if high == low:
                continue
            consumer.assign([TopicPartition(topic, number, low)])
            while (message := consumer.poll(1.0)) is not None:
                found.append(codec(place).decode_plain(message.value(), DeadLetter))
    finally:
        consumer.close()
    return found


def change(identity: str) -> dict[str, object]:
    """A new document."""
    return {"id": identity, "op": "upsert", "version": 1, "title": identity, "content": f"The text of {identity}.",
            "source": None}  # fmt: skip


def test_a_passing_failure_of_one_record_ends_well_and_holds_nothing_up(deployment, place, seed, moody):
    """A record that fails for now would be lost, given up, or would hold up its batch."""
    changes = [*reference_with_edits(edits=0, seed=seed, documents=6), change("later")]
    publish(place.kafka_settings(), [changes[-1], *changes[:-1]])
    wait_until_stored(deployment, fold(versions(TENANT, changes)), 60, print)
    assert letters(place, "chunker") == []
    chunker = next(service for service in deployment.services if service.name == "chunker")
    assert chunker.log.read_text().count("later") == 0  # a retry is no event of the log
    with urllib.request.urlopen(f"http://127.0.0.1:{chunker.port}/metrics", timeout=5) as answer:
        metrics = answer.read().decode()
    assert 'headrace_retries_total{stage="chunker"} 1.0' in metrics
    assert 'headrace_retries_total{stage="chunker-side"} 2.0' in metrics


def test_a_record_that_kills_the_process_is_given_up_and_the_others_are_done(deployment, place, seed, moody):
    """One record would keep a stage in a crash loop for ever."""
    changes = reference_with_edits(edits=0, seed=seed, documents=6)
    publish(place.kafka_settings(), [changes[0], change("deadly"), *changes[1:]])
    deaths = 0
    deadline = time.monotonic() + 150
    while not letters(place, "chunker"):
        assert time.monotonic() < deadline, f"{deaths} deaths and no dead letter"
        chunker = next(service for service in deployment.services if service.name == "chunker")
        if chunker.process.poll() is not None:
            deaths += 1
            deployment.services.remove(chunker)
            deployment.start("chunker", env=moody, wait=False)
        time.sleep(0.2)
    (letter,) = letters(place, "chunker")
    assert (letter.reason, letter.key) == ("deadly", f"{TENANT}/deadly".encode())
    assert 3 <= deaths <= 6
    wait_until_stored(deployment, fold(versions(TENANT, changes)), 60, print)


def test_a_paused_stage_starts_nothing_until_it_is_resumed(deployment, place, seed):
    """An order to pause would be ignored, or would lose what waits."""
    deployment.start_all(*(flow.name for flow in STAGES))
    chunker = next(service for service in deployment.services if service.name == "chunker")
    order(place, control.Action.PAUSE)
    wait_for(lambda: ready(chunker.port)["paused"] == "paused by test: why")
    changes = reference_with_edits(edits=0, seed=seed, documents=4)
    publish(place.kafka_settings(), changes)
    with pytest.raises(AssertionError, match="differs"):
        wait_until_stored(deployment, fold(versions(TENANT, changes)), 3, print)
    assert chunker.ready()
    order(place, control.Action.RESUME)
    wait_until_stored(deployment, fold(versions(TENANT, changes)), 60, print)


def order(place, action: control.Action) -> None:
    """Order it of the chunker."""
    control.give(
        place.kafka_settings(), codec(place), action=action, scope=control.Scope.STAGE, target="chunker",
        reason="why", issued_by="test",
    )  # fmt: skip


def ready(port: int) -> dict[str, object]:
    """What ``/readyz`` says."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
        return json.load(answer)


def wait_for(true) -> None:
    """Wait until it is."""
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
