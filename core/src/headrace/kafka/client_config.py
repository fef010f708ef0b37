"""The configuration of all Kafka clients: stages (reasons in ``docs/adr/0001-kafka-client.md``) and readers."""

from __future__ import annotations

import logging
from typing import Any, Literal

from headrace.config.settings import KafkaSettings, WorkerSettings
from headrace.topology.topics import CARRIER_ALLOWANCE_BYTES

_QUEUED_KBYTES = 16 * 1024
"""Fetched records that a consumer keeps in memory, in KiB."""
Lost = Literal["earliest", "error"]
"""What to do when records age out before they are read: continue with the oldest that are left, or fail."""
Isolation = Literal["read_committed", "read_uncommitted"]


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
        "heartbeat.interval.ms": min(500, worker.session_timeout_ms // 3),  # how fast the worker learns of a rebalance
        "max.poll.interval.ms": 300_000,
        "fetch.wait.max.ms": 500,
        "fetch.error.backoff.ms": 50,
        "fetch.message.max.bytes": kafka.max_message_bytes,
        "queued.max.messages.kbytes": _QUEUED_KBYTES,
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
        "message.max.bytes": kafka.max_message_bytes + CARRIER_ALLOWANCE_BYTES,
        "queue.buffering.max.kbytes": 256 * 1024,
    }


def reader_config(kafka: KafkaSettings, role: str, *, wait_ms: int, lost: Lost = "earliest") -> dict[str, Any]:
    """Return the configuration of a consumer that is assigned partitions by hand.

    It joins no group and commits nothing, and returns committed records only. The client still asks for its group's
    coordinator, so the group begins with the topic prefix, as ACLs expect. ``role`` names the reader (``lag``,
    ``trace``); ``wait_ms`` is how long the broker holds a fetch that finds nothing, which is also how late the end of
    a partition is reported. Memory is bounded by 16 MiB of fetched records, or one record if it is larger.
    """
    name = f"{kafka.topic_prefix}headrace-{role}"
    return {
        **kafka.client(),
        "client.id": name,
        "group.id": name,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
        "auto.offset.reset": lost,
        "fetch.wait.max.ms": wait_ms,
        "fetch.message.max.bytes": kafka.max_message_bytes + CARRIER_ALLOWANCE_BYTES,
        "queued.max.messages.kbytes": _QUEUED_KBYTES,
        "log_level": 0,
    }


def asker_config(kafka: KafkaSettings, group: str, isolation: Isolation) -> dict[str, Any]:
    """Return the configuration of a consumer that only asks for offsets: it reads nothing and joins no group.

    ``isolation`` decides what the end of a partition is, and whether a group's offsets wait for open transactions.
    """
    return {
        **kafka.client(),
        "client.id": f"{kafka.topic_prefix}headrace-offsets",
        "group.id": group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "isolation.level": isolation,
        "log_level": 0,
    }


def library_log() -> logging.Logger:
    """Return the logger for librdkafka's own messages."""
    return logging.getLogger("headrace.librdkafka")
