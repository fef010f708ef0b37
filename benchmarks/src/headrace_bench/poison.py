"""One unprocessable record in 100,000: its cost, and the result after it is repaired and redriven.

The figure is ingest's throughput over a full log, with and without the poison, in alternating rounds. Then the whole
stream runs, the poison is redriven, and the store must equal that of a stream without it.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from headrace.handlers.pipelines_log import apply
from headrace.topology.stages import DOCUMENT_STAGES
from headrace_bench.outage import small_documents
from headrace_bench.result import Result
from headrace_bench.stages import deployment
from headrace_operations.actions import ActionRequest
from headrace_operations.dead_letters.act import REDRIVEN, Actor, plan
from headrace_operations.dead_letters.log import DeadLetterLog
from headrace_operations.dead_letters.model import Selection
from headrace_testing.deployment import Deployment
from headrace_testing.fold import fold
from headrace_testing.oracle import versions
from headrace_testing.stream import TENANT, metric, publish, wait_until_stored
from headrace_testing.user_package import stream

ROUNDS = 3


def run(state_dir: Path, *, records: int = 100_000) -> Result:
    """Return records per second with one poison, with those without as its baseline; raise if the stores differ."""
    events = small_documents("n", records)
    clean, poisoned = [], []
    poison = {**events[records // 2], "pipeline": "repaired"}  # which was never applied
    bad = [*events[: records // 2], poison, *events[records // 2 + 1 :]]
    for number in range(ROUNDS):
        with deployment(state_dir, "hashing") as place:
            clean.append(_rate(place, events))
        with deployment(state_dir, "hashing") as place:
            poisoned.append(_rate(place, bad))
            redriven = _repaired(place, bad, poison) if number == ROUNDS - 1 else 0.0
    # The two runs of a round follow each other, so the machine's drift affects both and hardly changes their ratio.
    with_it, without = sorted(zip(poisoned, clean, strict=True), key=lambda pair: pair[0] / pair[1])[ROUNDS // 2]
    return Result(
        "poison", with_it, "records/s of ingest with one poison", without, "the same without it",
        {"records": records, "rounds": ROUNDS, "clean": clean, "poisoned": poisoned, "dead_letters": 1,
         "stored_after_redrive_s": round(redriven, 2), "store_equals_the_fold": True},
        goal=0.98,
    )  # fmt: skip


def _rate(place: Deployment, events: list[dict[str, Any]]) -> float:
    """Return ingest's records per second between the first and the last twentieth."""
    publish(place.place.kafka_settings(), events)
    ingest = place.start("ingest")
    deadline = time.monotonic() + 600
    marks: list[tuple[float, float]] = []
    while not marks or marks[-1][1] < 0.95 * len(events):
        assert time.monotonic() < deadline, "ingest is behind"
        marks.append((time.perf_counter(), metric(ingest, "headrace_records_done_total")))
        time.sleep(0.02)
    first = next(mark for mark in marks if mark[1] >= 0.05 * len(events))
    return (marks[-1][1] - first[1]) / (marks[-1][0] - first[0])


def _repaired(place: Deployment, events: list[dict[str, Any]], poison: dict[str, Any]) -> float:
    """Run the rest of the stream, repair and redrive; return the seconds until the poison is stored."""
    kafka, codec = place.place.kafka_settings(), place.place.codec()
    place.start_all(*(flow.name for flow in DOCUMENT_STAGES[1:]))
    everything = versions(TENANT, events)
    others = [version for version in everything if version[0][1] != poison["id"]]
    wait_until_stored(place, fold(others), 900, lambda _: None)
    chosen = DeadLetterLog(kafka, codec).select(Selection())
    assert [entry.document_id for entry in chosen] == [poison["id"]]
    apply(kafka, codec, stream("repaired"), applied_by="benchmark")
    request = ActionRequest(REDRIVEN, "b", "benchmark")
    started = time.monotonic()
    assert len(Actor(kafka, codec).carry_out(plan(chosen, request, named=False).taken, request)) == 1
    wait_until_stored(place, fold(everything), 60, lambda _: None)
    return time.monotonic() - started
