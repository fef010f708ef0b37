"""What is known of dead letters, which of them are meant, and how they are grouped; pure."""

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
"""Reason of what lies in a topic of dead letters and does not decode as one."""
SOURCES = (*STAGES, CONTROL)
"""What has dead letters: every stage, and the topic of orders."""
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
    default_remedy = "`headrace dlq list --each --all-states` shows those that exist."


class RefusedDeadLetter(HeadraceError):
    """What was asked for cannot be done with this dead letter."""

    code = "refused-dead-letter"


DEAD_LETTERS = Kind("headrace-dlq", DEAD_LETTER_ACTIONS, DeadLetterAction, "dead letters", RefusedDeadLetter)


class State(StrEnum):
    """What became of a dead letter."""

    OPEN = "open"
    REDRIVEN = "redriven"
    DISCARDED = "discarded"


ANY_STATE = frozenset(State)


@dataclass(frozen=True, slots=True, order=True)
class Id:
    """Where a dead letter lies: in ``dead-letters.<stage>``; ``stage`` is one of :data:`SOURCES`."""

    stage: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.stage}/{self.partition}/{self.offset}"

    @property
    def place(self) -> str:
        """The place as the header ``redrive`` names it: topic without prefix, partition, offset."""
        return f"{dead_letter_topic(self.stage)}/{self.partition}/{self.offset}"


def parse_id(text: str) -> Id:
    """Return the id; raises :class:`ConfigurationError` for one that cannot be, naming the stages that exist."""
    found = _ID.fullmatch(text)
    if found is None or found["stage"] not in SOURCES:
        raise ConfigurationError(
            f"{text!r} is no id of a dead letter",
            remedy=f"Write stage/partition/offset, for instance chunker/0/17; stages are {', '.join(SOURCES)}.",
        )
    return Id(found["stage"], int(found["partition"]), int(found["offset"]))


def parse_place(text: str) -> Id | None:
    """Return the id that a header ``redrive`` names, with or without a prefix of topics; None where it names none."""
    _, mark, tail = text.rpartition("dead-letters.")
    found = _ID.fullmatch(tail) if mark else None
    if found is None or found["stage"] not in SOURCES:
        return None
    return Id(found["stage"], int(found["partition"]), int(found["offset"]))


@dataclass(frozen=True, slots=True)
class Entry:
    """A dead letter without its payload; ``whole`` is None where the record can be sent again, else why it cannot."""

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
    """Which dead letters are meant: all conditions hold. ``since`` counts in, ``until`` does not.

    ``ids`` empty means any; ``batch`` is the identity of the command that acted.
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
        """Whether anything but the state is asked for."""
        asked = (self.stage, self.reason, self.document, self.tenant, self.since, self.until, self.batch)
        return bool(self.ids) or any(one is not None for one in asked)

    def stages(self) -> list[str]:
        """Return the stages whose dead letters have to be read."""
        named = {one.stage for one in self.ids} | ({self.stage} if self.stage else set())
        return [stage for stage in SOURCES if not named or stage in named]

    def holds(self, entry: Entry) -> bool:
        """Whether the dead letter is meant."""
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
    """Return the selection, or raise :class:`ConfigurationError` for what cannot be: a stage, a time."""
    if selection.stage is not None and selection.stage not in SOURCES:
        raise ConfigurationError(
            f"there is no stage {selection.stage!r}", where="--stage", remedy=f"There are: {', '.join(SOURCES)}."
        )
    if selection.since is not None and selection.since > now:
        raise ConfigurationError(
            f"{selection.since.isoformat()} lies in the future", where="--since", remedy=f"It is {now.isoformat()}."
        )
    if selection.since is not None and selection.until is not None and selection.until <= selection.since:
        raise ConfigurationError(
            f"nothing lies between {selection.since.isoformat()} and {selection.until.isoformat()}",
            where="--until", remedy="Give a time after --since.",
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
    """Return the message without what differs from record to record: quotations, ids, numbers."""
    for pattern, instead in _VARIABLE:
        message = pattern.sub(instead, message)
    message = message.strip()
    return message if len(message) <= _LONGEST_CAUSE else f"{message[: _LONGEST_CAUSE - 1]}…"


def grouped(entries: Iterable[Entry]) -> list[Group]:
    """Return the dead letters by cause, the most frequent first; the example is the newest."""
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
    """Return stage, tenant (None where it is not known) and number, by stage and tenant."""
    counts: dict[tuple[str, str | None], int] = {}
    for entry in entries:
        key = (entry.id.stage, entry.tenant)
        counts[key] = counts.get(key, 0) + 1
    order = list(SOURCES)
    return [
        (*key, counts[key]) for key in sorted(counts, key=lambda key: (order.index(key[0]), key[1] is None, key[1]))
    ]
