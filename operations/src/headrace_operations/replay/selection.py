"""Turns a selection into offsets of the stage's source topic and a filter by key. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from confluent_kafka import murmur2

from headrace.errors import HeadraceError
from headrace.kafka.offsets import Range
from headrace.payloads import ReplayPosition
from headrace.topology.stages import STAGES


class RefusedReplay(HeadraceError):
    """The replay was refused, and nothing was sent."""

    code = "refused-replay"


@dataclass(frozen=True, slots=True)
class Selection:
    """The records to replay: all, or by offset, time, tenant or document; ``document_id`` requires ``tenant``.

    ``offsets`` maps partitions of the source topic to the first offset; other partitions are then excluded.
    """

    stage: str
    everything: bool = False
    offsets: Mapping[int, int] = field(default_factory=dict)
    since: datetime | None = None
    tenant: str | None = None
    document_id: str | None = None

    @property
    def kind(self) -> str:
        """The word for it in :class:`headrace.payloads.ReplayRun`."""
        if self.document_id is not None:
            return "document"
        if self.offsets:
            return "from-offset"
        if self.since is not None:
            return "since"
        return "tenant" if self.tenant is not None else "all"


def checked(selection: Selection, now: datetime) -> Selection:
    """Return the selection if it is consistent; otherwise raise :class:`RefusedReplay` with the reason."""
    if selection.stage not in STAGES:
        raise RefusedReplay(f"unknown stage {selection.stage!r}", remedy=f"Use one of: {', '.join(STAGES)}.")
    asked = [selection.everything, bool(selection.offsets), selection.since is not None, selection.tenant is not None]
    if not any(asked):
        raise RefusedReplay(
            "no records selected", remedy="Pass --all, --since, --from-offset, --tenant, or --document with --tenant."
        )
    if selection.everything and sum(asked) > 1:
        raise RefusedReplay("--all cannot be combined with a filter", remedy="Pass either --all or the filter.")
    if selection.offsets and selection.since is not None:
        raise RefusedReplay("--from-offset and --since cannot be combined", remedy="Pass one of them.")
    if selection.offsets and selection.document_id is not None:
        raise RefusedReplay("--from-offset and --document cannot be combined", remedy="Pass one of them.")
    if selection.document_id is not None and selection.tenant is None:
        raise RefusedReplay("--document requires --tenant", remedy="Pass --tenant too.")
    if selection.since is not None and selection.since > now:
        raise RefusedReplay(f"{selection.since.isoformat()} is in the future", remedy="Pass a time in the past.")
    return selection


def partition_of(tenant: str, document_id: str, partitions: int) -> int:
    """Return the partition of the document's records: murmur2 of the key, as all producers here compute it."""
    return int(murmur2(f"{tenant}/{document_id}".encode(), partitions))


def positions(
    selection: Selection, topic: str, bounds: Mapping[int, Range], since: Mapping[int, int]
) -> tuple[ReplayPosition, ...]:
    """Return the start and end of each selected partition.

    ``bounds`` has the first offset and the end of each partition of ``topic``; ``since`` has the first offset at or
    after the time (-1 if there is none). Raises :class:`RefusedReplay` for an offset that does not exist or no longer
    exists.
    """
    if selection.document_id is not None and selection.tenant is not None:
        numbers = [partition_of(selection.tenant, selection.document_id, len(bounds))]
    else:
        numbers = sorted(selection.offsets or bounds)
    found = []
    for number in numbers:
        start = _start(selection, topic, number, bounds, since)
        if start is not None:
            found.append(ReplayPosition(number, start, start, bounds[number].end))
    return tuple(found)


def cut_off(where: Iterable[ReplayPosition], selection: Selection, bounds: Mapping[int, Range]) -> dict[int, int]:
    """Return the selected partitions that have lost their oldest records, with the first remaining offset.

    A partition with a selected offset is never among them.
    """
    return {
        at.partition: at.start
        for at in where
        if at.partition not in selection.offsets and at.start == bounds[at.partition].start > 0
    }


def _start(
    selection: Selection, topic: str, number: int, bounds: Mapping[int, Range], since: Mapping[int, int]
) -> int | None:
    if number not in bounds:
        raise RefusedReplay(
            f"{topic} has no partition {number}", remedy=f"Use a partition from 0 to {len(bounds) - 1}."
        )
    span = bounds[number]
    if selection.since is not None:
        return None if since[number] < 0 else max(span.start, since[number])
    if number not in selection.offsets:
        return span.start
    offset = selection.offsets[number]
    if offset > span.end:
        raise RefusedReplay(
            f"offset {offset} of {topic}[{number}] is beyond its end", remedy=f"Use an offset up to {span.end}."
        )
    if offset < span.start:
        raise RefusedReplay(
            f"offset {offset} of {topic}[{number}] no longer exists: the log begins at {span.start}",
            remedy=f"Start at {topic}:{number}:{span.start}, which accepts the gap, or replay an earlier stage: the "
            "compacted topics documents and chunks keep the newest version of every document.",
        )
    return offset


def wanted(selection_tenant: str | None, document_id: str | None, key: bytes | None) -> bool:
    """Whether a record with this key is selected."""
    if selection_tenant is None:
        return True
    if document_id is not None:
        return key == f"{selection_tenant}/{document_id}".encode()
    return key is not None and key.startswith(f"{selection_tenant}/".encode())
