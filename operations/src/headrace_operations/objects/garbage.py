"""What the object store holds, and collecting what no record refers to any more (ADR 18)."""

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
"""Longer than from a batch's first object to its commit.

The batch is computed in portions, each stored when it is done; hours may pass behind a slow model. Then come the
transaction (15 minutes at most, by the brokers' own limit) and what clocks differ.
"""
_AT_ONCE = 500
_ROLE = "objects"
Progress = Callable[[int], None]
"""Told how many more records were read, or objects deleted."""


@dataclass(slots=True)
class Amount:
    """Objects, and their bytes."""

    objects: int = 0
    bytes: int = 0

    def add(self, size: int) -> None:
        """Count one more."""
        self.objects += 1
        self.bytes += size


@dataclass(slots=True)
class Holding:
    """What a tenant's folder holds, and the days in UTC on which the oldest and the newest of it were written."""

    folder: str
    held: Amount
    oldest: date
    newest: date


@dataclass(slots=True)
class Garbage:
    """What a scan came to: ``keys`` with their bytes are what nothing refers to; ``young`` ones were left alone.

    ``unfinished`` are files that a killed process left half written, with their bytes.
    """

    held: Amount = field(default_factory=Amount)
    young: Amount = field(default_factory=Amount)
    keys: dict[str, int] = field(default_factory=dict)
    unfinished: dict[Path, int] = field(default_factory=dict)
    records: int = 0

    @property
    def found(self) -> Amount:
        """How much nothing refers to."""
        return Amount(len(self.keys) + len(self.unfinished), sum(self.keys.values()) + sum(self.unfinished.values()))


def holdings(store: ObjectStore) -> list[Holding]:
    """Return what the store holds by tenant's folder, the largest first."""
    found: dict[str, Holding] = {}
    for place, size in store.objects():
        one = found.setdefault(place.folder, Holding(place.folder, Amount(), place.day, place.day))
        one.held.add(size)
        one.oldest, one.newest = min(one.oldest, place.day), max(one.newest, place.day)
    return sorted(found.values(), key=lambda one: (-one.held.bytes, one.folder))


def carriers() -> list[str]:
    """Return the topics whose records can refer to an object, or carry one that does; without prefix, generation."""
    envelopes = set(ENVELOPES.values())
    return [
        topic.name
        for topic in topics.concrete()
        if topic.schema is None or topic.schema in envelopes or topic.name.startswith(topics.dead_letter_topic(""))
    ]


class Collector:
    """Finds and deletes garbage.

    Every method raises :class:`headrace.errors.DependencyDown` where Kafka or the store does not answer.
    """

    def __init__(self, store: ObjectStore, kafka: KafkaSettings) -> None:
        self._store = store
        self._kafka = kafka
        self._read_to: dict[tuple[str, TopicPartition], int] = {}

    def find(self, before: datetime, now: datetime, progress: Progress = lambda _: None) -> Garbage:
        """Return what was written on days that were over before that time, and what no record refers to.

        Every topic that can carry a reference is read through. Raises :class:`ConfigurationError` for a time that lies
        less than :data:`LEAST_GRACE` before ``now``, and for the store of another deployment.
        """
        if before > now - LEAST_GRACE:
            raise ConfigurationError(
                "the grace is shorter than a stage may take for a batch, so that an object would be deleted whose "
                "record is about to be committed", where="--older-than", remedy="Give a day (24h) or more.",
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
        """Delete it, but for what a record refers to that was written since; return what was deleted."""
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
        """Take out of the garbage what records name that were not read yet."""
        own = [name for name in carriers() if generation_names.is_own(name)]
        for generation in LogReader(self._kafka, _ROLE).generations(own):
            self._read(generation, own, garbage, progress)
        self._read("", [name for name in carriers() if not generation_names.is_own(name)], garbage, progress)

    def _read(self, generation: str, wanted: Iterable[str], garbage: Garbage, progress: Progress) -> None:
        """Read what was not read yet of those topics; ``generation`` is empty for what all share."""
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
