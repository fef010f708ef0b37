"""Entries, selections and groups of dead letters. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from headrace.errors import ConfigurationError, HeadraceError
from headrace.orders.control import TOPIC as CONTROL
from headrace.payloads import DeadLetterAction
from headrace.topology.stages import STAGES
from headrace.topology.topics import DEAD_LETTER_ACTIONS, dead_letter_topic
from headrace_operations.actions import Kind
from headrace_operations.errors import NotThere

UNREADABLE_REASON = "unreadable"
"""The reason of a record in a dead-letter topic that does not decode as a dead letter."""
SOURCES = (*STAGES, CONTROL)
"""The sources of dead letters: every stage, and the topic of orders."""
_ID = re.compile(r"(?P<stage>[a-z]+)/(?P<partition>[0-9]{1,9})/(?P<offset>[0-9]{1,18})")
_LONGEST_CAUSE = 160
_VARIABLE = (
    (re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`"), "…"),
    (re.compile(r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b", re.IGNORECASE), "…"),
    (re.compile(r"\b(?:0x)?(?=[0-9a-f]*[0-9])[0-9a-f]{8,}\b", re.IGNORECASE), "…"),
    (re.compile(r"\d+(?:[.,]\d+)*"), "#"),
    (re.compile(r"\s+"), " "),
)


class NoSuchDeadLetter(NotThere):
    """There is no such dead letter."""

    code = "no-such-dead-letter"
    default_remedy = "`headrace dlq list --each --all-states` lists all dead letters."


class RefusedDeadLetter(HeadraceError):
    """The requested action is not possible for this dead letter."""

    code = "refused-dead-letter"


DEAD_LETTERS = Kind("headrace-dlq", DEAD_LETTER_ACTIONS, DeadLetterAction, "dead letters", RefusedDeadLetter)


class State(StrEnum):
    """The state of a dead letter."""

    OPEN = "open"
    REDRIVEN = "redriven"
    DISCARDED = "discarded"


ANY_STATE = frozenset(State)


@dataclass(frozen=True, slots=True, order=True)
class Id:
    """The position of a dead letter in ``dead-letters.<stage>``; ``stage`` is one of :data:`SOURCES`."""

    stage: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.stage}/{self.partition}/{self.offset}"

    @property
    def place(self) -> str:
        """The position as in the header ``redrive``: topic without prefix, partition, offset."""
        return f"{dead_letter_topic(self.stage)}/{self.partition}/{self.offset}"


def parse_id(text: str) -> Id:
    """Return the ID; raises :class:`ConfigurationError`, which lists the stages, for an invalid one."""
    found = _ID.fullmatch(text)
    if found is None or found["stage"] not in SOURCES:
        raise ConfigurationError(
            f"invalid dead-letter ID {text!r}",
            remedy=f"Use stage/partition/offset, for example chunker/0/17; the stages are {', '.join(SOURCES)}.",
        )
    return Id(found["stage"], int(found["partition"]), int(found["offset"]))


def parse_place(text: str) -> Id | None:
    """Return the ID in a header ``redrive``, with or without topic prefix; None if it has none."""
    _, mark, tail = text.rpartition("dead-letters.")
    found = _ID.fullmatch(tail) if mark else None
    if found is None or found["stage"] not in SOURCES:
        return None
    return Id(found["stage"], int(found["partition"]), int(found["offset"]))


@dataclass(frozen=True, slots=True)
class Entry:
    """A dead letter without its payload; ``whole`` is None if it can be redriven, else the reason why not."""

    id: Id
    reason: str
    handler: str | None
    message: str
    remedy: str
    tenant: str | None
    document_id: str | None
    version: int | None
    request_id: str | None
    attempt: int
    failed_at: datetime
    origin: str
    redrive_of: str | None
    size: int
    whole: str | None
    action: DeadLetterAction | None

    @property
    def state(self) -> State:
        """What became of it."""
        return state_of(self.action)


def state_of(action: DeadLetterAction | None) -> State:
    """Return what an action, or none, makes of a dead letter."""
    if action is None:
        return State.OPEN
    return State.DISCARDED if action.action == "DISCARDED" else State.REDRIVEN


@dataclass(frozen=True, slots=True)
class Selection:
    """A selection of dead letters: all filters must match. ``since`` is inclusive, ``until`` exclusive.

    Empty ``ids`` match any ID; ``batch`` is the ID of the command that acted.
    """

    ids: frozenset[Id] = frozenset()
    stage: str | None = None
    reason: str | None = None
    document: str | None = None
    tenant: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    batch: str | None = None
    states: frozenset[State] = frozenset({State.OPEN})

    @property
    def narrow(self) -> bool:
        """Whether there is any filter besides the state."""
        asked = (self.stage, self.reason, self.document, self.tenant, self.since, self.until, self.batch)
        return bool(self.ids) or any(one is not None for one in asked)

    def stages(self) -> list[str]:
        """Return the stages whose dead letters must be read."""
        named = {one.stage for one in self.ids} | ({self.stage} if self.stage else set())
        return [stage for stage in SOURCES if not named or stage in named]

    def holds(self, entry: Entry) -> bool:
        """Whether the dead letter is selected."""
        exact = (
            (self.stage, entry.id.stage),
            (self.reason, entry.reason),
            (self.document, entry.document_id),
            (self.tenant, entry.tenant),
            (self.batch, entry.action.batch if entry.action else None),
        )
        return (
            entry.state in self.states
            and (not self.ids or entry.id in self.ids)
            and all(wanted is None or wanted == found for wanted, found in exact)
            and (self.since is None or entry.failed_at >= self.since)
            and (self.until is None or entry.failed_at < self.until)
        )


def check(selection: Selection, now: datetime) -> Selection:
    """Return the selection, or raise :class:`ConfigurationError` for an invalid stage or time."""
    if selection.stage is not None and selection.stage not in SOURCES:
        raise ConfigurationError(
            f"unknown stage {selection.stage!r}", where="--stage", remedy=f"Use one of: {', '.join(SOURCES)}."
        )
    if selection.since is not None and selection.since > now:
        raise ConfigurationError(
            f"{selection.since.isoformat()} is in the future",
            where="--since",
            remedy=f"Use a time before {now.isoformat()}.",
        )
    if selection.since is not None and selection.until is not None and selection.until <= selection.since:
        raise ConfigurationError(
            f"empty time range: {selection.since.isoformat()} to {selection.until.isoformat()}",
            where="--until", remedy="Use a time after --since.",
        )  # fmt: skip
    return selection


@dataclass(frozen=True, slots=True)
class Group:
    """Dead letters with one cause."""

    stage: str
    reason: str
    handler: str | None
    cause: str
    count: int
    first: datetime
    last: datetime
    example: Id


def cause_of(message: str) -> str:
    """Return the message without the parts that differ between records: quotations, IDs, numbers."""
    for pattern, instead in _VARIABLE:
        message = pattern.sub(instead, message)
    message = message.strip()
    return message if len(message) <= _LONGEST_CAUSE else f"{message[: _LONGEST_CAUSE - 1]}…"


def grouped(entries: Iterable[Entry]) -> list[Group]:
    """Return the dead letters by cause, most frequent first; the example is the newest."""
    found: dict[tuple[str, str, str | None, str], list[Entry]] = {}
    for entry in entries:
        found.setdefault((entry.id.stage, entry.reason, entry.handler, cause_of(entry.message)), []).append(entry)
    groups = [
        Group(
            *cause, len(own), min(one.failed_at for one in own), max(one.failed_at for one in own),
            max(own, key=lambda one: (one.failed_at, one.id)).id,
        )
        for cause, own in found.items()
    ]  # fmt: skip
    return sorted(groups, key=lambda group: (-group.count, group.stage, group.reason, group.cause))


def counted(entries: Sequence[Entry]) -> list[tuple[str, str | None, int]]:
    """Return stage, tenant (None if unknown) and count, sorted by stage and tenant."""
    counts: dict[tuple[str, str | None], int] = {}
    for entry in entries:
        key = (entry.id.stage, entry.tenant)
        counts[key] = counts.get(key, 0) + 1
    order = list(SOURCES)
    return [
        (*key, counts[key]) for key in sorted(counts, key=lambda key: (order.index(key[0]), key[1] is None, key[1]))
    ]
