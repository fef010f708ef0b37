"""Assembles a document's trace from the records of its partitions. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from headrace.documents.status import DeadLetterEntry, Waiting, change_version, entry_of, judge
from headrace.envelope import StageRun
from headrace.kafka import headers
from headrace.kafka.broker_contract import Record
from headrace.orders.holds import Hold, hold_of
from headrace.payloads import DeadLetter, DeadLetterAction
from headrace.store.documents import DocumentRow
from headrace.topology.stages import STAGES
from headrace_operations.trace.advice import advice
from headrace_operations.trace.model import (
    Copy,
    DocumentTrace,
    Held,
    Lane,
    Letter,
    Place,
    Step,
    VersionState,
    VersionTrace,
)

_OUTCOMES: Mapping[str, VersionState] = {
    "INDEXED": "indexed",
    "UNCHANGED": "indexed",
    "DELETED": "deleted",
    "SUPERSEDED": "superseded",
    "CONFLICT": "conflict",
}


@dataclass(frozen=True, slots=True)
class Seen:
    """A record of the document; ``history`` and ``outcome`` are set if its body has them.

    ``stage`` is the one that reads the topic, None at the end of the flow; ``behind`` is None if the stage took it.
    """

    record: Record
    lane: Lane
    stage: str | None
    behind: int | None
    version: int | None = None
    history: tuple[StageRun, ...] = ()
    outcome: str | None = None


@dataclass(frozen=True, slots=True)
class SeenLetter:
    """A dead letter of the document with its position and its action."""

    letter: DeadLetter
    partition: int
    offset: int
    action: DeadLetterAction | None = None

    @property
    def id(self) -> str:
        """Its ID, ``stage/partition/offset``."""
        return f"{self.letter.stage}/{self.partition}/{self.offset}"

    @property
    def entry(self) -> DeadLetterEntry:
        """The input for :func:`headrace.documents.status.judge`."""
        return entry_of(self.letter, self.partition, self.offset)


@dataclass(frozen=True, slots=True)
class Material:
    """Everything known about one document; ``paused`` says, by stage, who paused it and why."""

    tenant: str
    document_id: str
    row: DocumentRow | None
    seen: Sequence[Seen]
    letters: Sequence[SeenLetter]
    paused: Mapping[str, str]
    notes: tuple[str, ...] = ()
    generation: str = "g1"


def assemble(material: Material) -> DocumentTrace:
    """Return the trace; its state is the one that ``GET /v1/documents/{id}`` would return."""
    seen = [replace(one, version=version) for one, version in _versions(material.seen)]
    row = material.row
    waiting = [_waiting(one) for one in seen if one.behind is not None]
    open_letters = [one.entry for one in material.letters if one.action is None]
    open_letters.sort(key=lambda entry: entry.failed_at_ms)
    verdict = judge(row, waiting, open_letters, material.generation)
    known = {one.version for one in seen} | {one.entry.version for one in material.letters}
    if row is not None:
        known.add(row.version)
    order = sorted(known, key=lambda version: -1 if version is None else version, reverse=True)
    return DocumentTrace(
        tenant=material.tenant,
        document_id=material.document_id,
        state=verdict.state,
        version=verdict.version,
        stored=row,
        versions=tuple(_version(material, version, seen) for version in order),
        notes=material.notes,
    )


def _versions(seen: Sequence[Seen]) -> Iterator[tuple[Seen, int | None]]:
    """Assign each record its version; a change without a version header gets the one of its later stage runs."""
    followed = {
        (run.topic, run.partition, run.offset): one.version
        for one in seen
        for run in one.history
        if one.version is not None and run.stage == "ingest"
    }
    came_from = {
        _first(one): followed[one.record[:3]] for one in seen if one.lane != "live" and one.record[:3] in followed
    }
    for one in seen:
        if one.version is not None or one.stage != "ingest":
            yield one, one.version
            continue
        known = followed.get(one.record[:3], came_from.get(_first(one)))
        yield one, change_version(headers.texts(one.record), _first(one)[1]) if known is None else known


def _first(one: Seen) -> tuple[int, int]:
    """Return the partition and offset at which ingest first read the change."""
    if one.lane == "live":
        return one.record.partition, one.record.offset
    first = headers.origin(one.record)
    return first.partition, first.offset


def _version(material: Material, version: int | None, all_seen: Sequence[Seen]) -> VersionTrace:
    seen = sorted((one for one in all_seen if one.version == version), key=lambda one: one.record.timestamp_ms)
    letters = sorted(
        (one for one in material.letters if one.entry.version == version), key=lambda one: one.letter.failed_at
    )
    row = material.row if material.row is not None and material.row.version == version else None
    ends = [one for one in seen if one.outcome is not None]
    outcome = ends[0].outcome if ends else None
    places = tuple(_place(one, material.paused) for one in seen if one.behind is not None)
    state = _state(material.row, version, outcome, places, letters)
    requests = [headers.text(one.record, headers.REQUEST_ID) for one in seen]
    requests += [row.request_id if row is not None else None, *(one.entry.request_id for one in letters)]
    operations = [headers.text(one.record, headers.OPERATION) for one in seen]
    trace = VersionTrace(
        version=version,
        state=state,
        operation=next((one for one in operations if one), "DELETE" if row is not None and row.deleted else None),
        request_ids=_distinct(requests),
        runs=_distinct(headers.text(one.record, headers.RUN) for one in seen),
        outcome=outcome,
        indexed_ms=ends[0].record.timestamp_ms if ends else None,
        steps=_steps(seen, row),
        waiting=places,
        dead_letters=tuple(_letter(one) for one in letters),
        records=tuple(
            Copy(one.record.topic, one.record.partition, one.record.offset, one.record.timestamp_ms) for one in seen
        ),
        advice=(),
    )
    return replace(trace, advice=advice(material.tenant, material.document_id, trace))


def _state(
    row: DocumentRow | None,
    version: int | None,
    outcome: str | None,
    places: Sequence[Place],
    letters: Sequence[SeenLetter],
) -> VersionState:
    """Return the state of the version: the store decides first, then the pending records."""
    if row is not None and row.version == version:
        return "deleted" if row.deleted else "indexed"
    if row is not None and version is not None and row.version > version:
        return "conflict" if outcome == "CONFLICT" else "superseded"
    if places:
        return "in_flight"
    if any(one.action is None for one in letters):
        return "dead_lettered"
    if outcome is not None:
        return _OUTCOMES.get(outcome, "unknown")
    return "discarded" if any(one.action and one.action.action == "DISCARDED" for one in letters) else "unknown"


def _steps(seen: Sequence[Seen], row: DocumentRow | None) -> tuple[Step, ...]:
    """Return every stage run in a record or the store's row, once, in order of time."""
    steps = {_step(run) for one in seen for run in one.history}
    if row is not None:
        steps |= {_step(_run(run)) for run in row.history}
    order = list(STAGES)
    return tuple(
        sorted(
            steps, key=lambda step: (step.started_at, order.index(step.stage) if step.stage in order else len(order))
        )
    )


def _run(values: Mapping[str, Any]) -> StageRun:
    """Return a stage run from its stored form."""
    started_at = datetime.fromisoformat(values["started_at"])
    return StageRun(**{**values, "handlers": tuple(values["handlers"]), "started_at": started_at})


def _step(run: StageRun) -> Step:
    return Step(
        run.stage, run.handlers, run.worker, run.topic, run.partition, run.offset, run.attempt, run.started_at,
        run.duration_us,
    )  # fmt: skip


def _place(one: Seen, paused: Mapping[str, str]) -> Place:
    record, stage = one.record, one.stage or ""
    return Place(
        lane=one.lane,
        stage=stage,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        behind=one.behind or 0,
        attempt=headers.attempt(record) if one.lane == "retry" else 1,
        due_ms=headers.number(record, headers.RETRY_DUE, 0) if one.lane == "retry" else None,
        operation=headers.text(record, headers.OPERATION),
        request_id=headers.text(record, headers.REQUEST_ID),
        paused=paused.get(stage),
        held=_held(record, stage) if one.lane == "held" else None,
    )


def _held(record: Record, stage: str) -> Held:
    hold = _hold(record, stage)
    return Held(_identity(record, stage), hold.kind, hold.scope, hold.why)


def _hold(record: Record, stage: str) -> Hold:
    return hold_of(headers.texts(record), _identity(record, stage))


def _identity(record: Record, stage: str) -> str:
    return f"{stage}/{record.partition}/{record.offset}"


def _waiting(one: Seen) -> Waiting:
    record, stage = one.record, one.stage or ""
    return Waiting(
        stage, one.version, headers.text(record, headers.OPERATION), headers.text(record, headers.REQUEST_ID),
        record.partition, record.offset, one.history, _hold(record, stage) if one.lane == "held" else None,
    )  # fmt: skip


def _letter(one: SeenLetter) -> Letter:
    letter, action, entry = one.letter, one.action, one.entry
    carried = {part.name: part.value for part in letter.headers}
    redrive = carried.get(headers.REDRIVE)
    return Letter(
        id=one.id,
        stage=letter.stage,
        reason=letter.reason,
        message=letter.message,
        remedy=letter.remedy,
        handler=letter.handler,
        worker=letter.worker,
        attempt=letter.attempt,
        failed_at=letter.failed_at,
        origin=f"{letter.topic}/{letter.partition}/{letter.offset}",
        version=entry.version,
        request_id=entry.request_id,
        state="open" if action is None else "discarded" if action.action == "DISCARDED" else "redriven",
        acted_by=None if action is None else action.acted_by,
        acted_at=None if action is None else action.acted_at,
        why=None if action is None or not action.why else action.why,
        redrive_of=None if redrive is None else redrive.decode("utf-8", "replace"),
    )


def _distinct(values: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for value in values if value))
