"""The settings of a stage's Kafka client; why each one: ``docs/adr/0001-kafka-client.md``."""

from __future__ import annotations

import logging
from typing import Any

from headrace.config.settings import KafkaSettings, WorkerSettings


def consumer_config(kafka: KafkaSettings, worker: WorkerSettings, group: str, client: str) -> dict[str, Any]:
    """Return the settings of a stage's consumer."""
    return {
        **kafka.client(),
        **({"group.instance.id": client} if worker.static_membership else {}),
        "client.id": client,
        "group.id": group,
        "group.protocol": "classic",
        "partition.assignment.strategy": "cooperative-sticky",
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "session.timeout.ms": worker.session_timeout_ms,
        "heartbeat.interval.ms": min(500, worker.session_timeout_ms // 3),  # how fast a rebalance is heard of
        "max.poll.interval.ms": 300_000,
        "fetch.wait.max.ms": 500,
        "fetch.error.backoff.ms": 50,
        "fetch.message.max.bytes": kafka.max_message_bytes,
        "queued.max.messages.kbytes": 16 * 1024,
        "statistics.interval.ms": 0,
    }


def producer_config(kafka: KafkaSettings, worker: WorkerSettings, transactional_id: str) -> dict[str, Any]:
    """Return the settings of a stage's producer."""
    return {
        **kafka.client(),
        "client.id": transactional_id,
        "transactional.id": transactional_id,
        "transaction.timeout.ms": worker.transaction_timeout_ms,
        "partitioner": "murmur2_random",
        "compression.type": "zstd",
        "linger.ms": 1,
        "message.max.bytes": kafka.max_message_bytes + 1024 * 1024,
        "queue.buffering.max.kbytes": 256 * 1024,
    }


def library_log() -> logging.Logger:
    """Return the logger that librdkafka's own messages go to."""
    return logging.getLogger("headrace.librdkafka")
