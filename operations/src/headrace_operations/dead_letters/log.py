"""Reads dead letters and their actions, up to the end offsets at the start, without joining a group."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from headrace.codec.codec import Codec
from headrace.config.settings import KafkaSettings
from headrace.errors import UndecodableRecord
from headrace.kafka.broker_contract import Record, TopicPartition
from headrace.kafka.offsets import Range
from headrace.payloads import DeadLetter, DeadLetterAction
from headrace.topology.topics import dead_letter_topic
from headrace_operations.actions import Actions
from headrace_operations.dead_letters import messages
from headrace_operations.dead_letters.model import (
    ANY_STATE,
    DEAD_LETTERS,
    Entry,
    Id,
    NoSuchDeadLetter,
    Selection,
    parse_place,
)
from headrace_operations.log_scan import LogScan

_LONGEST_CHAIN = 100


@dataclass(frozen=True, slots=True)
class Found:
    """A dead letter with the record that carries it; ``letter`` is None if it does not decode."""

    entry: Entry
    letter: DeadLetter | None
    record: Record


Take = Callable[[Found], None]


class DeadLetterLog:
    """Reads dead letters; every method raises :class:`headrace.errors.DependencyDown` if a system does not answer.

    A scan reads all dead letters of the selected stages and times; the other filters do not reduce its cost.
    """

    def __init__(self, kafka: KafkaSettings, codec: Codec) -> None:
        self._codec = codec
        self._scan = LogScan(kafka, codec)
        self._actions = Actions(kafka, codec, DEAD_LETTERS)

    def select(self, selection: Selection) -> list[Entry]:
        """Return the selected dead letters without their payloads, oldest first.

        Raises :class:`NoSuchDeadLetter` for an unknown ID, and :class:`ConfigurationError` if a topic is missing.
        """
        entries: list[Entry] = []
        self.read(selection, lambda found: entries.append(found.entry))
        return sorted(entries, key=lambda entry: (entry.failed_at, entry.id))

    def read(self, selection: Selection, take: Take) -> None:
        """Pass the selected dead letters to ``take``, each partition in order; raises what :meth:`select` does."""
        ranges = self._narrowed(selection)
        actions = self.actions()
        seen: set[Id] = set()

        def one(record: Record) -> None:
            found = self._found(record, actions)
            seen.add(found.entry.id)
            if selection.holds(found.entry):
                take(found)

        self._scan.read(ranges, one)
        missing = sorted(selection.ids - seen)
        if missing:
            raise NoSuchDeadLetter(f"no dead letter with ID {', '.join(map(str, missing))}")

    def actions(self) -> dict[str, DeadLetterAction]:
        """Return the newest action of each dead letter that has one, by ID."""
        return self._actions.newest(self._scan)

    def show(self, identity: Id) -> list[Found]:
        """Return the dead letter, followed by the earlier dead letters of the same record, newest first.

        The record's header names the earlier dead letter; the chain ends if that dead letter does not confirm it.
        Raises :class:`NoSuchDeadLetter`.
        """
        chain = [self._one(identity)]
        while len(chain) < _LONGEST_CHAIN:
            last = chain[-1]
            earlier_id = parse_place(last.entry.redrive_of or "")
            if earlier_id is None or last.letter is None or earlier_id in {found.entry.id for found in chain}:
                break
            try:
                earlier = self._one(earlier_id)
            except NoSuchDeadLetter:
                break  # its retention is over
            if earlier.letter is None or not messages.follows(earlier.letter, earlier.entry.action, last.letter):
                break
            chain.append(earlier)
        return chain

    def _one(self, identity: Id) -> Found:
        found: list[Found] = []
        self.read(Selection(ids=frozenset({identity}), states=ANY_STATE), found.append)
        return found[0]

    def _found(self, record: Record, actions: dict[str, DeadLetterAction]) -> Found:
        identity = Id(record.topic.removeprefix(dead_letter_topic("")), record.partition, record.offset)
        action = actions.get(str(identity))
        try:
            letter: DeadLetter = self._codec.decode_plain(record.value, DeadLetter)
        except UndecodableRecord as error:
            return Found(messages.undecodable(identity, error.message, record, action), None, record)
        return Found(messages.entry(identity, letter, record, action), letter, record)

    def _narrowed(self, selection: Selection) -> dict[TopicPartition, Range]:
        """Return the ranges to read; raises :class:`NoSuchDeadLetter` for an ID outside them."""
        bounds = self._scan.bounds([dead_letter_topic(stage) for stage in selection.stages()])
        if selection.since is not None:
            # A dead letter is written after its record failed, by the same clock.
            bounds = self._scan.since(bounds, int(selection.since.timestamp() * 1000))
        return _around(bounds, selection.ids) if selection.ids else bounds


def _around(bounds: dict[TopicPartition, Range], ids: Collection[Id]) -> dict[TopicPartition, Range]:
    """Return the ranges from the first to the last ID of each partition; raises :class:`NoSuchDeadLetter`."""
    found: dict[TopicPartition, Range] = {}
    for one in sorted(ids):
        place = TopicPartition(dead_letter_topic(one.stage), one.partition)
        span = bounds.get(place)
        if span is None:
            count = sum(topic == place[0] for topic, _ in bounds)
            raise NoSuchDeadLetter(f"no dead letter with ID {one}: its topic has partitions 0 to {count - 1}")
        if not span.start <= one.offset < span.end:
            held = f"has offsets {span.start} to {span.end - 1}" if span.end > span.start else "is empty"
            raise NoSuchDeadLetter(f"no dead letter with ID {one}: its partition {held}")
        before = found.get(place, Range(one.offset, one.offset))
        found[place] = Range(before.start, one.offset + 1)
    return found
