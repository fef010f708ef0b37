"""Entries and selections of held records, and the messages that release or approve them. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from headrace.config.settings import KafkaSettings
from headrace.errors import ConfigurationError, HeadraceError
from headrace.kafka import headers
from headrace.kafka.broker_contract import Headers, Message, Record
from headrace.kafka.constants import LATEST_MS, NO_KEY
from headrace.orders.holds import KINDS, PAUSE, REVIEW, ends, waits_for
from headrace.payloads import HeldAction
from headrace.topology.stages import STAGES, next_stage
from headrace.topology.topics import HELD_ACTIONS, held_topic, replay_topic, retry_topic
from headrace_operations.actions import ActionRequest, Kind
from headrace_operations.errors import NotThere

RELEASED = "RELEASED"
APPROVED = "APPROVED"
REJECTED = "REJECTED"
_ID = re.compile(r"(?P<stage>[a-z]+)/(?P<partition>[0-9]{1,9})/(?P<offset>[0-9]{1,18})")


class NoSuchHeldRecord(NotThere):
    """There is no such held record."""

    code = "no-such-held-record"
    default_remedy = "`headrace held list` and `headrace review list` show all held records."


class RefusedHeldRecord(HeadraceError):
    """The requested action is not possible for this held record."""

    code = "refused-held-record"


HELD_RECORDS = Kind("headrace-held", HELD_ACTIONS, HeldAction, "held records", RefusedHeldRecord)


@dataclass(frozen=True, slots=True, order=True)
class HeldId:
    """The position of a held record in ``held.<stage>``."""

    stage: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.stage}/{self.partition}/{self.offset}"


def parse_id(text: str) -> HeldId:
    """Return the ID; raises :class:`ConfigurationError`, which lists the stages, for an invalid one."""
    found = _ID.fullmatch(text)
    if found is None or found["stage"] not in STAGES:
        raise ConfigurationError(
            f"invalid held-record ID {text!r}",
            remedy=f"Use stage/partition/offset, for example chunker/0/17; the stages are {', '.join(STAGES)}.",
        )
    return HeldId(found["stage"], int(found["partition"]), int(found["offset"]))


@dataclass(frozen=True, slots=True)
class HeldEntry:
    """A held record without its payload; ``size`` in bytes, ``target`` with topic prefix.

    ``kind`` comes from the header: pause (for a cap too) or review.
    """

    id: HeldId
    kind: str
    scope: str
    why: str
    held_at: datetime
    target: str | None
    tenant: str | None
    document_id: str | None
    version: int | None
    request_id: str | None
    origin: str
    size: int

    @property
    def waits_for(self) -> str:
        """Why it is held: pause, cap or review."""
        return waits_for(self.kind, self.scope)

    @property
    def ends(self) -> str:
        """The command that ends the hold; for a cap, preceded by what to do first."""
        return ends(self.kind, self.scope, str(self.id))


def entry_of(record: Record) -> HeldEntry:
    """Return the entry of a record of ``held.<stage>`` (without prefix); tenant and document come from its key."""
    scope = headers.text(record, headers.HELD_FOR) or ""
    key_tenant, mark, document_id = (record.key or b"").decode("utf-8", "replace").partition("/")
    of, _, target = scope.partition("/")
    tenant = key_tenant if mark and key_tenant else target if of == "tenant" else None
    version = headers.number(record, headers.VERSION, -1)
    first = headers.origin(record)
    held_ms = min(headers.number(record, headers.HELD_AT, max(0, record.timestamp_ms)), LATEST_MS)
    return HeldEntry(
        id=HeldId(record.topic.removeprefix(held_topic("")), record.partition, record.offset),
        kind=headers.text(record, headers.HELD_KIND) or PAUSE,
        scope=scope,
        why=headers.text(record, headers.HELD_WHY) or "",
        held_at=datetime.fromtimestamp(held_ms / 1000, UTC),
        target=headers.text(record, headers.HELD_TARGET),
        tenant=tenant or None,
        document_id=document_id if mark and document_id else None,
        version=None if version < 0 else version,
        request_id=headers.text(record, headers.REQUEST_ID),
        origin=f"{first.topic}/{first.partition}/{first.offset}",
        size=len(record.value or b""),
    )


@dataclass(frozen=True, slots=True)
class HeldSelection:
    """A selection of held records: all filters must match. ``scopes`` are like ``tenant/acme``; empty matches any.

    The kind ``pause`` includes caps; ``cap`` matches only caps.
    """

    ids: frozenset[HeldId] = frozenset()
    stage: str | None = None
    kind: str | None = None
    scopes: frozenset[str] = frozenset()
    tenant: str | None = None
    document: str | None = None

    def stages(self) -> list[str]:
        """Return the stages whose held records must be read."""
        named = {one.stage for one in self.ids} | ({self.stage} if self.stage else set())
        return [stage for stage in STAGES if not named or stage in named]

    def holds(self, entry: HeldEntry) -> bool:
        """Whether the record is selected."""
        exact = (
            (self.stage, entry.id.stage),
            (self.tenant, entry.tenant),
            (self.document, entry.document_id),
        )
        return (
            (not self.ids or entry.id in self.ids)
            and (not self.scopes or entry.scope in self.scopes)
            and self.kind in (None, entry.kind, entry.waits_for)
            and all(wanted is None or wanted == found for wanted, found in exact)
        )


def check(selection: HeldSelection) -> HeldSelection:
    """Return the selection, or raise :class:`ConfigurationError` for a stage or kind that does not exist."""
    for value, known, where in ((selection.stage, tuple(STAGES), "--stage"), (selection.kind, KINDS, "--kind")):
        if value is not None and value not in known:
            raise ConfigurationError(
                f"unknown {where.removeprefix('--')} {value!r}", where=where,
                remedy=f"Use one of: {', '.join(known)}.",
            )  # fmt: skip
    return selection


def refuse_misfits(entries: Iterable[HeldEntry], request: ActionRequest) -> None:
    """Raise :class:`RefusedHeldRecord` if the action is not possible for one of the records; writes nothing."""
    for entry in entries:
        if request.action == RELEASED and entry.kind != PAUSE:
            raise RefusedHeldRecord(f"{entry.id} is held for a review and cannot be released", remedy=entry.ends)
        if request.action != RELEASED and entry.kind != REVIEW:
            raise RefusedHeldRecord(f"{entry.id} is held by a pause, not for a review", remedy=entry.ends)


def refuse_others(
    ids: Collection[HeldId], actions: dict[str, HeldAction], request: ActionRequest
) -> list[tuple[HeldId, str]]:
    """Return the IDs that already had the same action, each with a description of it.

    Raises :class:`RefusedHeldRecord` if one had another action.
    """
    done: list[tuple[HeldId, str]] = []
    for one in sorted(ids):
        action = actions.get(str(one))
        if action is None:
            continue
        said = f"was {action.action.lower()} by {action.acted_by} at {action.acted_at.isoformat(timespec='seconds')}"
        if action.action != request.action:
            raise RefusedHeldRecord(f"{one} {said}", remedy="It needs no further action.")
        done.append((one, said))
    return done


def released(record: Record, kafka: KafkaSettings, *, now_ms: int) -> Message:
    """Return the message that releases a record to its stage's retry topic.

    Key and value stay unchanged, including a missing key (written as ``-``) or value. A ``replay`` header stays only if
    the stage first read the record in a replay; one that a client wrote means nothing.
    """
    stage, first = record.topic.removeprefix(held_topic("")), headers.origin(record)
    own = headers.without_hold(record.headers)
    if first.topic != kafka.topic(replay_topic(stage)):
        own = tuple(pair for pair in own if pair[0] != headers.REPLAY)
    again = headers.for_retry(own, first, attempt=1, due_ms=now_ms)
    key = b"" if record.key is None or record.key == NO_KEY else record.key
    return Message(retry_topic(stage), key, record.value, again)


def approved_headers(record: Record) -> Headers:
    """Return the headers of an approved output: those that its stage wrote."""
    return headers.without_hold(headers.without_retry(record.headers))


def target_of(record: Record, kafka: KafkaSettings) -> str:
    """Return the target topic of a reviewed output, without prefix; raises :class:`RefusedHeldRecord`.

    Only topics that its stage writes to are allowed, whatever the header says.
    """
    flow = STAGES[record.topic.removeprefix(held_topic(""))]
    named = headers.text(record, headers.HELD_TARGET) or ""
    following = next_stage(flow)
    allowed = [flow.target, *([replay_topic(following.name)] if following is not None else [])]
    target = next((name for name in allowed if named == kafka.topic(name)), None)
    if target is None:
        raise RefusedHeldRecord(
            f"{flow.name}/{record.partition}/{record.offset} has the target topic {named!r}, which its stage does not "
            f"write to; allowed:  {', '.join(allowed)}",
            remedy="Reject it, and find out who wrote it.",
        )
    return target
