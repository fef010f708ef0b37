"""Lists the content of the object store, and deletes objects that no record refers to any more (ADR 18)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path

from headrace.codec.codec import ENVELOPES
from headrace.config.settings import KafkaSettings
from headrace.errors import ConfigurationError
from headrace.kafka.broker_contract import Record, TopicPartition
from headrace.kafka.offsets import Range
from headrace.kafka.ranges import LogReader
from headrace.objects.places import named_in, parse
from headrace.objects.store import ObjectStore
from headrace.topology import generation_names, topics

LEAST_GRACE = timedelta(hours=24)
"""Longer than the time between a batch's first object and its commit.

A batch is computed in portions, and each is stored when it is done; with a slow model this can take hours. Add the
transaction (15 minutes at most, a limit of the brokers) and the difference between clocks.
"""
_AT_ONCE = 500
_ROLE = "objects"
Progress = Callable[[int], None]
"""Called with the number of records read, or objects deleted, since the last call."""


@dataclass(slots=True)
class Amount:
    """A number of objects, and their size in bytes."""

    objects: int = 0
    bytes: int = 0

    def add(self, size: int) -> None:
        """Count one more."""
        self.objects += 1
        self.bytes += size


@dataclass(slots=True)
class Holding:
    """The content of a tenant's folder, and the days (UTC) of its oldest and newest object."""

    folder: str
    held: Amount
    oldest: date
    newest: date


@dataclass(slots=True)
class Garbage:
    """The result of a scan: ``keys`` are objects without a reference, with their bytes; ``young`` ones are kept.

    ``unfinished`` are incomplete files of killed processes, with their bytes.
    """

    held: Amount = field(default_factory=Amount)
    young: Amount = field(default_factory=Amount)
    keys: dict[str, int] = field(default_factory=dict)
    unfinished: dict[Path, int] = field(default_factory=dict)
    records: int = 0

    @property
    def found(self) -> Amount:
        """The amount of garbage."""
        return Amount(len(self.keys) + len(self.unfinished), sum(self.keys.values()) + sum(self.unfinished.values()))


def holdings(store: ObjectStore) -> list[Holding]:
    """Return the content of the store by tenant folder, largest first."""
    found: dict[str, Holding] = {}
    for place, size in store.objects():
        one = found.setdefault(place.folder, Holding(place.folder, Amount(), place.day, place.day))
        one.held.add(size)
        one.oldest, one.newest = min(one.oldest, place.day), max(one.newest, place.day)
    return sorted(found.values(), key=lambda one: (-one.held.bytes, one.folder))


def carriers() -> list[str]:
    """Return the topics whose records, or the records inside them, can refer to an object; without prefix."""
    envelopes = set(ENVELOPES.values())
    return [
        topic.name
        for topic in topics.concrete()
        if topic.schema is None or topic.schema in envelopes or topic.name.startswith(topics.dead_letter_topic(""))
    ]


class Collector:
    """Finds and deletes garbage.

    Every method raises :class:`headrace.errors.DependencyDown` if Kafka or the object store does not answer.
    """

    def __init__(self, store: ObjectStore, kafka: KafkaSettings) -> None:
        self._store = store
        self._kafka = kafka
        self._read_to: dict[tuple[str, TopicPartition], int] = {}

    def find(self, before: datetime, now: datetime, progress: Progress = lambda _: None) -> Garbage:
        """Return the objects written on days that ended before that time and that no record refers to.

        It reads every topic that can carry a reference. Raises :class:`ConfigurationError` for a time less than
        :data:`LEAST_GRACE` before ``now``, and for the object store of another deployment.
        """
        if before > now - LEAST_GRACE:
            raise ConfigurationError(
                "the minimum age is too short: a stage may need hours for a batch, and its objects would be deleted "
                "before their records are committed", where="--older-than", remedy="Use 24h or more.",
            )  # fmt: skip
        self._store.require_owner()
        garbage = Garbage()
        for place, size in self._store.objects():
            garbage.held.add(size)
            if place.over_at <= before:
                garbage.keys[place.key] = size
            else:
                garbage.young.add(size)
        garbage.unfinished = self._store.unfinished(before)
        if garbage.keys:
            self._strike_named(garbage, progress)
        return garbage

    def delete(self, garbage: Garbage, progress: Progress = lambda _: None) -> Amount:
        """Delete the garbage, except objects that newer records refer to; return what was deleted."""
        self._strike_named(garbage, lambda _: None)
        deleted = Amount()
        keys = list(garbage.keys)
        for first in range(0, len(keys), _AT_ONCE):
            part = keys[first : first + _AT_ONCE]
            self._store.delete([place for key in part if (place := parse(key)) is not None])
            for key in part:
                deleted.add(garbage.keys[key])
            progress(len(part))
        for path, size in garbage.unfinished.items():
            path.unlink(missing_ok=True)
            deleted.add(size)
            progress(1)
        return deleted

    def _strike_named(self, garbage: Garbage, progress: Progress) -> None:
        """Remove objects from the garbage that unread records refer to."""
        own = [name for name in carriers() if generation_names.is_own(name)]
        for generation in LogReader(self._kafka, _ROLE).generations(own):
            self._read(generation, own, garbage, progress)
        self._read("", [name for name in carriers() if not generation_names.is_own(name)], garbage, progress)

    def _read(self, generation: str, wanted: Iterable[str], garbage: Garbage, progress: Progress) -> None:
        """Read the unread records of these topics; ``generation`` is empty for topics that all share."""
        ranges = LogReader(self._kafka.of(generation or self._kafka.generation), _ROLE)
        spans = {}
        for one, (start, end) in ranges.bounds(ranges.partitions(wanted), open_too=True).items():
            spans[one] = Range(max(start, self._read_to.get((generation, one), start)), end)

        def take(record: Record) -> None:
            garbage.records += 1
            for key in named_in(record.value or b""):
                garbage.keys.pop(key, None)
            progress(1)

        ranges.read(spans, take)
        self._read_to |= {(generation, one): end for one, (_, end) in spans.items()}
