"""The checkers of the fault matrix: pure functions that return a list of problems, empty if there are none.

D (the store equals the fold of its events) is :func:`headrace_testing.fold.compare`. Each checker has a test with a
wrong history that it must detect. The delivery checkers also have a mutant of the runtime.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from headrace.kafka.broker_contract import TopicPartition
from headrace_testing.fold import Store

MOST_PROBLEMS = 20


class Entry(NamedTuple):
    """A record for comparison: its key, and a number that increases within the key."""

    key: bytes
    number: int


class Placed(NamedTuple):
    """An input record and its offset."""

    place: TopicPartition
    offset: int
    entry: Entry


class Ends(NamedTuple):
    """A partition's last stable offset and its end; they differ while a transaction is open."""

    stable: int
    high: int


def ledger(sent: Sequence[Entry], found: Sequence[Entry], *, ordered: bool = True) -> list[str]:
    """L: all sent records are found, as often as they were sent, in order within a key, and no others are."""
    counts, wanted = Counter(found), Counter(sent)
    problems = [f"{entry} is lost" for entry in wanted if entry not in counts]
    problems += [
        f"{entry} is there {times} times, and was sent {wanted[entry]} times"
        for entry, times in counts.items()
        if entry in wanted and times != wanted[entry]
    ]
    problems += [f"{entry} was never sent" for entry in counts.keys() - wanted.keys()]
    if ordered:
        by_key: dict[bytes, list[int]] = {}
        for entry in found:
            by_key.setdefault(entry.key, []).append(entry.number)
        problems += [
            f"{key!r}: {later} comes after {earlier}"
            for key, numbers in by_key.items()
            for earlier, later in pairwise(numbers)
            if later < earlier
        ]
    return problems[:MOST_PROBLEMS]


def offsets(
    source: Sequence[Placed],
    done: Collection[Entry],
    committed: Mapping[TopicPartition, int],
    ends: Mapping[TopicPartition, Ends],
) -> list[str]:
    """O: records before a committed offset have output, later ones have none, and no transaction is open."""
    problems = []
    for placed in source:
        before = placed.offset < committed.get(placed.place, 0)
        if before and placed.entry not in done:
            problems.append(f"{placed.place} {placed.offset} is committed and {placed.entry} has no output")
        if not before and placed.entry in done:
            problems.append(f"{placed.place} {placed.offset} is not committed and {placed.entry} has its output")
    problems += [
        f"a transaction is open in {place}: {end.high - end.stable} records from {end.stable} are not stable"
        for place, end in ends.items()
        if end.stable < end.high
    ]
    return problems[:MOST_PROBLEMS]


def replayed(before: Store, after: Store) -> list[str]:
    """R: a replay leaves every row and its ``xmin`` unchanged."""
    if before.digest == after.digest:
        return []
    changed = [f"{key} changed" for key, row in after.documents.items() if before.documents.get(key) != row]
    changed += [f"{key} is gone" for key in before.documents.keys() - after.documents.keys()]
    return changed[:MOST_PROBLEMS] or ["rows were rewritten with unchanged content"]


def conservation(
    received: Iterable[Entry],
    *,
    written: Iterable[Entry] = (),
    dead: Iterable[Entry] = (),
    pending: Iterable[Entry] = (),
    superseded: Iterable[Entry] = (),
) -> list[str]:
    """C: each record is written, dead-lettered, pending or superseded exactly as often as it was received."""
    places = {"written": written, "dead": dead, "pending": pending, "superseded": superseded}
    where: dict[Entry, list[str]] = {}
    for name, entries in places.items():
        for entry in entries:
            where.setdefault(entry, []).append(name)
    problems = []
    for entry, times in Counter(received).items():
        found = where.pop(entry, [])
        if len(found) != times:
            problems.append(f"{entry} is {' and '.join(found) if found else 'nowhere'}, and came in {times} times")
    problems += [f"{entry} is {' and '.join(found)} and never came in" for entry, found in where.items()]
    return problems[:MOST_PROBLEMS]


def canary(seen: Iterable[tuple[str, str]]) -> list[str]:
    """T: a query as one tenant returns only rows of that tenant; pairs of the asking and the owning tenant."""
    leaks = Counter((asked, row) for asked, row in seen if asked != row)
    return [f"{asked} saw {times} rows of {row}" for (asked, row), times in leaks.items()][:MOST_PROBLEMS]


def progress(done_at: Sequence[float], healed_at: float, bound: float) -> list[str]:
    """V: after the fault, outputs resume within ``bound`` seconds and never pause for longer than that.

    ``done_at`` has the times of all outputs, on the clock of ``healed_at``.
    """
    after = [moment for moment in sorted(done_at) if moment >= healed_at]
    if not after and done_at:
        return []  # all outputs came before the end of the fault
    if not after:
        return ["there was no output at all"]
    gap, start = max((later - earlier, earlier) for earlier, later in pairwise([healed_at, *after]))
    if gap <= bound:
        return []
    return [f"no output for {gap:.1f} s, {start - healed_at:.1f} s after the fault ended; the bound is {bound:.1f} s"]


def secrets(places: Iterable[tuple[str, bytes]], forbidden: Iterable[bytes]) -> list[str]:
    """P: no place (topics, dead letters, logs) contains a forbidden text; the problems do not repeat the text."""
    words = [word for word in forbidden if word]
    problems = [
        f"{where} holds forbidden text {number}"
        for where, content in places
        for number, word in enumerate(words)
        if word in content
    ]
    return problems[:MOST_PROBLEMS]
