"""Rebalances: the longest time without progress of a stage when a worker joins, leaves, restarts or dies."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition

from headrace.config.settings import KafkaSettings
from headrace.topology.stages import CHUNKER, INGEST
from headrace_bench.result import Result
from headrace_bench.stages import deployment
from headrace_testing.deployment import Deployment

TENANT = "rebalance"
RATE = 200
CALM_S = 5.0
SESSION_MS = 6000
Happening = tuple[str, Callable[[], None]]


def run(state_dir: Path) -> Result:
    """Return the longest gap in milliseconds in the chunker's output when a worker joins; details have the rest.

    The baseline is the longest gap while nothing happens. Changes arrive at a steady rate in all partitions.
    """
    dynamic = _measure(state_dir, static=False)
    static = _measure(state_dir, static=True)
    return Result(
        "rebalance", dynamic["join"], "ms without progress at a join", dynamic["calm"],
        "the longest gap while nothing happens",
        {"records_per_second": RATE, "session_timeout_ms": SESSION_MS, "dynamic_ms": dynamic, "static_ms": static},
    )  # fmt: skip


def _measure(state_dir: Path, *, static: bool) -> dict[str, float]:
    env = {"HEADRACE_WORKER_STATIC_MEMBERSHIP": str(static).lower()}
    with deployment(state_dir, "hashing") as place:
        place.start("ingest")
        place.start("chunker", env=env)
        stop = threading.Event()
        feeder = threading.Thread(target=_feed, args=(place.place.kafka_settings(), stop), daemon=True)
        feeder.start()
        try:
            time.sleep(CALM_S)
            windows = [(name, *_window(act)) for name, act in _happenings(place, env)]
        finally:
            stop.set()
            feeder.join()
        times = _output_times(place.place.kafka_settings())
    return {name: _longest_gap(times, start, end) for name, start, end in windows}


def _happenings(place: Deployment, env: dict[str, str]) -> list[Happening]:
    def drain(slot: str) -> None:
        found = next(s for s in place.services if s.name == "chunker" and s.slot == slot)
        found.drain()
        place.services.remove(found)

    def join() -> None:
        place.start("chunker", "1", env=env)

    def kill_and_restart() -> None:
        found = next(s for s in place.services if s.name == "chunker" and s.slot == "0")
        found.kill()
        place.services.remove(found)
        place.start("chunker", env=env)

    def restart() -> None:
        drain("1")
        place.start("chunker", "1", env=env)

    return [
        ("calm", lambda: None),
        ("join", join),
        ("restart", restart),
        ("kill", kill_and_restart),
        ("leave", lambda: drain("1")),
    ]


def _window(act: Callable[[], None]) -> tuple[float, float]:
    """Run the action and return the start and end of its effect in milliseconds since 1970."""
    start = time.time() * 1000
    act()
    time.sleep(CALM_S + SESSION_MS / 1000)
    return start, time.time() * 1000


def _feed(kafka: KafkaSettings, stop: threading.Event) -> None:
    producer = Producer({**kafka.client(), "partitioner": "murmur2_random"})
    number = 0
    while not stop.is_set():
        change = {"id": f"d{number % 64}", "op": "upsert", "version": number, "title": "t", "content": f"text {number}"}
        producer.produce(kafka.topic(INGEST.source), json.dumps(change), f"{TENANT}/{change['id']}")
        producer.poll(0)
        number += 1
        stop.wait(1 / RATE)
    producer.flush(30)


def _output_times(kafka: KafkaSettings) -> dict[int, list[int]]:
    """Return the times at which records were written to the chunker's topic, by partition, in milliseconds."""
    topic = kafka.topic(CHUNKER.target)
    consumer = Consumer({**kafka.client(), "group.id": "bench-rebalance", "isolation.level": "read_committed"})
    times: dict[int, list[int]] = {}
    try:
        places = [
            TopicPartition(topic, number, 0) for number in consumer.list_topics(topic, 10).topics[topic].partitions
        ]
        consumer.assign(places)
        while (message := consumer.poll(3.0)) is not None:
            times.setdefault(message.partition() or 0, []).append(message.timestamp()[1])
    finally:
        consumer.close()
    return times


def _longest_gap(times: dict[int, list[int]], start: float, end: float) -> float:
    """Return the longest time between two records of one partition, over all partitions."""
    gaps = [0.0]
    for written in times.values():
        inside = [start, *(at for at in written if start <= at <= end), end]
        gaps += [after - before for before, after in pairwise(inside)]
    return round(max(gaps), 1)
