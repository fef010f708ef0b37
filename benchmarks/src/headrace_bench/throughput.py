"""The load test: documents of 2 KB at a steady rate through all services, with the model, for many minutes.

``headrace-bench throughput --minutes 20 --per-hour 50000``. Every text is new, so the cache saves nothing. At the end,
99.9 % of the documents must be in the index, there must be no dead letter, and no service may use a tenth more memory
in the last quarter than in the second. The last line is one JSON object with the figures; the exit code is 1 if one of
these conditions fails.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Producer

from headrace.topology.stages import DOCUMENT_STAGES
from headrace_bench.stages import deployment, wait_for_model
from headrace_testing.committed import beginnings, reader
from headrace_testing.data import changes
from headrace_testing.deployment import Deployment
from headrace_testing.stream import TENANT, dead_letters

CHARACTERS = 2048
SERVICES = (*(flow.name for flow in DOCUMENT_STAGES), "generator", "gateway")
_SAMPLE_S = 10.0
"""Seconds between two samples of the services' memory, each with a line of progress."""
_COMPLETED = 0.999
_GROWTH = 1.10
_PAGE_KB = 4
_LATE_S = 60.0


@dataclass(slots=True)
class Load:
    """Sends and counts: ``sent`` and ``done`` are seconds by document, ``memory`` MiB by service and sample."""

    place: Deployment
    per_hour: int
    words: Sequence[str]
    sent: dict[str, float] = field(default_factory=dict)
    done: dict[str, float] = field(default_factory=dict)
    memory: dict[str, list[float]] = field(default_factory=dict)

    def send(self, seconds: float) -> None:
        """Write documents at the given rate for the given time."""
        kafka = self.place.place.kafka_settings()
        producer = Producer({**kafka.client(), "partitioner": "murmur2_random", "enable.idempotence": True})
        begun = time.monotonic()
        for number in range(round(self.per_hour * seconds / 3600)):
            identity = f"load/{number}"
            event = {
                "id": identity, "op": "upsert", "version": 1, "title": f"Load {number}", "content": self._text(number)
            }  # fmt: skip
            while (left := begun + number * 3600 / self.per_hour - time.monotonic()) > 0:
                producer.poll(left)
            producer.produce(kafka.topic("changes"), json.dumps(event), f"{TENANT}/{identity}")
            self.sent[identity] = time.monotonic()
        if producer.flush(60):
            raise RuntimeError("not every document was written")

    def _text(self, number: int) -> str:
        chance = random.Random(number)
        return " ".join(chance.choices(self.words, k=CHARACTERS // 4))[:CHARACTERS]

    def watch(self, over: threading.Event) -> None:
        """Record what is indexed, and the memory of the services."""
        kafka = self.place.place.kafka_settings()
        consumer = reader(kafka.bootstrap)
        topic = kafka.topic("indexed")
        partitions = consumer.list_topics(topic, 30).topics[topic].partitions
        consumer.assign(list(beginnings(topic, partitions)))
        next_sample = time.monotonic()
        while not over.is_set():
            for message in consumer.consume(500, 0.2):
                if message.error() is None:
                    self.done[(message.key() or b"").decode().partition("/")[2]] = time.monotonic()
            if time.monotonic() >= next_sample:
                next_sample += _SAMPLE_S
                print(f"{len(self.sent)} documents sent, {len(self.done)} indexed", file=sys.stderr, flush=True)
                for service in self.place.services:
                    self.memory.setdefault(service.name, []).append(_resident(service.process.pid))
        consumer.close()


def _resident(pid: int) -> float:
    """Return the resident memory of a process, in MiB; 0 if it has exited."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_KB / 1024
    except OSError:
        return 0.0


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures, including ``problems``."""
    texts = [event["content"] for event in changes(200)[0] if event.get("content")]
    words = sorted({word for text in texts for word in re.findall(r"[A-Za-z]{2,12}", text)})
    with deployment(options.state_dir, "sentence-transformers") as place:
        place.start_all(*SERVICES)
        wait_for_model(place)
        load = Load(place, options.per_hour, words)
        over = threading.Event()
        watcher = threading.Thread(target=load.watch, args=(over,), name="watch")
        watcher.start()
        begun = time.monotonic()
        try:
            load.send(options.minutes * 60)
            while len(load.done) < len(load.sent) and time.monotonic() - begun < options.minutes * 60 + _LATE_S:
                time.sleep(0.2)
        finally:
            elapsed = time.monotonic() - begun
            over.set()
            watcher.join()
        letters = dead_letters(place.place.kafka_settings())
    waits = [load.done[identity] - sent for identity, sent in load.sent.items() if identity in load.done]
    completed = len(waits) / len(load.sent)
    memory = {name: _quarters(samples) for name, samples in load.memory.items()}
    problems = [f"{completed:.4%} of the documents are in the index"] if completed < _COMPLETED else []
    problems += [f"{letters} records and markers in the dead-letter topics"] if letters else []
    problems += [
        f"{name} grew from {early:.0f} to {late:.0f} MiB"
        for name, (early, late) in memory.items()
        if late > early * _GROWTH
    ]
    return {
        "documents": len(load.sent), "per_hour": round(len(waits) / elapsed * 3600), "completed": round(completed, 5),
        "minutes": round(elapsed / 60, 1), "wait_p50_s": round(float(np.percentile(waits, 50)), 2),
        "wait_p99_s": round(float(np.percentile(waits, 99)), 2),
        "memory_mib": {name: [round(one) for one in pair] for name, pair in memory.items()}, "problems": problems,
    }  # fmt: skip


def _quarters(samples: Sequence[float]) -> tuple[float, float]:
    """Return the means of the second and of the last quarter."""
    size = max(1, len(samples) // 4)
    return float(np.mean(samples[size : 2 * size] or samples)), float(np.mean(samples[-size:]))


def main(arguments: list[str] | None = None) -> int:
    """Run the load from the command line."""
    parser = argparse.ArgumentParser(prog="headrace-bench throughput", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0, help="how long documents are sent")
    parser.add_argument("--per-hour", type=int, default=50_000, help="documents of 2 KB an hour")
    parser.add_argument(
        "--state-dir", type=Path, default=Path(".headrace/bench"), help="state folder of the local stack"
    )
    options = parser.parse_args(arguments)
    figures = run(options)
    print(json.dumps({"name": "throughput", "ok": not figures["problems"], **figures}), flush=True)
    return 1 if figures["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
