"""A change of the model during live ingest and search, killed again and again on the way.

``headrace-bench reindex --kills 20 --seed N``. A stack with one model gets changes and questions all the time, while
``headrace reindex`` builds, verifies, switches to and back from a generation of another model. SIGKILLs hit the
command, the new embedder and both indexers by a seeded plan. No search may fail, miss a document that never changed, or
score a text by another model than the one that embedded it (its own text scores 1). In the end both generations must
equal the fold of the events, and one that is rebuilt from the log alone must equal the original by digest. The last
line is one JSON object; the exit code is 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from headrace.store.rows import Generation
from headrace_bench.reindex_parts import (
    CommandLine,
    Searchers,
    digest,
    empty_index,
    new_key,
    probes,
    rewind_embedder,
)
from headrace_local import shared
from headrace_local.loopback import free_port
from headrace_testing.data import reference_with_edits
from headrace_testing.deployment import Deployment, Place, Service
from headrace_testing.fold import fold
from headrace_testing.oracle import versions
from headrace_testing.stream import TENANT, dead_letters, publish, wait_until_stored

NEW = "g2"
_PAUSE = (0.3, 1.8)
_FILL_KILLS = 0.6
"""Share of the kills while the generation is filled; the others come while search is switched to and fro."""
_FEED_S = 0.2


@dataclass(slots=True)
class Run:
    """One run: the deployment, the command line, and what happened."""

    deployment: Deployment
    cli: CommandLine
    chance: random.Random
    second: dict[str, str]
    kills: dict[str, int] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)
    failure: list[BaseException] = field(default_factory=list)

    def service(self, name: str, generation: str) -> Service:
        """Return the running service of a generation."""
        slot = "0" if generation == "g1" else generation
        return next(one for one in self.deployment.services if (one.name, one.slot) == (name, slot))

    def start_new(self, name: str, *, wait: bool = False) -> None:
        """Start the embedder or the indexer of the new generation."""
        self.deployment.start(name, NEW, wait=wait, env=self.second)

    def kill(self, target: str) -> None:
        """Kill the target and start it again at once, as a supervisor does; the command is started by its own loop."""
        self.kills[target] = self.kills.get(target, 0) + 1
        if target == "command":
            self.cli.kill()
            return
        name, _, generation = target.partition(" ")
        victim = self.service(name, generation)
        victim.kill()
        self.deployment.services.remove(victim)
        if generation == NEW:
            self.start_new(name)
        else:
            self.deployment.start(name, victim.slot, wait=False)

    def rage(self, targets: Sequence[str], kills: int, done: threading.Event) -> threading.Thread:
        """Kill the targets in random order, in a thread that sets ``done``."""
        plan = [targets[number % len(targets)] for number in range(kills)]
        self.chance.shuffle(plan)

        def run() -> None:
            try:
                for target in plan:
                    self.stop.wait(self.chance.uniform(*_PAUSE))
                    if self.stop.is_set():
                        return
                    self.kill(target)
            except BaseException as error:  # noqa: BLE001  # raised in the main thread
                self.failure.append(error)
            finally:
                done.set()

        thread = threading.Thread(target=run, name="kills", daemon=True)
        thread.start()
        return thread

    def step(self, *words: str) -> Any:
        """Run a command of ``headrace reindex`` until it is not killed, and return what it printed."""
        while True:
            if self.failure:
                raise self.failure[0]
            self.steps[words[0]] = self.steps.get(words[0], 0) + 1
            found = self.cli.run("reindex", *words)
            if found is not None:
                return found


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures; raises :class:`AssertionError` with what is wrong."""
    endpoints = shared.acquire(options.state_dir)
    name = f"reindex{uuid4().hex[:8]}"
    place = Place(endpoints.kafka_bootstrap, endpoints.registry_url, endpoints.postgres_dsn, f"{name}-", name)
    deployment = Deployment(place, Path(tempfile.mkdtemp(prefix="headrace-reindex-")))
    try:
        deployment.bootstrap()
        return _run(deployment, options)
    finally:
        deployment.close()
        shared.release(options.state_dir)


def _run(deployment: Deployment, options: argparse.Namespace) -> dict[str, Any]:
    place, chance = deployment.place, random.Random(options.seed)
    asked = probes(options.probes, chance)
    events = reference_with_edits(options.edits, options.seed, options.documents)
    first = [one.event() for one in asked] + events[: options.documents]
    live = events[options.documents :]
    deployment.start_all("ingest", "chunker", "embedder", "indexer", "gateway")
    publish(place.kafka_settings(), first)
    wait_until_stored(deployment, fold(versions(TENANT, first)), options.timeout, _say)
    port = free_port()
    second = {
        "HEADRACE_KAFKA_GENERATION": NEW, "HEADRACE_EMBEDDER_DIMENSIONS": str(options.dimensions),
        "HEADRACE_EMBEDDER_PORT": str(port),
    }  # fmt: skip
    cli = CommandLine(place, deployment.logs, f"http://127.0.0.1:{deployment.embedder_port}")
    own = Run(deployment, cli, chance, second)
    gateway = next(one for one in deployment.services if one.name == "gateway")
    searchers = Searchers(f"http://127.0.0.1:{gateway.port}", new_key(place, TENANT), asked, options.seed)
    feeder = threading.Thread(target=_feed, args=(own, live), name="feeder", daemon=True)
    try:
        with searchers:
            feeder.start()
            _reindex(own, options, f"http://127.0.0.1:{port}", len(first))
            own.stop.set()
            feeder.join()
            expected = fold(versions(TENANT, first + live))
            for generation in ("g1", NEW):
                wait_until_stored(deployment, expected, options.timeout, _say, generation=generation)
    finally:
        own.stop.set()
    assert not searchers.problems, f"{len(searchers.problems)} searches went wrong, first: {searchers.problems[0]}"
    assert dead_letters(place.kafka_settings()) == dead_letters(place.kafka_settings().of(NEW)) == 0, "dead letters"
    figures = {
        "events": len(first) + len(live), "documents": len(expected), "kills": own.kills, "commands": own.steps,
        "searches": searchers.count, "failed_searches": len(searchers.problems),
    }  # fmt: skip
    return {**figures, **_rebuilt(own, expected, options)}


def _feed(own: Run, live: Sequence[dict[str, Any]]) -> None:
    """Write the changes one by one, and the rest at once when the run ends."""
    kafka = own.deployment.place.kafka_settings()
    for number, change in enumerate(live):
        if own.stop.wait(_FEED_S):
            publish(kafka, live[number:])
            return
        publish(kafka, [change])


def _reindex(own: Run, options: argparse.Namespace, url: str, documents: int) -> None:
    """Build the generation, switch to it and back under kills, and end with search in it."""
    in_fill = round(options.kills * _FILL_KILLS)
    rate = max(1, round(documents / max(5.0, in_fill * 1.2)))
    words = ["start", "--model", f"hashing-{options.dimensions}", "--dimensions", str(options.dimensions),
             "--generation", NEW, "--embedder-url", url, "--rate", str(rate), "--wait-workers", "120"]  # fmt: skip
    begun = own.cli.begin("reindex", *words)
    while not own.cli.has_generation(NEW):
        assert begun.poll() is None, own.cli.complaint()
        time.sleep(0.1)
    own.start_new("embedder")
    own.start_new("indexer")
    done = threading.Event()
    targets = ["command", f"embedder {NEW}", f"indexer {NEW}", "indexer g1"]
    kills = own.rage(targets, in_fill, done)
    while own.cli.end() is None:
        begun = own.cli.begin("reindex", *words)
        own.steps["start"] = own.steps.get("start", 0) + 1
    done.wait()
    kills.join()
    own.service("embedder", NEW).wait_ready()
    assert own.step("verify", NEW, "--count", str(options.questions), "--maximum-loss", "1")["ok"]
    _to_and_fro(own, options.kills - in_fill)
    active = own.step("status", NEW)[0]
    assert (active["phase"], active["missing"] <= len(own.deployment.services) * 64) == ("active", True), active


def _to_and_fro(own: Run, kills: int) -> None:
    """Switch to the new generation and back as long as kills come; search ends in the new one."""
    done = threading.Event()
    thread = own.rage(["command", f"indexer {NEW}", "indexer g1"], kills, done)
    while True:
        assert own.step("switch", NEW, "--settle", "60")["active"] == NEW
        if done.is_set():
            break
        own.stop.wait(1.0)
        assert _rolled_back(own) == "g1"
    thread.join()
    assert _rolled_back(own) == "g1"
    time.sleep(6.0)  # every gateway follows within five seconds
    assert own.step("switch", NEW, "--settle", "60")["active"] == NEW
    time.sleep(6.0)


def _rolled_back(own: Run) -> str:
    """Roll back to g1; one that was killed after its transaction is not repeated, because it would go forth again."""
    while True:
        with suppress(LookupError):
            active = next(one["name"] for one in own.cli.run("generations", "list") or () if one["state"] == "active")
            if active == "g1":
                return "g1"
            found = own.cli.run("reindex", "rollback")
            own.steps["rollback"] = own.steps.get("rollback", 0) + 1
            if found is not None:
                return str(found["active"])


def _rebuilt(own: Run, expected: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Empty the index, rebuild the generation from the log alone, and compare it with the original by digest."""
    deployment = own.deployment
    place = deployment.place
    for service in list(deployment.services):
        if service.process.poll() is None:
            service.kill()
    deployment.services.clear()
    generation = Generation(NEW, f"hashing-{options.dimensions}", options.dimensions)
    before = digest(place, generation)
    empty_index(place, ["g1", NEW])
    assert digest(place, generation) != before, "the index was not emptied"
    rewind_embedder(place.kafka_settings().of(NEW))
    begun = time.monotonic()
    own.start_new("embedder", wait=True)
    own.start_new("indexer", wait=True)
    wait_until_stored(deployment, expected, options.timeout, _say, generation=NEW)
    after = digest(place, generation)
    assert before == after, f"the rebuilt generation differs: {before} before, {after} now"
    return {"rebuild_s": round(time.monotonic() - begun, 1), "digest": after}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(prog="headrace-bench reindex", description=__doc__)
    parser.add_argument(
        "--state-dir", type=Path, default=Path(".headrace/bench"), help="state folder of the local stack"
    )
    parser.add_argument("--kills", type=int, default=20, help="number of SIGKILLs")
    parser.add_argument("--documents", type=int, default=60, help="documents that are edited")
    parser.add_argument("--edits", type=int, default=300, help="changes during the run")
    parser.add_argument("--probes", type=int, default=20, help="documents that never change and are searched")
    parser.add_argument("--questions", type=int, default=50, help="questions of the verification")
    parser.add_argument("--dimensions", type=int, default=256, help="of the second model; the first one has 384")
    parser.add_argument(
        "--seed", type=int, default=random.SystemRandom().randrange(2**32), help="seed of all random choices"
    )
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for each part")
    options = parser.parse_args(arguments)
    _say(f"seed {options.seed}")
    try:
        figures = run(options)
    except AssertionError as error:
        print(json.dumps({"name": "reindex", "seed": options.seed, "ok": False, "error": str(error)}))
        return 1
    print(json.dumps({"name": "reindex", "seed": options.seed, "ok": True, **figures}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
