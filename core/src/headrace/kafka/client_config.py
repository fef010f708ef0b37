"""The configuration of every client that reads the log outside a consumer group's membership."""

from __future__ import annotations

from typing import Any, Literal

from confluent_kafka.admin import AdminClient

from headrace.config.settings import KafkaSettings

_SLACK_BYTES = 1024 * 1024
"""Dead letters, retries and replays may exceed the largest record by this."""
_QUEUED_KBYTES = 16 * 1024
Lost = Literal["earliest", "error"]
"""What to do when records age out before they are read: continue with the oldest that are left, or fail."""


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
        "fetch.message.max.bytes": kafka.max_message_bytes + _SLACK_BYTES,
        "queued.max.messages.kbytes": _QUEUED_KBYTES,
        "log_level": 0,
    }


def admin_client(kafka: KafkaSettings) -> AdminClient:
    """Return a client that asks for metadata, offsets and groups."""
    return AdminClient({**kafka.client(), "log_level": 0})
