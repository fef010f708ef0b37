"""Open dead letters of documents: what may explain that one is missing or stale."""

from __future__ import annotations

from collections.abc import Collection

from confluent_kafka import Message as KafkaMessage

from headrace.stage import CHUNKER, EMBEDDER, INDEXER, INGEST
from headrace.topics import dead_letter_topic
from headrace_operations.audit.log_ranges import LogRanges, Partition, Range

ACTIONS = "dead-letter-actions"
_STAGES = (INGEST.name, CHUNKER.name, EMBEDDER.name, INDEXER.name)


def open_dead_letters(ranges: LogRanges, keys: Collection[bytes]) -> dict[bytes, list[str]]:
    """Return the ids (``stage/partition/offset``) of open dead letters by record key, the oldest first.

    Reads the dead letters of four stages and what became of them; raises :class:`headrace.errors.DependencyDown`.
    """
    stages = {dead_letter_topic(stage): stage for stage in _STAGES}
    closed: set[bytes] = set()
    found: dict[bytes, list[str]] = {}

    def take_action(_: Partition, message: KafkaMessage) -> None:
        key = message.key()
        if isinstance(key, bytes):
            closed.add(key)

    def take_letter(one: Partition, message: KafkaMessage) -> None:
        key, name = message.key(), f"{stages[one[0]]}/{one[1]}/{message.offset()}"
        if isinstance(key, bytes) and key in keys and name.encode() not in closed:
            found.setdefault(key, []).append(name)

    for topics, take in (((ACTIONS,), take_action), (tuple(stages), take_letter)):
        bounds = ranges.bounds(ranges.partitions(topics))
        ranges.read({one: Range(start, end) for one, (start, end) in bounds.items()}, take)
    return found
