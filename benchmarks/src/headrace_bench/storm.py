"""The storm: random SIGKILLs for services and brokers while the whole stream runs, then a check of the result.

``headrace-bench storm FILE --kills 200 --seed N``. There are three brokers, the four stages and the hashing provider.
The events are written in as many slices as there are kills, so the stream lasts as long as the storm. At the end, the
store must equal the fold of the events (D), ``indexed`` must contain each event once and in order per document (L), and
there must be no dead letter. The last line is one JSON object with the figures; the exit code is 1 if anything is
wrong.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from headrace.payloads import IndexedDocument
from headrace.topology.stages import DOCUMENT_STAGES
from headrace_local import artifacts, shared
from headrace_testing.committed import read_all
from headrace_testing.deployment import Deployment, Place
from headrace_testing.faults.brokers import Cluster, Distribution
from headrace_testing.faults.checkers import Entry, ledger
from headrace_testing.faults.schedules import evenly
from headrace_testing.fold import Expected, Key, compare, fold, read_store
from headrace_testing.oracle import versions
from headrace_testing.stream import TENANT, dead_letters, publish, read_changes

PARTITIONS = 8
_BROKER = "broker-"


@dataclass(slots=True)
class Storm:
    """Kills by a seeded plan; dead processes are restarted at once, as by a supervisor."""

    deployment: Deployment
    cluster: Cluster
    chance: random.Random
    kills: dict[str, int] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)
    """Services that exited by themselves, with their exit codes, such as the watchdog's 75."""

    def rage(self, changes: Sequence[dict[str, Any]], kills: int, pause: tuple[float, float]) -> None:
        """Write a slice of the events, wait and kill, repeatedly; then write the rest."""
        kafka = self.deployment.place.kafka_settings()
        targets = [flow.name for flow in DOCUMENT_STAGES] + [f"{_BROKER}{number}" for number in self.cluster.nodes]
        size = -(-len(changes) // max(kills, 1))
        for number, target in enumerate(evenly(self.chance, kills, targets)):
            publish(kafka, changes[number * size : (number + 1) * size])
            time.sleep(self.chance.uniform(*pause))
            self.revive()
            self._kill(target)
            if number % 10 == 9:
                say(f"{number + 1} kills, {min((number + 1) * size, len(changes))} events")
        publish(kafka, changes[kills * size :])

    def revive(self) -> None:
        """Restart what exited by itself."""
        for service in list(self.deployment.services):
            code = service.process.poll()
            if code is not None:
                self.ended.append(f"{service.name} {code}")
                self.deployment.services.remove(service)
                self.deployment.start(service.name, service.slot, wait=False)

    def _kill(self, target: str) -> None:
        self.kills[target] = self.kills.get(target, 0) + 1
        if target.startswith(_BROKER):
            number = int(target.removeprefix(_BROKER))
            self.cluster.wait_whole()  # one at a time: two of three must be running
            self.cluster.kill(number)
            self.cluster.restart(number, wait=False)
            return
        victim = next(service for service in self.deployment.services if service.name == target)
        victim.kill()
        self.deployment.services.remove(victim)
        self.deployment.start(target, victim.slot, wait=False)


def wait_until_stored(storm: Storm, expected: dict[Key, Expected], timeout: float) -> list[str]:
    """Return the remaining differences from the fold, or an empty list as soon as there are none."""
    place = storm.deployment.place
    deadline = time.monotonic() + timeout
    while True:
        storm.revive()
        problems = compare(expected, read_store(place.postgres, schema=place.schema))
        if not problems or time.monotonic() > deadline:
            return problems
        say(f"{len(problems)} differences or more, first: {problems[0]}")
        time.sleep(5)


def indexed(place: Place) -> list[Entry]:
    """Return document and version of every record in ``indexed``, in the order of each partition."""
    codec = place.codec()
    topic = place.kafka_settings().topic("indexed")
    found = []
    for record in read_all(place.kafka, topic):
        change = codec.decode(record.value or b"", IndexedDocument).change
        found.append(Entry(change.document_id.encode(), change.version))
    return found


def run(changes: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures, including ``problems``."""
    expected = fold(versions(TENANT, changes))
    say(f"seed {options.seed}: {len(changes)} events, {len(expected)} documents")
    distribution = Distribution(artifacts.java(), artifacts.kafka_jars(lambda _: None))
    folder = Path(tempfile.mkdtemp(prefix="headrace-storm-"))
    endpoints = shared.acquire(options.state_dir)
    cluster = Cluster(distribution, folder / "brokers")
    name = f"storm{uuid4().hex[:8]}"
    place = Place(cluster.bootstrap, endpoints.registry_url, endpoints.postgres_dsn, f"{name}-", name)
    bound = {"HEADRACE_WORKER_CALL_BOUND_S": str(options.call_bound)}
    deployment = Deployment(place, folder, env=bound, copies=3)
    storm = Storm(deployment, cluster, random.Random(options.seed))
    try:
        cluster.start()
        deployment.bootstrap()
        deployment.start_all(*(flow.name for flow in DOCUMENT_STAGES))
        started = time.monotonic()
        storm.rage(changes, options.kills, (options.pause_min, options.pause_max))
        stormed = time.monotonic() - started
        cluster.wait_whole()
        problems = [f"D {line}" for line in wait_until_stored(storm, expected, options.timeout)]
        elapsed = time.monotonic() - started
        sent = [Entry(change["id"].encode(), change["version"]) for change in changes]
        problems += [f"L {line}" for line in ledger(sent, indexed(place))]
        letters = dead_letters(place.kafka_settings())
        problems += [f"{letters} records and markers in the dead-letter topics"] if letters else []
        return {
            "events": len(changes), "documents": len(expected), "kills": sum(storm.kills.values()),
            "killed": storm.kills, "ended_by_themselves": storm.ended, "storm_s": round(stormed, 1),
            "seconds": round(elapsed, 1), "logs": str(folder), "problems": problems,
        }  # fmt: skip
    finally:
        deployment.close()
        cluster.close()
        shared.release(options.state_dir)


def say(line: str) -> None:
    """Print the progress."""
    print(line, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the storm from the command line."""
    parser = argparse.ArgumentParser(prog="headrace-bench storm", description=__doc__)
    parser.add_argument("changes", type=Path, help="change events as JSON lines, optionally compressed with xz")
    parser.add_argument(
        "--kills", type=int, default=200, help="number of SIGKILLs, spread evenly over stages and brokers"
    )
    parser.add_argument("--limit", type=int, help="only the first N events")
    parser.add_argument("--pause-min", type=float, default=0.2, help="minimum seconds before a kill")
    parser.add_argument("--pause-max", type=float, default=2.5, help="maximum seconds before a kill")
    parser.add_argument(
        "--call-bound", type=float, default=30.0, help="seconds after which a service's watchdog ends a call that hangs"
    )
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds to finish after the last kill")
    parser.add_argument(
        "--state-dir", type=Path, default=Path(".headrace/storm"), help="state folder of the local stack"
    )
    parser.add_argument(
        "--seed", type=int, default=random.SystemRandom().randrange(2**32), help="seed of all random choices"
    )
    options = parser.parse_args(arguments)
    figures = run(read_changes(options.changes, options.limit), options)
    print(json.dumps({"name": "storm", "seed": options.seed, "ok": not figures["problems"], **figures}))
    return 1 if figures["problems"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
