"""The topics, declared in ``schemas/topics``; creation, documentation and the diagram are derived from there."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from headrace.errors import ConfigurationError
from headrace.topology.stages import STAGES

TOPIC_FOLDER = Path(__file__).parent.parent / "schemas" / "topics"
DEAD_LETTER_ACTIONS = "dead-letter-actions"
HELD_ACTIONS = "held-actions"
_UNITS_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000}
CARRIER_ALLOWANCE_BYTES = 1024 * 1024
"""Bytes by which a dead letter, a retry, a replay or a held record may exceed its record: stack trace and headers.
Their topics, and every producer and consumer of them, allow it."""
_CARRIERS = ("dead-letters.", "retry.", "replay.", "held.")


@dataclass(frozen=True, slots=True)
class Topic:
    """One declared topic; ``retention_ms`` is -1 for unlimited retention."""

    name: str
    description: str
    key: str
    partitions: int
    cleanup_policy: str
    retention_ms: int
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    schema: str | None
    """The type of its records; None if they are stored as they were read."""

    def config(self, max_message_bytes: int) -> dict[str, str]:
        """Return Kafka's topic configuration."""
        allowance = CARRIER_ALLOWANCE_BYTES if self.name.startswith(_CARRIERS) else 0
        return {
            "cleanup.policy": self.cleanup_policy,
            "retention.ms": str(self.retention_ms),
            "max.message.bytes": str(max_message_bytes + allowance),
            "compression.type": "producer",
        }


@cache
def declared() -> tuple[Topic, ...]:
    """Return the topics of ``schemas/topics`` in the order of the flow, with placeholders in their names."""
    topics = [_read(path) for path in sorted(TOPIC_FOLDER.glob("*.yaml"))]
    order = [name for flow in STAGES.values() for name in (flow.source, flow.target)]
    return tuple(sorted(topics, key=lambda topic: order.index(topic.name) if topic.name in order else len(order)))


def concrete() -> tuple[Topic, ...]:
    """Return the shared topics and those of one generation; topics by stage occur once for each stage."""
    return tuple(replace(topic, name=name) for topic in declared() for name in _expand(topic.name))


def dead_letter_topic(stage: str) -> str:
    """Return the topic of a stage's dead letters, without prefix."""
    return f"dead-letters.{stage}"


def retry_topic(stage: str) -> str:
    """Return the topic of a stage's retries, without prefix."""
    return f"retry.{stage}"


def replay_topic(stage: str) -> str:
    """Return the topic of the records that replays send through a stage again, without prefix."""
    return f"replay.{stage}"


def held_topic(stage: str) -> str:
    """Return the topic of a stage's held records, without prefix."""
    return f"held.{stage}"


def record_schemas() -> list[str]:
    """Return the names of all record types in topics, sorted."""
    return sorted({topic.schema for topic in declared() if topic.schema is not None})


def _expand(name: str) -> list[str]:
    if "{stage}" in name:
        return [name.replace("{stage}", stage) for stage in STAGES]
    return [name]


def _read(path: Path) -> Topic:
    values: dict[str, Any] = YAML(typ="safe").load(path)
    try:
        return Topic(
            name=values["topic"],
            description=values["description"],
            key=values["key"],
            partitions=int(values["partitions"]),
            cleanup_policy=values["cleanup_policy"],
            retention_ms=_milliseconds(str(values["retention"])),
            producers=tuple(values["producers"]),
            consumers=tuple(values["consumers"]),
            schema=values.get("schema"),
        )
    except (KeyError, ValueError) as error:
        raise ConfigurationError(f"missing or wrong field in topic file: {error}", where=str(path)) from error


def _milliseconds(text: str) -> int:
    if text == "unlimited":
        return -1
    match = re.fullmatch(r"(\d+)([mhd])", text)
    if match is None:
        raise ValueError(f"invalid retention {text!r}: use a number followed by m, h or d, or unlimited")
    return int(match[1]) * _UNITS_MS[match[2]]
