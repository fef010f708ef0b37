"""A provider that is down for minutes: what that costs, and how the embedder catches up afterwards.

First the embedder works off a lag. Then the provider's port is closed for some seconds while events keep arriving; then
it opens again. The figure is the batch size afterwards; the baseline is the batch size before.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any, NamedTuple

from headrace_bench.result import Result
from headrace_bench.stages import deployment
from headrace_testing.deployment import Deployment, Service
from headrace_testing.fold import Expected, Key, fold
from headrace_testing.http_servers import serving
from headrace_testing.model_server import ModelServer, settings
from headrace_testing.oracle import versions
from headrace_testing.stream import TENANT, dead_letters, lag, metric, publish, wait_until_stored

SLICES = 60


class Worked(NamedTuple):
    """A lag that was worked off: mean records per batch, and records per second."""

    batch: float
    rate: float


def run(state_dir: Path, *, seconds: float = 300.0, documents: int = 3000) -> Result:
    """Return the mean batch size after the outage, with that before as its baseline; raise if anything is lost."""
    chance = random.Random(documents)
    before, meanwhile = small_documents("before", documents), small_documents("meanwhile", documents)
    with deployment(state_dir, "hashing") as place:
        kafka = place.place.kafka_settings()
        place.start_all("ingest", "chunker", "indexer")
        publish(kafka, before)
        wait_for_backlog(place, documents)
        with serving(ModelServer(chance)) as server:
            port = server.server_port
            started = time.monotonic()
            embedder = place.start("embedder", env=settings(port, place.model))
            first = _worked_off(place, embedder, fold(versions(TENANT, before)), documents, started, Worked(0, 0))
        began = time.monotonic()
        for number in range(SLICES):
            publish(kafka, meanwhile[number::SLICES])
            time.sleep(max(0.0, began + (number + 1) * seconds / SLICES - time.monotonic()))
        waiting, letters = lag(kafka)["embedder"], dead_letters(kafka)
        assert embedder.process.poll() is None, "the embedder exited because its provider was down"
        assert letters == 0, f"{letters} dead letters after {seconds:.0f} s without the provider"
        with serving(ModelServer(chance, port)):
            back = time.monotonic()
            expected = fold(versions(TENANT, [*before, *meanwhile]))
            _wait_for_first(embedder, documents)
            noticed = time.monotonic() - back
            second = _worked_off(place, embedder, expected, documents, back + noticed, first)
        assert dead_letters(kafka) == 0
    return Result(
        "outage", second.batch, "records in a batch after the outage", first.batch, "a batch before it",
        {"outage_s": seconds, "documents": documents, "waiting_at_its_end": waiting, "dead_letters": 0, "lost": 0,
         "went_on_after_s": round(noticed, 1), "records_s": round(second.rate), "records_s_before": round(first.rate)},
        goal=1.0,
    )  # fmt: skip


def small_documents(name: str, count: int) -> list[dict[str, Any]]:
    """Return ``count`` different change events with one short chunk each."""
    return [
        {"op": "upsert", "id": f"{name}/{number}", "version": 1, "title": f"{name} {number}", "source": "bench",
         "content": f"Document {number} of {name} says what none of the others says: {number * 7919}."}
        for number in range(count)
    ]  # fmt: skip


def wait_for_backlog(place: Deployment, records: int) -> None:
    """Wait until the embedder's lag reaches the given number of records."""
    deadline = time.monotonic() + 120
    while lag(place.place.kafka_settings())["embedder"] < records:
        assert time.monotonic() < deadline, "the chunker does not keep up"
        time.sleep(0.2)


def _wait_for_first(embedder: Service, done: int) -> None:
    deadline = time.monotonic() + 120
    while metric(embedder, "headrace_records_done_total") <= done:
        assert time.monotonic() < deadline, "the embedder does not continue"
        time.sleep(0.05)


def _worked_off(
    place: Deployment, embedder: Service, expected: dict[Key, Expected], records: int, started: float, before: Worked
) -> Worked:
    """Wait until everything is stored; return batch size and rate for the records that came since ``before``."""
    total = records if before.batch == 0 else 2 * records
    deadline = started + 300
    while metric(embedder, "headrace_records_done_total") < total:
        assert time.monotonic() < deadline, "the embedder is behind"
        time.sleep(0.05)
    elapsed = time.monotonic() - started
    wait_until_stored(place, expected, 120, lambda _: None)
    batches = metric(embedder, "headrace_batch_records_count")
    earlier = records / before.batch if before.batch else 0.0
    return Worked(records / (batches - earlier), records / elapsed)
