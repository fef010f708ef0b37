"""Rows 7, 8, 9 and 12: brokers that die, restart in turn, fall out of step or hang, under a stage that works."""

from __future__ import annotations

import os
import time
from random import Random

import pytest
from confluent_kafka import Producer

from headrace.runtime.watchdog import EXIT_HUNG
from headrace_testing.committed import read_all
from headrace_testing.faults.checkers import Entry
from headrace_testing.faults.lab import Lab

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]

ROUNDS = int(os.environ.get("HEADRACE_FAULT_ROUNDS", "1"))
FAILOVER_S = 60.0
"""After a broker's death and return, progress within this: session, election, and a client that has backed off or that
the watchdog (20 s here) had to end."""


def test_row_7_leader_and_coordinators_killed(lab: Lab, chance: Random, figures: dict[str, object]) -> None:
    """Broken: the loss of one broker loses, doubles or stops the work, where two of three are enough."""
    cluster = lab.cluster
    victims = {
        "partition leader": lambda: cluster.leader(lab.source, chance.randrange(lab.partitions)),
        "transaction coordinator": lambda: cluster.transaction_coordinator(f"{lab.group}-0"),
        "group coordinator": lambda: cluster.group_coordinator(lab.group),
    }
    order = chance.sample(sorted(victims), 3)
    feeder = lab.feed(4000, 40)
    lab.start("0", batch=20, keep=True)
    lab.start("1", batch=20, keep=True)
    lab.wait_seen(50, 60)
    for what in order:
        number = victims[what]()
        cluster.kill(number)
        seen = len(lab.reader.seen)
        lab.wait_seen(min(seen + 200, len(lab.sent)), FAILOVER_S + 20)
        cluster.restart(number)
    healed = time.monotonic()
    feeder.join()
    lab.wait_done()
    figures |= {"row": 7, "records": len(lab.sent), "broker_kills": 3, "hung": lab.revived}
    assert lab.problems(healed, bound=FAILOVER_S) == [], order


def test_row_8_rolling_restart(lab: Lab, chance: Random, figures: dict[str, object]) -> None:
    """Broken: an upgrade of the brokers, one after the other, costs records or needs the stages to be stopped."""
    cluster = lab.cluster
    feeder = lab.feed(2000 * ROUNDS, 20 * ROUNDS)
    lab.start("0", batch=20, keep=True)
    lab.wait_seen(20, 60)
    done = {"terms": 0, "broker_kills": 0}
    for _ in range(ROUNDS):
        for number in chance.sample(sorted(cluster.nodes), len(cluster.nodes)):
            if chance.random() < 0.5:
                cluster.kill(number)
                done["broker_kills"] += 1
            else:
                cluster.drain(number)
                done["terms"] += 1
            time.sleep(chance.uniform(0, 1.5))
            cluster.restart(number)
    healed = time.monotonic()
    feeder.join()
    lab.wait_done()
    problems = lab.problems(healed, bound=FAILOVER_S)
    figures |= {"row": 8, "records": len(lab.sent), "doubled": lab.doubled, "hung": lab.revived, **done}
    assert problems == []


def test_row_9_too_few_copies(lab: Lab, chance: Random, figures: dict[str, object]) -> None:
    """Broken: a write is taken that only one broker holds, and the next loss of a disk loses it."""
    cluster = lab.cluster
    lab.start("0", batch=20, keep=True)
    lab.fill(300)
    lab.wait_done()
    gone = chance.sample(sorted(cluster.nodes), 2)
    for number in gone:
        cluster.kill(number)
    refused: list[object] = []
    unsure = Entry(b"never", -1)
    producer = Producer(
        {"bootstrap.servers": cluster.bootstrap, "acks": "all", "delivery.timeout.ms": 4000, "log_level": 0}
    )
    producer.produce(lab.source, str(unsure.number), unsure.key, on_delivery=lambda error, _: refused.append(error))
    producer.flush(30)
    assert refused, "the write is still under way"
    assert refused[0] is not None, "one broker of three took a write"
    seen = len(lab.reader.seen)
    for number in gone:
        cluster.restart(number, wait=False)
    cluster.wait_whole()
    healed = time.monotonic()
    lab.fill(300)
    lab.wait_done()
    if any(record.key == unsure.key for record in read_all(cluster.bootstrap, lab.source)):
        lab.sent.append(unsure)  # it was not acknowledged, yet may have reached the others once they were back
        lab.wait_done()
    figures |= {"row": 9, "records": len(lab.sent), "broker_kills": 2}
    assert seen == 300
    assert lab.problems(healed, bound=FAILOVER_S) == []


def test_row_12_a_coordinator_that_hangs(lab: Lab, chance: Random, figures: dict[str, object]) -> None:
    """Broken: a worker whose call never returns keeps its partitions for ever."""
    cluster = lab.cluster
    env = {"HEADRACE_WORKER_CALL_BOUND_S": "2"}
    feeder = lab.feed(1500, 10)
    worker = lab.start("0", failpoints=f"commit.offsets=sleep:1@{chance.randint(2, 4)}", batch=20, env=env)
    lab.wait_seen(20, 60)
    number = cluster.transaction_coordinator(f"{lab.group}-0")
    cluster.stop(number)
    assert worker.wait(60) == EXIT_HUNG, worker.tail()
    lab.start("0", batch=20, keep=True)
    stopped = time.monotonic()
    lab.wait_seen(len(lab.reader.seen) + 50, FAILOVER_S + 20)
    went_on_after = time.monotonic() - stopped
    cluster.go_on(number)
    healed = time.monotonic()
    feeder.join()
    lab.wait_done()
    figures |= {"row": 12, "records": len(lab.sent), "broker_stops": 1, "went_on_after_s": round(went_on_after, 1)}
    assert lab.problems(healed, bound=FAILOVER_S) == []
