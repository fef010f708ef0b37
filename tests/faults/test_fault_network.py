"""Rows 6 and 10: a network between worker and brokers that delays, cuts, resets, and delivers a request much later."""

from __future__ import annotations

import time
from random import Random

import pytest

from headrace_testing.faults.lab import Lab
from headrace_testing.proxy import END_TXN, Proxy

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


def test_row_6_the_end_of_a_transaction_arrives_in_the_next(
    lab: Lab, network: list[Proxy], chance: Random, figures: dict[str, object]
) -> None:
    """Broken: a commit that was delayed on its way ends the producer's next transaction half way."""
    feeder = lab.feed(600, 12)
    worker = lab.start(
        "0", "--call-s", "2", failpoints="commit.offsets=sleep:0.7", bootstrap=lab.cluster.client_bootstrap, batch=20
    )
    lab.wait_seen(20 * chance.randint(1, 3), 60)
    held = network[lab.cluster.transaction_coordinator(f"{lab.group}-0") - 1].hold(END_TXN)
    assert held.caught.wait(30), worker.tail()
    deadline = time.monotonic() + 60
    while "not committed" not in worker.log.read_text():
        assert time.monotonic() < deadline, worker.tail()
        time.sleep(0.1)
    time.sleep(chance.uniform(0.2, 2.5))
    held.released.set()
    healed = time.monotonic()
    feeder.join()
    lab.wait_done()
    figures |= {"row": 6, "records": len(lab.sent), "held": 1}
    assert lab.problems(healed, bound=25) == []


def test_row_10_cut_slow_and_reset(lab: Lab, network: list[Proxy], chance: Random, figures: dict[str, object]) -> None:
    """Broken: a bad network loses or doubles records, or a worker does not find back when it is good again."""
    feeder = lab.feed(1200, 20)
    for slot in ("0", "1"):
        lab.start(
            slot, "--call-s", "5", bootstrap=lab.cluster.client_bootstrap, batch=20, keep=True,
        )  # fmt: skip
    lab.wait_seen(50, 60)
    order = chance.sample(["cut one", "cut all", "slow", "resets"], 4)
    for what in order:
        touched = [chance.choice(network)] if what == "cut one" else network
        for proxy in touched:
            if what == "slow":
                proxy.delay(0.3)
            elif what == "resets":
                proxy.reset(0.05)
            else:
                proxy.cut()
        time.sleep(chance.uniform(2.0, 6.0))
        for proxy in touched:
            proxy.restore()
    healed = time.monotonic()
    feeder.join()
    lab.wait_done(120)
    resets = sum(proxy.disturbed for proxy in network)
    figures |= {"row": 10, "records": len(lab.sent), "resets": resets, "hung": lab.revived}
    assert lab.problems(healed, bound=40) == [], order
