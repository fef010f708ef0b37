"""Rows 1, 2, 3, 4, 5 and 13: workers that die, stop, come and go, or compute for long, over three real brokers."""

from __future__ import annotations

import time
from random import Random

import pytest

from headrace.config.settings import WorkerSettings
from headrace.kafka.broker import KafkaBroker
from headrace.kafka.broker_contract import Message, Record, TransactionAborted
from headrace.runtime.worker import offsets_after
from headrace_testing.faults.lab import SESSION_MS, TRANSACTION_MS, Lab, connection, tuned
from headrace_testing.faults.schedules import schedule

pytestmark = [pytest.mark.faults, pytest.mark.timeout(150)]

STEPS = (
    "producer.renewed", "batch.sealed", "batch.computed", "commit.begun", "commit.produced", "commit.offsets",
    "commit.committed",
)  # fmt: skip
"""Where a worker can die: before the batch, at each step of its transaction, and right after it."""


def test_row_1_a_worker_killed_at_each_step(lab: Lab, chance: Random, figures: dict[str, object]) -> None:
    """Broken: a worker that dies at some step loses or doubles its batch, or leaves the group standing."""
    steps = chance.sample(STEPS, len(STEPS))
    feeder = lab.feed(2000, 12)
    for step in steps:
        occurrence = 1 if step == "producer.renewed" else chance.randint(1, 3)
        worker = lab.start("0", failpoints=f"{step}=kill@{occurrence}", batch=chance.choice([7, 30, 60]))
        assert worker.wait(60) == -9, f"{step}: {worker.tail()}"
    healed = time.monotonic()
    lab.start("0")
    feeder.join()
    lab.wait_done()
    figures |= {"row": 1, "records": len(lab.sent), "kills": len(steps)}
    assert lab.problems(healed, bound=20) == [], steps


def test_row_2_a_zombie_in_a_transaction(lab: Lab, chance: Random, figures: dict[str, object]) -> None:
    """Broken: a worker stopped in its transaction commits after another one has done its work."""
    step = chance.choice(["commit.begun", "commit.produced", "commit.offsets"])
    same_slot = chance.random() < 0.5
    past = chance.choice([SESSION_MS, TRANSACTION_MS]) / 1000 + 1.5
    feeder = lab.feed(1500, 8)
    zombie = lab.start("0", failpoints=f"{step}=stop@{chance.randint(1, 4)}", batch=20)
    zombie.wait_stopped(60)
    lab.start("0" if same_slot else "1")
    time.sleep(past)
    healed = time.monotonic()
    zombie.go_on()
    if same_slot:
        assert zombie.wait(60) == 71, zombie.tail()  # fenced, and says so
    feeder.join()
    lab.wait_done()
    figures |= {"row": 2, "records": len(lab.sent), "stops": 1}
    assert lab.problems(healed, bound=20) == [], (step, same_slot, past)


def test_row_3_a_storm_of_rebalances(lab: Lab, chance: Random, figures: dict[str, object]) -> None:
    """Broken: workers that join, leave and die amid their batches lose or double records."""
    figures |= {"row": 3, **_rebalances(lab, chance)}
    assert lab.problems(time.monotonic()) == []


def _rebalances(lab: Lab, chance: Random, *options: str, steps: int = 8) -> dict[str, int]:
    """Have workers join, drain and die every second or two while records come; return what was counted."""
    feeder = lab.feed(3000, 1.6 * steps)
    running = {"0": lab.start("0", *options, batch=20)}
    done = {"join": 0, "leave": 0, "kill": 0}
    slots = ["0", "1", "2"]
    weights = {"join": 3.0, "leave": 1.0, "kill": 1.0}
    for step in schedule(chance, steps, weights, dict.fromkeys(weights, slots), (0.7, 2.0)):
        time.sleep(step.pause)
        if step.target not in running:
            running[step.target] = lab.start(step.target, *options, batch=chance.choice([5, 20, 60]))
            done["join"] += 1
        elif step.action == "leave":
            assert running.pop(step.target).drain() in (0, -15)  # -15: before it could listen for signals
            done["leave"] += 1
        elif step.action == "kill":
            running.pop(step.target).kill()
            done["kill"] += 1
    if not running:
        lab.start("0", *options)
    feeder.join()
    lab.wait_done()
    return {"records": len(lab.sent), **done}


def test_row_4_an_old_and_a_fresh_snapshot(lab: Lab, figures: dict[str, object]) -> None:
    """Broken: a batch outlives the loss of its partitions; the fresh snapshot shows that the checker would see it."""
    lab.fill(40)
    settings = WorkerSettings(slot="0", session_timeout_ms=SESSION_MS)
    first, second = (
        KafkaBroker(connection(lab.cluster), settings, group=lab.group, transactional_id=f"{lab.group}-{number}")
        for number in range(2)
    )
    first.subscribe([lab.source])
    old = _read(first, 40)
    sealed = first.snapshot()
    second.subscribe([lab.source])
    taken = _read(second, 10, beside=first)
    with pytest.raises(TransactionAborted):
        _copy(first, old, lab.target, sealed)
    assert not lab.reader.seen
    _copy(second, taken, lab.target, second.snapshot())
    _copy(first, old, lab.target, first.snapshot())  # what the runtime never does, and Kafka takes
    for broker in (first, second):
        broker.close()
    lab.wait_seen(40 + len(taken), 30)
    figures |= {"row": 4, "records": len(lab.sent)}
    assert any("times" in line for line in lab.problems())


def _read(broker: KafkaBroker, number: int, beside: KafkaBroker | None = None) -> list[Record]:
    """Read so many records, or as many as the share of the partitions holds; another member goes on polling."""
    records: list[Record] = []
    deadline = time.monotonic() + 60
    while len(records) < number:
        assert time.monotonic() < deadline, f"{len(records)} of {number} records"
        if beside is not None:
            beside.poll(1, 0.05)
        polled = broker.poll(number - len(records), 0.2)
        if polled.rebalanced:
            broker.rewind()
            records = []
        records += polled.records
    return records


def _copy(broker: KafkaBroker, records: list[Record], target: str, snapshot: object) -> None:
    copies = [Message(target, record.key or b"", record.value or b"") for record in records]
    broker.commit(copies, offsets_after(records), snapshot)


def test_row_5_a_batch_longer_than_the_poll_interval(lab: Lab, chance: Random, figures: dict[str, object]) -> None:
    """Broken: a long GPU batch costs the worker its membership, and its work is done again for ever."""
    seconds = chance.uniform(7.5, 9.0)
    worker = lab.start("0", *tuned(max__poll__interval__ms=6000), "--compute-s", f"{seconds}", batch=1000)
    lab.fill(300)
    lab.wait_done(60)
    figures |= {"row": 5, "records": len(lab.sent), "compute_s": round(seconds, 1)}
    assert lab.problems() == []
    text = worker.log.read_text()
    assert text.count("partitions changed") == 1, text  # when it joined
    assert "not committed" not in text


def test_row_13_an_abandoned_transaction(lab: Lab, chance: Random, figures: dict[str, object]) -> None:
    """Broken: a worker that never comes back holds up the readers for ever."""
    step = chance.choice(["commit.produced", "commit.offsets"])
    feeder = lab.feed(1200, 6)
    dead = lab.start("gone", failpoints=f"{step}=kill@{chance.randint(2, 4)}", batch=20)
    assert dead.wait(60) == -9
    killed = time.monotonic()
    lab.start("1")
    feeder.join()
    lab.wait_done()
    figures |= {"row": 13, "records": len(lab.sent), "kills": 1}
    assert lab.problems(killed, bound=TRANSACTION_MS / 1000 + SESSION_MS / 1000 + 15) == [], step
