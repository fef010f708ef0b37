"""Apache Kafka's own ``transactions_test`` on the stage runtime: sixteen cases with the same two questions.

``headrace-bench transactions --records 100000 --transaction 750 --seed N``. Two copiers copy records from one topic to
another, 750 per transaction, while every client is restarted three times, or every broker once. Both a concurrent
reader and a later one check: is the set of outputs the set of inputs, without duplicates, and in exact order in the
ordered cases?

Source: ``tests/kafkatest/tests/core/transactions_test.py`` of Apache Kafka: hard or clean restarts, of brokers or
clients, with or without a check of the order, with or without group metadata. The runtime always uses group metadata;
instead, two copiers share a group, or one runs alone and is never taken over.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from headrace_local import artifacts
from headrace_testing.faults.brokers import Cluster, Distribution
from headrace_testing.faults.lab import Lab
from headrace_testing.faults.processes import Child

CLIENT_BOUNCES = 3


@dataclass(frozen=True, slots=True)
class Case:
    """One of the sixteen cases."""

    failure: str
    target: str
    order: str
    members: str

    @property
    def name(self) -> str:
        """Return the case as the value of ``--case``."""
        return f"{self.failure}-{self.target}-{self.order}-{self.members}"


CASES = tuple(
    Case(*chosen)
    for chosen in product(("hard", "clean"), ("brokers", "clients"), ("ordered", "unordered"), ("shared", "alone"))
)


def run(case: Case, cluster: Cluster, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return the case's figures, including ``problems``."""
    chance = random.Random(f"{options.seed} {case.name}")
    ordered = case.order == "ordered"
    lab = Lab(cluster, folder, partitions=1 if ordered else 2, keys=1 if ordered else 200)
    started = time.monotonic()
    try:
        feeder = lab.feed(options.records, options.seconds)
        slots = ["0", "1"] if case.members == "shared" else ["0"]
        copiers = {slot: _start(lab, slot, options) for slot in slots}
        lab.wait_seen(options.transaction, 120)
        bounced = _bounce_brokers(case, cluster, chance) if case.target == "brokers" else 0
        if case.target == "clients":
            bounced = _bounce_clients(case, lab, copiers, chance, options)
        during = len(lab.reader.seen)
        healed = time.monotonic()
        feeder.join()
        lab.wait_done(options.timeout)
        problems = lab.problems(healed, bound=60)
        return {
            "case": case.name, "records": len(lab.sent), "bounces": bounced, "copied_when_bounces_ended": during,
            "revived": lab.revived, "seconds": round(time.monotonic() - started, 1), "problems": problems,
        }  # fmt: skip
    finally:
        lab.close()


def _start(lab: Lab, slot: str, options: argparse.Namespace) -> Child:
    return lab.start(slot, batch=options.transaction, keep=True)


def _bounce_brokers(case: Case, cluster: Cluster, chance: random.Random) -> int:
    for number in chance.sample(sorted(cluster.nodes), len(cluster.nodes)):
        if case.failure == "hard":
            cluster.kill(number)
        else:
            cluster.drain(number)
        cluster.restart(number)
        time.sleep(chance.uniform(0, 2))
    return len(cluster.nodes)


def _bounce_clients(
    case: Case, lab: Lab, copiers: dict[str, Child], chance: random.Random, options: argparse.Namespace
) -> int:
    for _ in range(CLIENT_BOUNCES):
        for slot, copier in list(copiers.items()):
            seen = len(lab.reader.seen)
            lab.wait_seen(min(seen + chance.randint(1, 3000), options.records), options.timeout)
            if case.failure == "hard":
                copier.kill()
            else:
                copier.drain()
            copiers[slot] = _start(lab, slot, options)
    return CLIENT_BOUNCES * len(copiers)


def main(arguments: list[str] | None = None) -> int:
    """Run the cases from the command line: one line of JSON for each; the exit code is 1 if one has a problem."""
    parser = argparse.ArgumentParser(prog="headrace-bench transactions", description=__doc__)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--transaction", type=int, default=750, help="records in a transaction")
    parser.add_argument("--seconds", type=float, default=30.0, help="seconds over which to write the records")
    parser.add_argument(
        "--case", action="append", choices=[case.name for case in CASES], help="only this case; may be repeated"
    )
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for each wait")
    parser.add_argument(
        "--seed", type=int, default=random.SystemRandom().randrange(2**32), help="seed of all random choices"
    )
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="headrace-transactions-"))
    cluster = Cluster(Distribution(artifacts.java(), artifacts.kafka_jars(lambda _: None)), folder / "brokers")
    failed = False
    try:
        cluster.start()
        for case in CASES:
            if options.case and case.name not in options.case:
                continue
            print(f"seed {options.seed}: {case.name}", file=sys.stderr, flush=True)
            logs = folder / case.name
            logs.mkdir()
            figures = run(case, cluster, logs, options)
            failed = failed or bool(figures["problems"])
            print(json.dumps({"name": "transactions", "seed": options.seed, **figures}), flush=True)
    finally:
        cluster.close()
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
