"""Row 23: replays by offset, time, document and tenant while services die, and a dead letter sent again twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest

from headrace.handlers.pipelines_log import apply
from headrace.kafka import headers
from headrace.kafka.broker_contract import Record
from headrace.payloads import ReplayRun
from headrace.topology.stages import DOCUMENT_STAGES
from headrace.topology.topics import replay_topic
from headrace_operations.actions import ActionRequest
from headrace_operations.dead_letters.act import REDRIVEN, Actor, plan
from headrace_operations.dead_letters.log import DeadLetterLog
from headrace_operations.dead_letters.model import ANY_STATE, Entry, Selection
from headrace_operations.replay import plan as replay_plan
from headrace_operations.replay import selection as replay_selection
from headrace_operations.replay.copier import Copier
from headrace_operations.replay.runs import DONE
from headrace_testing.committed import read_all
from headrace_testing.data import reference_with_edits
from headrace_testing.deployment import Deployment
from headrace_testing.faults.checkers import Entry as Counted
from headrace_testing.faults.checkers import canary, conservation, replayed
from headrace_testing.fold import fold, read_store
from headrace_testing.oracle import versions
from headrace_testing.stream import TENANT, publish, wait_until_drained, wait_until_stored
from headrace_testing.user_package import stream

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]

PARTITIONS = 8
OTHER = "other"


def test_row_23_replays_of_every_kind_and_a_redrive_done_twice(
    store: Deployment, chance: Random, figures: dict[str, Any]
) -> None:
    """Broken: a replay or a second redrive writes a row, crosses to another tenant, or loses or doubles a record."""
    changes = reference_with_edits(edits=16, seed=chance.randrange(2**32), documents=10)
    changes[chance.randrange(10)]["pipeline"] = "late"
    others = reference_with_edits(edits=0, seed=0, documents=4)
    kafka = store.place.kafka_settings()
    began = datetime.now(UTC)
    publish(kafka, changes)
    publish(kafka, others, OTHER)
    store.start_all(*(flow.name for flow in DOCUMENT_STAGES))
    _redrive_twice(store)
    expected = fold([*versions(TENANT, changes), *versions(OTHER, others)])
    wait_until_stored(store, expected, 120, print)
    wait_until_drained(kafka, 60)

    before = read_store(store.place.postgres, schema=store.place.schema)
    some = chance.choice([change for change in changes if "pipeline" not in change])["id"]
    asked: list[dict[str, Any]] = [
        {"everything": True}, {"since": began}, {"tenant": OTHER}, {"tenant": TENANT, "document_id": some},
        {"offsets": dict.fromkeys(chance.sample(range(PARTITIONS), 5), 0)},
    ]  # fmt: skip
    sent = 0
    for one in chance.sample(asked, len(asked)):
        stage = chance.choice(DOCUMENT_STAGES).name
        problems, count = _replay(store, chance, replay_selection.Selection(stage, **one))
        assert problems == [], (stage, one)
        sent += count
    assert replayed(before, read_store(store.place.postgres, schema=store.place.schema)) == []
    figures |= {"row": 23, "records": len(changes) + len(others), "replays": len(asked), "replayed": sent, "kills": 5}
    wait_until_stored(store, expected, 1, print)


def _redrive_twice(deployment: Deployment) -> None:
    """Send a dead letter again in vain, then once its cause is gone: both that there are, at once."""
    kafka, codec = deployment.place.kafka_settings(), deployment.place.codec()
    log = DeadLetterLog(kafka, codec)
    (first,) = _dead_letters(log, 1)
    actor = Actor(kafka, codec)
    request = ActionRequest(REDRIVEN, "first", "olga")
    actor.carry_out(plan([first], request, named=False).taken, request)
    both = _dead_letters(log, 2)
    apply(kafka, codec, stream("late"), applied_by="test")
    again = ActionRequest(REDRIVEN, "second", "olga", again=True)
    assert len(actor.carry_out(plan(both, again, named=False).taken, again)) == 2


def _dead_letters(log: DeadLetterLog, count: int) -> list[Entry]:
    deadline = time.monotonic() + 90
    while len(found := log.select(Selection(states=ANY_STATE))) < count:
        assert time.monotonic() < deadline, f"{len(found)} dead letters, expected {count}"
        time.sleep(0.2)
    return found


def _replay(deployment: Deployment, chance: Random, asked: replay_selection.Selection) -> tuple[list[str], int]:
    """Carry a replay out while a service dies; return what C and T find, and how many records were sent."""
    kafka = deployment.place.kafka_settings()
    copier = Copier(kafka, deployment.place.codec())
    run = replay_plan.plan(kafka, asked, rate=None, asked_by="test", now=datetime.now(UTC)).run
    copier.begin(run)
    with _a_death(deployment, chance):
        done = copier.carry_out(run.run_id)
    assert done.state == DONE
    copies = [
        record
        for record in read_all(kafka.bootstrap, kafka.topic(replay_topic(run.stage)))
        if _header(record, headers.REPLAY) == run.run_id
    ]
    problems = [f"C {line}" for line in conservation(_selected(deployment, run), written=map(_origin, copies))]
    if run.tenant is not None:
        problems += [f"T {line}" for line in canary((run.tenant, _tenant(record)) for record in copies)]
    return problems, done.sent


@contextmanager
def _a_death(deployment: Deployment, chance: Random) -> Iterator[None]:
    """Kill a service within a second, and start it again."""
    victim = chance.choice(deployment.services)
    delay = chance.uniform(0.0, 1.0)

    def strike() -> None:
        time.sleep(delay)
        victim.kill()
        deployment.services.remove(victim)
        deployment.start(victim.name, victim.slot)

    thread = threading.Thread(target=strike, name="strike")
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _selected(deployment: Deployment, run: ReplayRun) -> list[Counted]:
    """Return the records of the source topic that the run must send, by their place."""
    kafka = deployment.place.kafka_settings()
    spans = {at.partition: range(at.start, at.end) for at in run.positions}
    key = f"{run.tenant}/{run.document_id}".encode() if run.document_id else f"{run.tenant or ''}/".encode()
    return [
        Counted(str(record.partition).encode(), record.offset)
        for record in read_all(kafka.bootstrap, kafka.topic(run.source))
        if record.offset in spans.get(record.partition, ())
        and (run.tenant is None or (record.key or b"").startswith(key))
    ]


def _origin(record: Record) -> Counted:
    partition, offset = _header(record, headers.ORIGIN_PARTITION), _header(record, headers.ORIGIN_OFFSET)
    return Counted(partition.encode(), int(offset))


def _tenant(record: Record) -> str:
    return (record.key or b"").decode().partition("/")[0]


def _header(record: Record, name: str) -> str:
    found = [value for key, value in record.headers if key == name]
    return (found[-1] or b"").decode() if found else ""
