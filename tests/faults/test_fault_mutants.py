"""The runtime with one promise broken: the checker that watches over it must turn red, else it proves nothing."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from confluent_kafka import Producer

from headrace.topology.stages import DOCUMENT_STAGES
from headrace_testing.data import reference_with_edits
from headrace_testing.deployment import Deployment
from headrace_testing.faults.checkers import replayed
from headrace_testing.faults.lab import Lab
from headrace_testing.fold import compare, fold, read_store
from headrace_testing.oracle import versions
from headrace_testing.stream import TENANT, publish, rewind_groups, wait_until_drained, wait_until_stored

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

NO_FENCE = """
from headrace.store import fence, plan

def decide(stored, incoming):
    return fence.Decision.NEW if stored is None else fence.Decision.ADVANCE

fence.decide = plan.decide = decide
"""
"""An indexer in which whatever comes last wins, as in the script that one writes in an afternoon."""


def broken(letter: str, problems: list[str]) -> bool:
    """Whether a checker turned red."""
    return any(line.startswith(letter) for line in problems)


def test_l_and_c_see_offsets_apart_from_their_output(lab: Lab) -> None:
    """Broken: outputs that are done twice after a kill are not seen."""
    lab.fill(200)
    worker = lab.start("0", "--mutant", "offsets-apart", failpoints="mutant.between=kill@3", batch=20)
    assert worker.wait(60) == -9
    lab.start("0", batch=20)
    lab.wait_seen(210, 60)
    problems = lab.problems()
    assert broken("L", problems)
    assert broken("C", problems)


def test_o_sees_offsets_apart_from_their_output(lab: Lab) -> None:
    """Broken: an output without its offset is not seen before it does its harm."""
    lab.fill(200)
    worker = lab.start("0", "--mutant", "offsets-apart", failpoints="mutant.between=kill@3", batch=20)
    assert worker.wait(60) == -9
    assert any("is not committed" in line for line in lab.problems())


def test_c_sees_a_dead_letter_apart_from_its_offset(lab: Lab) -> None:
    """Broken: a dead letter that a kill loses is not seen."""
    lab.fill(200, poison=range(200))
    worker = lab.start("0", "--mutant", "dead-letters-apart", failpoints="mutant.between=kill@3", batch=20)
    assert worker.wait(60) == -9
    lab.start("0", batch=20)
    lab.wait_seen(160, 60)
    lab.finish()
    assert any("nowhere" in line for line in lab.problems())


def test_the_same_faults_leave_the_runtime_green(lab: Lab) -> None:
    """Broken: the checkers are red whatever the runtime does."""
    lab.fill(200, poison=range(0, 200, 2))
    worker = lab.start("0", failpoints="commit.committed=kill@3", batch=20)
    assert worker.wait(60) == -9
    lab.start("0", batch=20)
    lab.wait_done(60)
    assert lab.problems() == []


def test_l_sees_records_that_were_never_committed(lab: Lab) -> None:
    """Broken: a stage that reads aborted records is not seen."""
    lab.fill(50)
    _abort(lab)
    lab.start("0", "--mutant", "read-uncommitted", batch=20)
    lab.wait_seen(51, 60)
    assert any("never sent" in line for line in lab.problems())


def test_aborted_records_do_not_touch_the_runtime(lab: Lab) -> None:
    """Broken: the stage reads what upstream took back."""
    lab.fill(50)
    _abort(lab)
    lab.start("0", batch=20)
    lab.wait_done(60)
    time.sleep(1)
    assert lab.problems() == []


def _abort(lab: Lab) -> None:
    """Have upstream write a record and take it back."""
    producer = Producer(
        {"bootstrap.servers": lab.cluster.bootstrap, "transactional.id": f"{lab.prefix}upstream", "log_level": 0}
    )
    producer.init_transactions()
    producer.begin_transaction()
    producer.produce(lab.source, b"999999", b"t/0")
    producer.flush(30)
    producer.abort_transaction()


def test_l_sees_a_batch_that_outlives_its_membership(lab: Lab) -> None:
    """Broken: a worker without fencing, whose partitions went to another one meanwhile, is not seen."""
    lab.fill(300)
    zombie = lab.start("0", "--mutant", "unfenced", failpoints="batch.computed=stop@2", batch=100)
    zombie.wait_stopped(60)
    lab.start("1", batch=100)
    lab.wait_seen(300, 60)
    zombie.go_on()
    lab.wait_seen(301, 60)
    assert broken("L", lab.problems())


def test_v_sees_a_worker_that_stands_still(lab: Lab) -> None:
    """Broken: a stage that rests for longer than its bound, after the fault is over, is not seen."""
    feeder = lab.feed(300, 4)
    worker = lab.start("0", failpoints="batch.computed=stop@3", batch=20)
    worker.wait_stopped(60)
    healed = time.monotonic()
    time.sleep(4)
    worker.go_on()
    feeder.join()
    lab.wait_done(60)
    assert broken("V", lab.problems(healed, bound=2))
    assert not broken("V", lab.problems(healed, bound=20))


def test_d_and_r_see_a_store_without_its_fence(store: Deployment, tmp_path: Path) -> None:
    """Broken: an indexer that lets older versions in, or writes what it has already, is not seen."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(NO_FENCE)
    kafka = store.place.kafka_settings()
    events = reference_with_edits(edits=12, seed=5, documents=4)
    expected = fold(versions(TENANT, events))
    mutant = {"PYTHONPATH": str(site)}
    store.start("indexer", env=mutant)
    store.start_all(*(flow.name for flow in DOCUMENT_STAGES[:-1]))
    publish(kafka, events)
    wait_until_stored(store, expected, 90, print)  # in order, there is nothing to see

    for service in store.services:
        service.drain()
    store.services.clear()
    before = read_store(store.place.postgres, schema=store.place.schema)
    rewind_groups(kafka)
    store.start("indexer", env=mutant)
    store.start_all(*(flow.name for flow in DOCUMENT_STAGES[:-1]))
    wait_until_drained(kafka, 90)
    assert replayed(before, read_store(store.place.postgres, schema=store.place.schema)) != []

    publish(kafka, events[:4])  # the first versions, late and once more
    deadline = time.monotonic() + 60
    while not compare(expected, read_store(store.place.postgres, schema=store.place.schema)):
        assert time.monotonic() < deadline, "D saw nothing"
        time.sleep(0.2)
