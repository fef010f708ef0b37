"""What fails for now is tried again beside the stream, what kills the process is found out, a paused stage waits."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headrace.handlers.pipelines_log import apply
from headrace.orders import control
from headrace.topology.stages import DOCUMENT_STAGES
from headrace_operations.orders import log as orders_log
from headrace_testing.committed import dead_letters_of
from headrace_testing.data import reference_with_edits
from headrace_testing.deployment import Deployment, Place
from headrace_testing.fold import fold
from headrace_testing.oracle import versions
from headrace_testing.stream import TENANT, publish, wait_until_stored
from headrace_testing.user_package import install, stream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

HANDLER = '''
import os, signal
from collections import Counter
from headrace.errors import TemporaryError
from headrace.handler import Handler
from headrace.payloads import SourceDocument

tries = Counter()

class Moody(Handler[SourceDocument, SourceDocument]):
    """Fails a document three times, and dies of another one."""

    name = "moody"
    stage = "chunker"

    async def process(self, context):
        document = context.change.document_id
        tries[document] += 1
        if document == "later" and tries[document] <= 3:
            raise TemporaryError("not yet")
        if document == "deadly":
            os.kill(os.getpid(), signal.SIGKILL)
        return context
'''

FAST = {"HEADRACE_WORKER_RETRY_FIRST_S": "0.2", "HEADRACE_WORKER_RETRY_MAX_S": "1"}


@pytest.fixture
def moody(deployment: Deployment, place: Place, tmp_path: Path) -> dict[str, str]:
    """The chunker with the moody handler, and the other stages."""
    site = install(tmp_path / "site", "moody", "Moody", HANDLER)
    apply(place.kafka_settings(), place.codec(), stream("default", ("moody", "sections")), applied_by="test")
    env = {"PYTHONPATH": str(site), **FAST}
    for flow in DOCUMENT_STAGES:
        deployment.start(flow.name, wait=False, env=env if flow.name == "chunker" else None)
    for service in deployment.services:
        service.wait_ready()
    return env


def change(identity: str) -> dict[str, object]:
    """A new document."""
    return {"id": identity, "op": "upsert", "version": 1, "title": identity, "content": f"The text of {identity}.",
            "source": None}  # fmt: skip


def test_a_passing_failure_of_one_record_ends_well_and_holds_nothing_up(
    deployment: Deployment, place: Place, seed: int, moody: dict[str, str]
) -> None:
    """A record that fails for now would be lost, dead-lettered, or would hold up its batch."""
    changes = [*reference_with_edits(edits=0, seed=seed, documents=6), change("later")]
    publish(place.kafka_settings(), [changes[-1], *changes[:-1]])
    wait_until_stored(deployment, fold(versions(TENANT, changes)), 60, print)
    assert dead_letters_of(place, "chunker") == []
    chunker = next(service for service in deployment.services if service.name == "chunker")
    assert chunker.log.read_text().count("later") == 0  # a retry is no event of the log
    with urllib.request.urlopen(f"http://127.0.0.1:{chunker.port}/metrics", timeout=5) as answer:
        metrics = answer.read().decode()
    assert 'headrace_retries_total{lane="live",stage="chunker"} 1.0' in metrics
    assert 'headrace_retries_total{lane="side",stage="chunker"} 2.0' in metrics


def test_a_record_that_kills_the_process_is_dead_lettered_and_the_others_are_done(
    deployment: Deployment, place: Place, seed: int, moody: dict[str, str]
) -> None:
    """One record would keep a stage in a crash loop for ever."""
    changes = reference_with_edits(edits=0, seed=seed, documents=6)
    publish(place.kafka_settings(), [changes[0], change("deadly"), *changes[1:]])
    deaths = 0
    deadline = time.monotonic() + 150
    while not dead_letters_of(place, "chunker"):
        assert time.monotonic() < deadline, f"{deaths} deaths and no dead letter"
        chunker = next(service for service in deployment.services if service.name == "chunker")
        if chunker.process.poll() is not None:
            deaths += 1
            deployment.services.remove(chunker)
            deployment.start("chunker", env=moody, wait=False)
        time.sleep(0.2)
    (letter,) = dead_letters_of(place, "chunker")
    assert (letter.reason, letter.key) == ("deadly", f"{TENANT}/deadly".encode())
    assert 3 <= deaths <= 6
    wait_until_stored(deployment, fold(versions(TENANT, changes)), 60, print)


def test_a_paused_stage_starts_nothing_until_it_is_resumed(deployment: Deployment, place: Place, seed: int) -> None:
    """An order to pause would be ignored, or would lose what waits."""
    deployment.start_all(*(flow.name for flow in DOCUMENT_STAGES))
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


def order(place: Place, action: control.Action) -> None:
    """Order it of the chunker."""
    orders_log.give(
        place.kafka_settings(), place.codec(), action=action, scope=control.Scope.STAGE, target="chunker",
        reason="why", issued_by="test",
    )  # fmt: skip


def ready(port: int) -> dict[str, Any]:
    """What ``/readyz`` says."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
        said: dict[str, Any] = json.load(answer)
    return said


def wait_for(true: Callable[[], bool]) -> None:
    """Wait until it is."""
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
