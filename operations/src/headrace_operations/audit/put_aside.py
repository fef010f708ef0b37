"""Records that are put aside until somebody acts on them: dead letters, and what is held for a person's decision."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from confluent_kafka import Message as KafkaMessage

from headrace.topology.generation_names import own_id
from headrace.topology.stages import CHUNKER, EMBEDDER, INDEXER, INGEST
from headrace.topology.topics import dead_letter_topic, held_topic
from headrace_operations.audit.log_ranges import LogRanges, Partition, Range
from headrace_operations.dead_letters.model import ACTIONS as DEAD_LETTER_ACTIONS
from headrace_operations.held.model import ACTIONS as HELD_ACTIONS

_AFTER_THE_LOG = (CHUNKER.name, EMBEDDER.name, INDEXER.name)


def open_dead_letters(ranges: LogRanges, keys: Collection[bytes]) -> dict[bytes, list[str]]:
    """Return the ids (``stage/partition/offset``) of open dead letters by record key, the oldest first.

    Reads the dead letters of four stages and what became of them; raises :class:`headrace.errors.DependencyDown`.
    """
    stages = {dead_letter_topic(stage): stage for stage in (INGEST.name, *_AFTER_THE_LOG)}
    return _without_action(ranges, DEAD_LETTER_ACTIONS, stages, keys)


def held_records(ranges: LogRanges, keys: Collection[bytes]) -> dict[bytes, list[str]]:
    """Return the ids of held records that wait for a pause's end or a review, by record key, the oldest first.

    Raises :class:`headrace.errors.DependencyDown`.
    """
    stages = {held_topic(stage): stage for stage in _AFTER_THE_LOG}
    return _without_action(ranges, HELD_ACTIONS, stages, keys)


def _without_action(
    ranges: LogRanges, actions: str, stages: dict[str, str], keys: Collection[bytes]
) -> dict[bytes, list[str]]:
    """The actions are read first: a record that is acted on meanwhile still counts as put aside."""
    closed: set[str | None] = set()
    found: dict[bytes, list[str]] = {}

    def take_action(_: Partition, message: KafkaMessage) -> None:
        key = message.key()
        if isinstance(key, bytes):
            closed.add(own_id(key, ranges.generation))

    def take_record(one: Partition, message: KafkaMessage) -> None:
        key, name = message.key(), f"{stages[one[0]]}/{one[1]}/{message.offset()}"
        if isinstance(key, bytes) and key in keys and name not in closed:
            found.setdefault(key, []).append(name)

    _read_all(ranges, (actions,), take_action)
    _read_all(ranges, stages, take_record)
    return found


def _read_all(ranges: LogRanges, topics: Iterable[str], take: Callable[[Partition, KafkaMessage], None]) -> None:
    bounds = ranges.bounds(ranges.partitions(topics))
    ranges.read({one: Range(start, end) for one, (start, end) in bounds.items()}, take)
