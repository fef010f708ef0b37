"""Finds open dead letters and held records by key."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from headrace.kafka.broker_contract import Record
from headrace.kafka.ranges import LogReader
from headrace.topology.generation_names import own_id
from headrace.topology.stages import CHUNKER, EMBEDDER, INDEXER, INGEST
from headrace.topology.topics import DEAD_LETTER_ACTIONS, HELD_ACTIONS, dead_letter_topic, held_topic

_AFTER_THE_LOG = (CHUNKER.name, EMBEDDER.name, INDEXER.name)


def open_dead_letters(ranges: LogReader, keys: Collection[bytes]) -> dict[bytes, list[str]]:
    """Return the IDs (``stage/partition/offset``) of open dead letters by record key, oldest first.

    Reads the dead letters of four stages and their actions; raises :class:`headrace.errors.DependencyDown`.
    """
    stages = {dead_letter_topic(stage): stage for stage in (INGEST.name, *_AFTER_THE_LOG)}
    return _without_action(ranges, DEAD_LETTER_ACTIONS, stages, keys)


def held_records(ranges: LogReader, keys: Collection[bytes]) -> dict[bytes, list[str]]:
    """Return the IDs of records that are held by a pause or for a review, by record key, oldest first.

    Raises :class:`headrace.errors.DependencyDown`.
    """
    stages = {held_topic(stage): stage for stage in _AFTER_THE_LOG}
    return _without_action(ranges, HELD_ACTIONS, stages, keys)


def _without_action(
    ranges: LogReader, actions: str, stages: dict[str, str], keys: Collection[bytes]
) -> dict[bytes, list[str]]:
    """Read the actions first, so that a record with an action in the meantime still counts as open."""
    closed: set[str | None] = set()
    found: dict[bytes, list[str]] = {}

    def take_action(record: Record) -> None:
        if record.key is not None:
            closed.add(own_id(record.key, ranges.generation))

    def take_record(record: Record) -> None:
        name = f"{stages[record.topic]}/{record.partition}/{record.offset}"
        if record.key is not None and record.key in keys and name not in closed:
            found.setdefault(record.key, []).append(name)

    _read_all(ranges, (actions,), take_action)
    _read_all(ranges, stages, take_record)
    return found


def _read_all(ranges: LogReader, topics: Iterable[str], take: Callable[[Record], None]) -> None:
    ranges.read(ranges.bounds(ranges.partitions(topics), open_too=True), take)
