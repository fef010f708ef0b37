"""Where a document is now, from what the store, the topics and the dead letters say; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from headrace.store.documents import DocumentRow
from headrace_gateway.flow import DeadLetterEntry, Waiting

State = Literal["indexed", "deleted", "in_flight", "dead_lettered", "unknown"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The state of the newest version that is known, with what it rests on."""

    state: State
    version: int | None
    waiting: Waiting | None
    dead_letter: DeadLetterEntry | None


def judge(row: DocumentRow | None, waiting: Sequence[Waiting], dead: Sequence[DeadLetterEntry]) -> Verdict:
    """Return the state of the newest version that is known.

    A record that waits counts unless the store already holds its version or a newer one: the fence will drop it.
    A dead letter counts unless the store or a waiting record holds its version or a newer one: it was overtaken.
    Versions that are not known are taken as newer than the store's (waiting), or judged by time (dead letters).
    """
    newest = _newest_waiting(row, waiting)
    letter = _newest_letter(row, newest, dead)
    if letter is not None:
        return Verdict("dead_lettered", letter.version, None, letter)
    if newest is not None:
        return Verdict("in_flight", newest.version, newest, None)
    if row is not None:
        return Verdict("deleted" if row.deleted else "indexed", row.version, None, None)
    return Verdict("unknown", None, None, None)


def _newest_waiting(row: DocumentRow | None, waiting: Sequence[Waiting]) -> Waiting | None:
    live = [one for one in waiting if row is None or one.version is None or one.version > row.version]
    unknown = [one for one in live if one.version is None]
    known = [one for one in live if one.version is not None]
    best = max(known, key=lambda one: one.version or 0, default=None)
    return best or (unknown[0] if unknown else None)


def _newest_letter(
    row: DocumentRow | None, newest: Waiting | None, dead: Sequence[DeadLetterEntry]
) -> DeadLetterEntry | None:
    for letter in reversed(dead):
        if letter.version is None:
            overtaken = newest is not None or (
                row is not None and row.indexed_at.timestamp() * 1000 >= letter.failed_at_ms
            )
        else:
            overtaken = (row is not None and row.version >= letter.version) or (
                newest is not None and (newest.version is None or newest.version >= letter.version)
            )
        if not overtaken:
            return letter
    return None
