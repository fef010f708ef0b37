"""Computes the progress of runs from changes, outcomes and dead letters, in any order. Pure.

A run is the set of changes with the same header ``run`` or, without it, the same request ID (ADR 10).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

_LEAST_MS = 1000
"""A shorter run has no meaningful rate."""
Fate = Literal["done", "pending", "failed"]
PlaceInChanges = tuple[int, int]
"""Partition and offset of a change."""


@dataclass(frozen=True, slots=True)
class SentChange:
    """A change of a run; ``version`` is None if only the body has it; ``sent_ms`` is in milliseconds since 1970."""

    key: bytes
    place: PlaceInChanges
    version: int | None
    run: str
    request_id: str | None
    sent_ms: int

    @property
    def tenant(self) -> str:
        """Owner of the document."""
        return self.key.partition(b"/")[0].decode("utf-8", "replace")

    @property
    def document_id(self) -> str:
        """ID of the document."""
        return self.key.partition(b"/")[2].decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Failed:
    """A dead letter; ``place`` locates the change if ingest dead-lettered it; ``id`` is ``stage/partition/offset``."""

    id: str
    stage: str
    reason: str
    message: str
    key: bytes
    version: int | None
    place: PlaceInChanges | None
    failed_ms: int


@dataclass(frozen=True, slots=True)
class Item:
    """A change with its outcome; ``settled_ms`` is the time of the outcome, if known."""

    change: SentChange
    fate: Fate
    settled_ms: int | None
    letter: Failed | None


@dataclass(frozen=True, slots=True)
class Run:
    """The changes of one run; ``per_second`` and ``seconds_left`` are None if unknown."""

    run: str
    tenant: str
    requests: int
    total: int
    done: int
    failed: int
    pending: int
    percent: float
    begun_ms: int
    settled_ms: int | None
    per_second: float | None
    seconds_left: float | None


@dataclass(slots=True)
class Fold:
    """Everything read so far; adding a record twice changes nothing."""

    changes: dict[PlaceInChanges, SentChange] = field(default_factory=dict)
    arrived: dict[bytes, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    """For each key, the versions that the index has decided on, and when."""
    arrived_places: dict[PlaceInChanges, int] = field(default_factory=dict)
    letters: dict[str, Failed] = field(default_factory=dict)
    redriven: set[str] = field(default_factory=set)
    stored: dict[bytes, int] = field(default_factory=dict)
    """For each key, the version in the store, for outcomes that have left the log."""

    def sent(self, change: SentChange) -> None:
        """Add a change."""
        self.changes[change.place] = change

    def indexed(self, key: bytes, version: int, at_ms: int, place: PlaceInChanges | None = None) -> None:
        """Add an outcome of the index; every outcome settles a change, including superseded."""
        versions = self.arrived[key]
        versions[version] = min(at_ms, versions.get(version, at_ms))
        if place is not None:
            self.arrived_places[place] = min(at_ms, self.arrived_places.get(place, at_ms))

    def gave_up(self, letter: Failed) -> None:
        """Add a dead letter."""
        self.letters[letter.id] = letter

    def items(self, run: str | None = None, tenant: str | None = None) -> list[Item]:
        """Return the changes of a run (or of all runs) with their outcomes; each version of a document occurs once."""
        by_version: dict[tuple[bytes, int], Failed] = {}
        by_place: dict[PlaceInChanges, Failed] = {}
        for letter in sorted(self.letters.values(), key=lambda one: one.failed_ms):
            if letter.id in self.redriven:
                continue
            if letter.place is not None:
                by_place[letter.place] = letter
            if letter.version is not None:
                by_version[letter.key, letter.version] = letter
        found: dict[tuple[str, bytes, int | PlaceInChanges], Item] = {}
        for change in sorted(self.changes.values(), key=lambda one: one.sent_ms):
            if run not in (None, change.run, change.request_id) or tenant not in (None, change.tenant):
                continue
            named = change.place if change.version is None else change.version
            letter_of = by_place.get(change.place)
            if letter_of is None and change.version is not None:
                letter_of = by_version.get((change.key, change.version))
            found.setdefault((change.run, change.key, named), self._item(change, letter_of))
        return list(found.values())

    def _item(self, change: SentChange, letter: Failed | None) -> Item:
        times = [self.arrived_places[change.place]] if change.place in self.arrived_places else []
        if change.version is not None:
            times += [at for version, at in self.arrived.get(change.key, {}).items() if version >= change.version]
        if times:
            return Item(change, "done", min(times), None)
        if change.version is not None and self.stored.get(change.key, -1) >= change.version:
            return Item(change, "done", None, None)
        if letter is not None:
            return Item(change, "failed", letter.failed_ms, letter)
        return Item(change, "pending", None, None)


def runs_of(items: Iterable[Item], now_ms: int) -> list[Run]:
    """Return the runs of these items, latest first."""
    grouped: dict[tuple[str, str], list[Item]] = defaultdict(list)
    for item in items:
        grouped[item.change.tenant, item.change.run].append(item)
    runs = [_run(name, tenant, members, now_ms) for (tenant, name), members in grouped.items()]
    return sorted(runs, key=lambda run: (run.begun_ms, run.run), reverse=True)


def _run(name: str, tenant: str, items: list[Item], now_ms: int) -> Run:
    count: Mapping[Fate, int] = {
        fate: sum(item.fate == fate for item in items) for fate in ("done", "failed", "pending")
    }
    begun = min(item.change.sent_ms for item in items)
    times = [item.settled_ms for item in items if item.settled_ms is not None]
    last = max(times, default=None)
    settled = count["done"] + count["failed"]
    until = now_ms if count["pending"] else last
    rate = None
    if times and until is not None and until - begun >= _LEAST_MS:
        rate = len(times) / ((until - begun) / 1000)
    return Run(
        run=name,
        tenant=tenant,
        requests=len({item.change.request_id for item in items}),
        total=len(items),
        done=count["done"],
        failed=count["failed"],
        pending=count["pending"],
        percent=round(100 * settled / len(items), 1),
        begun_ms=begun,
        settled_ms=last,
        per_second=None if rate is None else round(rate, 2),
        seconds_left=round(count["pending"] / rate, 1) if rate and count["pending"] else None,
    )
