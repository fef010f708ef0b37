"""Reading the records that wait for a person: all of ``held.<stage>`` but those with an action."""

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
    """A held record with what is known of it; its topic has no prefix."""

    entry: HeldEntry
    record: Record


Take = Callable[[FoundHeld], None]


@dataclass(slots=True)
class Reach:
    """How far a partition holds nothing that waits: every offset below ``open`` has its action."""

    start: int
    open: int


class HeldLog:
    """Every method raises :class:`headrace.errors.DependencyDown` where Kafka or the registry does not answer, and
    :class:`headrace.errors.ConfigurationError` where a topic is missing.

    A scan costs what lies in the stages' held topics, which is little: what was acted upon is deleted from their
    beginnings, and the actions.
    """

    def __init__(self, kafka: KafkaSettings, codec: Codec) -> None:
        self._scan = LogScan(kafka, codec)
        self._actions = Actions(kafka, codec, HELD_RECORDS)

    def select(self, selection: HeldSelection) -> list[HeldEntry]:
        """Return the records that wait and are meant, without their payloads, the oldest first.

        Raises :class:`NoSuchHeldRecord` for an id of which none waits.
        """
        entries: list[HeldEntry] = []
        self.read(selection, self.actions(), lambda found: entries.append(found.entry))
        missing = sorted(selection.ids - {entry.id for entry in entries})
        if missing:
            raise NoSuchHeldRecord(f"no record waits as {', '.join(map(str, missing))}")
        return sorted(entries, key=lambda entry: (entry.held_at, entry.id))

    def one(self, identity: HeldId) -> FoundHeld:
        """Return the record that waits, with its payload; raises :class:`NoSuchHeldRecord`, with what became of it."""
        found: list[FoundHeld] = []
        actions = self.actions()
        self.read(HeldSelection(ids=frozenset({identity})), actions, found.append)
        if found:
            return found[0]
        action = actions.get(str(identity))
        if action is None:
            raise NoSuchHeldRecord(f"no record waits as {identity}")
        at = action.acted_at.isoformat(timespec="seconds")
        raise NoSuchHeldRecord(f"{identity} was {action.action.lower()} by {action.acted_by} at {at}")

    def actions(self) -> dict[str, HeldAction]:
        """Return the action of each held record that had one, by id."""
        return self._actions.newest(self._scan)

    def read(self, selection: HeldSelection, actions: dict[str, HeldAction], take: Take) -> None:
        """Hand what waits and is meant to ``take``, each partition's in order; what has an action waits no longer."""

        def one(found: FoundHeld) -> None:
            if selection.holds(found.entry):
                take(found)

        self._pass(selection.stages(), actions, one)

    def reach(self, stages: Sequence[str]) -> dict[TopicPartition, Reach]:
        """Return how far each partition of these stages' held topics holds nothing that waits."""
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
    """Return the generations of the index that have lanes, by name: each can hold records; raises `DependencyDown`."""
    return LogOffsets(kafka).generations([held_topic(EMBEDDER.name)])
