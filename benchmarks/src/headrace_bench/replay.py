"""Replay beside live edits: what a replay of everything costs, and its effect on the freshness of edits.

It uses the ``hashing`` provider, because it measures delivery and not the model.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from headrace.config.settings import KafkaSettings
from headrace.topology.stages import DOCUMENT_STAGES
from headrace_bench.freshness import TENANT, api_key, edit
from headrace_bench.result import Result
from headrace_bench.stages import deployment
from headrace_operations.replay.copier import Copier
from headrace_operations.replay.plan import plan
from headrace_operations.replay.selection import Selection
from headrace_testing.data import changes
from headrace_testing.deployment import Deployment
from headrace_testing.fold import fold, read_store
from headrace_testing.oracle import versions
from headrace_testing.stream import metric, publish, wait_until_stored

WARM = 20
STAGE = "ingest"
"""The replay covers all stages: it reads the change events again."""


def run(state_dir: Path, *, documents: int = 300, edits: int = 400) -> Result:
    """Return the 99th percentile of an edit's freshness during a replay, with that without one as its baseline.

    The details say how much faster than the first run a replay of everything is, and what it wrote and embedded.
    """
    events, source = changes(documents)
    with deployment(state_dir, "hashing") as place:
        place.start_all(*(flow.name for flow in DOCUMENT_STAGES))
        gateway = place.start("gateway")
        key = asyncio.run(api_key(place.place.postgres, place.place.schema))
        first = _stream(place, events)
        alone = _alone(place)
        with httpx.Client(
            base_url=f"http://127.0.0.1:{gateway.port}", headers={"Authorization": f"Bearer {key}"}
        ) as http:
            quiet = _edits(http, events[:8], 0, WARM + edits)[WARM:]
            with _replaying(place) as replays:
                busy = _edits(http, events[:8], WARM + edits, edits)
    p50, p99 = (_percentiles(samples) for samples in (quiet, busy))
    return Result(
        "replay", p99[1], "ms (99th percentile of freshness while a replay runs)", p50[1],
        "the same edits without a replay; the goal is at most twice that",
        {"without_ms": p50, "during_ms": p99, "edits": edits, "documents": documents, "data": source,
         "replays_meanwhile": replays[0], "first_run_s": round(first, 1), **alone,
         "faster_than_first_run": round(first / alone["replay_s"], 1)},
    )  # fmt: skip


def _percentiles(samples: list[float]) -> tuple[float, float]:
    """Return median and 99th percentile, in milliseconds."""
    return round(float(np.percentile(samples, 50)), 1), round(float(np.percentile(samples, 99)), 1)


def _stream(place: Deployment, events: list[dict[str, Any]]) -> float:
    """Return the seconds of the first run."""
    started = time.monotonic()
    publish(place.place.kafka_settings(), events, TENANT)
    wait_until_stored(place, fold(versions(TENANT, events)), 600, lambda _: None)
    return time.monotonic() - started


def _alone(place: Deployment) -> dict[str, Any]:
    """Replay everything with nothing else running; raise if it wrote a row or embedded a text."""
    embedder = next(service for service in place.services if service.name == "embedder")
    before = read_store(place.place.postgres, schema=place.place.schema)
    texts = metric(embedder, "headrace_texts_embedded_total")
    started = time.monotonic()
    sent = _replay(place)
    elapsed = time.monotonic() - started
    after = read_store(place.place.postgres, schema=place.place.schema)
    embedded = int(metric(embedder, "headrace_texts_embedded_total") - texts)
    assert after == before, "the replay wrote rows"
    assert embedded == 0, f"the replay embedded {embedded} texts"
    return {"replay_s": round(elapsed, 1), "replayed_records": sent, "rows_changed": 0, "texts_embedded": 0}


def _replay(place: Deployment) -> int:
    """Replay everything and return the number of records that were sent."""
    kafka: KafkaSettings = place.place.kafka_settings()
    codec = place.place.codec()
    planned = plan(kafka, Selection(STAGE, everything=True), rate=None, asked_by="benchmark", now=datetime.now(UTC))
    copier = Copier(kafka, codec)
    copier.begin(planned.run)
    return copier.carry_out(planned.run.run_id).sent


@contextmanager
def _replaying(place: Deployment) -> Iterator[list[int]]:
    """Replay everything repeatedly; yield the number of replays that began."""
    begun = [0]
    stop = threading.Event()
    failures: list[Exception] = []

    def work() -> None:
        try:
            while not stop.is_set():
                begun[0] += 1
                _replay(place)
        except Exception as error:  # noqa: BLE001  # raised below, in the thread that waits for it
            failures.append(error)

    thread = threading.Thread(target=work, name="replay")
    thread.start()
    try:
        yield begun
    finally:
        stop.set()
        thread.join()
    if failures:
        raise failures[0]


def _edits(http: httpx.Client, events: list[dict[str, Any]], first: int, count: int) -> list[float]:
    """Return the freshness of ``count`` edits, in milliseconds."""
    return [
        edit(http, events[number % len(events)]["id"], events[number % len(events)]["content"], number)
        for number in range(first, first + count)
    ]
