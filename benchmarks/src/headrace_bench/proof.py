"""The proof run: real change events through real services under faults, then the store against the fold.

``headrace-bench proof FILE --kills 12 --joins --replay``. Every random choice follows from the seed, which is printed;
the last line is one JSON object with the figures. Exit code 1 if anything was lost, duplicated or left stale.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from headrace.topology.stages import DOCUMENT_STAGES
from headrace_local import shared
from headrace_testing.deployment import Deployment, Place
from headrace_testing.fold import Expected, Key, distinct_texts, fold, read_store
from headrace_testing.oracle import versions
from headrace_testing.stream import (
    TENANT,
    Faults,
    dead_letters,
    metric,
    publish,
    read_changes,
    rewind_groups,
    wait_until_drained,
    wait_until_stored,
)

MODELS = {"hashing": "hashing-384", "sentence-transformers": "all-MiniLM-L6-v2"}


@dataclass(frozen=True, slots=True)
class Options:
    """The faults while the stream runs; ``timeout`` in seconds for each part."""

    state_dir: Path
    seed: int
    kills: int = 0
    joins: bool = False
    replay: bool = False
    provider: str = "hashing"
    timeout: float = 1800.0


def prove(changes: list[dict[str, Any]], arguments: Options) -> dict[str, Any]:
    """Return the figures; raises :class:`AssertionError` if the store differs from the fold."""
    every = versions(TENANT, changes)
    expected = fold(every)
    texts = distinct_texts(every)
    _say(f"seed {arguments.seed}: {len(changes)} events, {len(expected)} documents, {len(texts)} distinct texts")
    endpoints = shared.acquire(arguments.state_dir)
    name = f"proof{uuid4().hex[:8]}"
    place = Place(endpoints.kafka_bootstrap, endpoints.registry_url, endpoints.postgres_dsn, f"{name}-", name)
    logs = Path(tempfile.mkdtemp(prefix="headrace-proof-"))
    deployment = Deployment(place, logs, arguments.provider, MODELS[arguments.provider])
    try:
        deployment.bootstrap()
        deployment.start_all(*(flow.name for flow in DOCUMENT_STAGES))
        figures = _stream(deployment, changes, expected, arguments)
        figures |= {"events": len(changes), "documents": len(expected), "distinct_texts": len(texts), "logs": str(logs)}
        figures |= _counts(deployment, len(texts), arguments.kills)
        if arguments.replay:
            figures |= _replay(deployment, expected, arguments.timeout, figures["stream_s"])
        return figures
    finally:
        deployment.close()
        shared.release(arguments.state_dir)


def _stream(
    deployment: Deployment, changes: list[dict[str, Any]], expected: dict[Key, Expected], arguments: Options
) -> dict[str, Any]:
    faults = Faults(deployment, arguments.seed, arguments.kills, joins=arguments.joins)
    kafka = deployment.place.kafka_settings()
    started = time.monotonic()
    feeder = threading.Thread(target=publish, args=(kafka, changes), name="feeder")
    feeder.start()
    faults.run()
    feeder.join()
    wait_until_stored(deployment, expected, arguments.timeout, _say)
    elapsed = time.monotonic() - started
    wait_until_drained(kafka, arguments.timeout)
    return {"stream_s": round(elapsed, 1), "faults": faults.log}


def _counts(deployment: Deployment, texts: int, kills: int) -> dict[str, Any]:
    """Return what was embedded and dead-lettered; model calls count only if no embedder was killed."""
    place = deployment.place
    cached = len(read_store(place.postgres, schema=place.schema).cached)
    assert cached == texts, f"{cached} texts were embedded, {texts} are distinct"
    found: dict[str, Any] = {"embedded_texts": cached, "dead_letters": dead_letters(place.kafka_settings())}
    assert found["dead_letters"] == 0, f"{found['dead_letters']} records in the dead-letter topics"
    if not kills:
        embedder = next(service for service in deployment.services if service.name == "embedder")
        found["model_texts"] = int(metric(embedder, "headrace_texts_embedded_total"))
    return found


def _replay(deployment: Deployment, expected: dict[Key, Expected], timeout: float, first: float) -> dict[str, Any]:
    """Read every topic again from its beginning; no row may change."""
    place = deployment.place
    kafka = place.kafka_settings()
    for service in deployment.services:
        if service.process.poll() is None:
            service.drain()
    deployment.services.clear()
    before = read_store(place.postgres, schema=place.schema)
    rewind_groups(kafka)
    started = time.monotonic()
    deployment.start_all(*(flow.name for flow in DOCUMENT_STAGES))
    wait_until_drained(kafka, timeout)
    elapsed = time.monotonic() - started
    after = wait_until_stored(deployment, expected, timeout, _say)
    assert before.digest == after.digest, "the replay changed rows"
    embedder = next(service for service in deployment.services if service.name == "embedder")
    calls = int(metric(embedder, "headrace_texts_embedded_total"))
    assert calls == 0, f"the replay called the model for {calls} texts"
    return {"replay_s": round(elapsed, 1), "replay_rows_changed": 0, "replay_ratio": round(first / elapsed, 2)}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the proof from the command line."""
    parser = argparse.ArgumentParser(prog="headrace-bench proof", description=__doc__)
    parser.add_argument("changes", type=Path, help="change events as JSON lines, optionally compressed with xz")
    parser.add_argument(
        "--state-dir", type=Path, default=Path(".headrace/proof"), help="state folder of the local stack"
    )
    parser.add_argument("--limit", type=int, help="only the first N events")
    parser.add_argument("--kills", type=int, default=0, help="number of SIGKILLs over all stages")
    parser.add_argument("--joins", action="store_true", help="a second instance of each stage joins and leaves")
    parser.add_argument("--replay", action="store_true", help="read the whole log again and compare every row")
    parser.add_argument("--provider", default="hashing", choices=sorted(MODELS))
    parser.add_argument(
        "--seed", type=int, default=random.SystemRandom().randrange(2**32), help="seed of all random choices"
    )
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds for each part")
    parsed = vars(parser.parse_args(arguments))
    changes = read_changes(parsed.pop("changes"), parsed.pop("limit"))
    options = Options(**parsed)
    try:
        figures = prove(changes, options)
    except AssertionError as error:
        _say(f"seed {options.seed}: {error}")
        print(json.dumps({"name": "proof", "seed": options.seed, "ok": False, "error": str(error)}))
        return 1
    print(json.dumps({"name": "proof", "seed": options.seed, "ok": True, **figures}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
