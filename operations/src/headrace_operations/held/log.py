"""Reads held records: all records of ``held.<stage>`` without an action."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headrace.codec.codec import Codec
from headrace.config.settings import KafkaSettings
from headrace.kafka.broker_contract import Record, TopicPartition
from headrace.kafka.offsets import LogOffsets
from headrace.payloads import HeldAction
from headrace.topology.stages import EMBEDDER
from headrace.topology.topics import held_topic
from headrace_operations.actions import Actions
from headrace_operations.held.model import HELD_RECORDS, HeldEntry, HeldId, HeldSelection, NoSuchHeldRecord, entry_of
from headrace_operations.log_scan import LogScan


@dataclass(frozen=True, slots=True)
class FoundHeld:
    """A held record and its entry; the record's topic has no prefix."""

    entry: HeldEntry
    record: Record


Take = Callable[[FoundHeld], None]


@dataclass(slots=True)
class Reach:
    """The start of a partition without held records: every record below the offset ``open`` has an action."""

    start: int
    open: int


class HeldLog:
    """Reads held records.

    Every method raises :class:`headrace.errors.DependencyDown` if Kafka or the schema registry does not answer, and
    :class:`headrace.errors.ConfigurationError` if a topic is missing.

    A scan reads the stages' held topics and the actions. The held topics are short, because records with an action are
    deleted from their beginning.
    """

    def __init__(self, kafka: KafkaSettings, codec: Codec) -> None:
        self._scan = LogScan(kafka, codec)
        self._actions = Actions(kafka, codec, HELD_RECORDS)

    def select(self, selection: HeldSelection) -> list[HeldEntry]:
        """Return the selected held records without their payloads, oldest first.

        Raises :class:`NoSuchHeldRecord` for an ID that is not held.
        """
        entries: list[HeldEntry] = []
        self.read(selection, self.actions(), lambda found: entries.append(found.entry))
        missing = sorted(selection.ids - {entry.id for entry in entries})
        if missing:
            raise NoSuchHeldRecord(f"no held record with ID {', '.join(map(str, missing))}")
        return sorted(entries, key=lambda entry: (entry.held_at, entry.id))

    def one(self, identity: HeldId) -> FoundHeld:
        """Return the held record with its payload; raises :class:`NoSuchHeldRecord`, which names its action if any."""
        found: list[FoundHeld] = []
        actions = self.actions()
        self.read(HeldSelection(ids=frozenset({identity})), actions, found.append)
        if found:
            return found[0]
        action = actions.get(str(identity))
        if action is None:
            raise NoSuchHeldRecord(f"no held record with ID {identity}")
        at = action.acted_at.isoformat(timespec="seconds")
        raise NoSuchHeldRecord(f"{identity} was {action.action.lower()} by {action.acted_by} at {at}")

    def actions(self) -> dict[str, HeldAction]:
        """Return the action of each record that has one, by ID."""
        return self._actions.newest(self._scan)

    def read(self, selection: HeldSelection, actions: dict[str, HeldAction], take: Take) -> None:
        """Pass the selected held records to ``take``, each partition in order; skip records with an action."""

        def one(found: FoundHeld) -> None:
            if selection.holds(found.entry):
                take(found)

        self._pass(selection.stages(), actions, one)

    def reach(self, stages: Sequence[str]) -> dict[TopicPartition, Reach]:
        """Return, for each partition of these stages' held topics, where its held records begin."""
        return self._pass(stages, self.actions(), lambda _: None)

    def _pass(self, stages: Sequence[str], actions: dict[str, HeldAction], take: Take) -> dict[TopicPartition, Reach]:
        bounds = self._scan.bounds([held_topic(stage) for stage in stages])
        reach = {place: Reach(span.start, span.end) for place, span in bounds.items()}

        def one(record: Record) -> None:
            entry = entry_of(record)
            if str(entry.id) not in actions:
                own = reach[record.place]
                own.open = min(own.open, record.offset)
                take(FoundHeld(entry, record))

        self._scan.read(bounds, one)
        return reach


def generations(kafka: KafkaSettings) -> list[str]:
    """Return the names of the generations that have lanes and can hold records; raises :class:`DependencyDown`."""
    return LogOffsets(kafka).generations([held_topic(EMBEDDER.name)])
