"""``/v1/documents``: the status of one document, lookup of many, and a list by attributes.

A document that the reader may not read is answered like one that does not exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request

from headrace.documents.status import DeadLetterEntry, Verdict, Waiting, complete_to, judge, visible
from headrace.envelope import Change, Operation, check_change
from headrace.errors import DependencyDown
from headrace.kafka.constants import LATEST_MS
from headrace.store.documents import DocumentRow, DocumentState
from headrace_gateway.authentication import ReadingCaller, require_own_tenant
from headrace_gateway.dependencies import Dependencies
from headrace_gateway.flow import FlowState
from headrace_gateway.models import (
    DeadLetterDocument,
    DocumentsAnswer,
    DocumentsRequest,
    DocumentStatus,
    HeldDocument,
    ListedDocument,
    LookupAnswer,
    LookupItem,
    LookupRequest,
    LookupResult,
    StageRunDocument,
    StoredDocument,
    WaitingDocument,
)
from headrace_gateway.openapi import problems
from headrace_gateway.problems import Problem

router = APIRouter(tags=["documents"])


@router.get(
    "/v1/documents/{identifier:path}",
    response_model=DocumentStatus,
    summary="Get the status of a document",
    responses=problems(401, 404, 422, 503),
)
async def document(request: Request, caller: ReadingCaller, identifier: str) -> DocumentStatus:
    """Return the state of the newest known version: in the index, between stages, held, or dead-lettered."""
    dependencies: Dependencies = request.app.state.dependencies
    key = _key(caller.tenant, identifier)
    row = await dependencies.store.document(caller.tenant, caller.reader, identifier)
    notes = []
    try:
        flow = await dependencies.flow.waiting(key)
    except DependencyDown as error:
        if row is None:
            raise
        flow = FlowState(complete=False)
        notes.append(f"{error.dependency} does not answer, so records between the stages are unknown.")
    else:
        if not flow.complete:
            notes.append(
                "More records wait between the stages than the gateway reads; a newer version may be in flight."
            )
    searched = (await dependencies.store.active()).name
    waiting = visible(caller.reader, flow.waiting, row)
    verdict = judge(row, waiting, visible(caller.reader, dependencies.flow.dead_letters(key), row), searched)
    if verdict.state == "unknown" and flow.complete:
        raise Problem(
            404,
            "no-document",
            f"Document {identifier[:200]!r} is unknown.",
            remedy="Check the ID: it must be the document ID that was sent, percent-encoded. For very recent failures, "
            "run `headrace trace ID`.",
        )
    return _status(identifier, row, waiting, verdict, notes)


@router.post(
    "/v1/documents:lookup",
    response_model=LookupAnswer,
    summary="Look up documents in the index",
    responses=problems(400, 401, 403, 413, 422, 503),
)
async def lookup(request: Request, caller: ReadingCaller, body: LookupRequest) -> LookupAnswer:
    """Return for each document whether the index has the version (or the request's change), or its dead letter."""
    dependencies: Dependencies = request.app.state.dependencies
    require_own_tenant(caller, body.tenant)
    stored = await dependencies.store.states(caller.tenant, caller.reader, [item.id for item in body.documents])
    searched = (await dependencies.store.active()).name
    results = []
    for item in body.documents:
        state = stored.get(item.id)
        letters = visible(caller.reader, dependencies.flow.dead_letters(_key(caller.tenant, item.id)), state)
        results.append(_looked_up(item, body.request_id, state, searched, letters))
    return LookupAnswer(documents=results)


@router.post(
    "/v1/documents:search",
    response_model=DocumentsAnswer,
    summary="List documents by attributes",
    responses=problems(400, 401, 403, 413, 422, 503),
)
async def having(request: Request, caller: ReadingCaller, body: DocumentsRequest) -> DocumentsAnswer:
    """Return one page of the documents in the index that have all of the attributes, ordered by ID."""
    dependencies: Dependencies = request.app.state.dependencies
    require_own_tenant(caller, body.tenant)
    found = await dependencies.store.having(
        caller.tenant, caller.reader, body.attributes, after=body.after, limit=body.limit + 1
    )
    page = found[: body.limit]
    return DocumentsAnswer(
        documents=[
            ListedDocument(
                id=one.document_id,
                version=one.version,
                title=one.title,
                source=one.source,
                attributes=dict(one.attributes),
                request_id=one.request_id,
                indexed_at=one.indexed_at,
            )
            for one in page
        ],
        next=page[-1].document_id if len(found) > len(page) else None,
    )


def _looked_up(
    item: LookupItem, request_id: str | None, state: DocumentState | None, searched: str,
    letters: Sequence[DeadLetterEntry],
) -> LookupResult:  # fmt: skip
    if state is None:
        arrived = False
    elif item.version is not None:
        arrived = complete_to(state, searched) >= item.version
    else:
        whole = complete_to(state, searched) == state.version
        arrived = whole and (request_id is None or state.request_id == request_id)
    letter = None
    if not arrived:
        matching = [one for one in letters if _concerns(one, item.version, request_id)]
        letter = matching[-1] if matching else None
    return LookupResult(
        id=item.id,
        version=None if state is None else state.version,
        indexed=arrived,
        deleted=state is not None and state.deleted,
        dead_letter=None if letter is None else _letter(letter),
    )


def _concerns(letter: DeadLetterEntry, version: int | None, request_id: str | None) -> bool:
    if request_id is not None and letter.request_id is not None:
        return letter.request_id == request_id
    return version is None or letter.version is None or letter.version == version


def _status(
    identifier: str, row: DocumentRow | None, waiting: Sequence[Waiting], verdict: Verdict, notes: list[str]
) -> DocumentStatus:
    if verdict.waiting is not None:
        stages: list[Any] = [asdict(run) for run in verdict.waiting.history]
    else:
        stages = list(row.history) if row is not None and verdict.dead_letter is None else []
    return DocumentStatus(
        id=identifier,
        state=verdict.state,
        version=verdict.version,
        waiting_for=None if verdict.waiting is None else verdict.waiting.stage,
        held=None if verdict.waiting is None else _held(verdict.waiting),
        stages=[StageRunDocument.model_validate(run) for run in stages],
        dead_letter=None if verdict.dead_letter is None else _letter(verdict.dead_letter),
        stored=None if row is None else _stored(row),
        in_flight=[
            WaitingDocument(
                stage=one.stage,
                version=one.version,
                operation=one.operation,
                request_id=one.request_id,
                partition=one.partition,
                offset=one.offset,
            )
            for one in waiting
            if one.hold is None
        ],
        notes=notes,
    )


def _held(waiting: Waiting) -> HeldDocument | None:
    hold = waiting.hold
    if hold is None:
        return None
    return HeldDocument(
        stage=waiting.stage,
        waits_for=hold.kind,
        scope=hold.scope,
        why=hold.why,
        since=datetime.fromtimestamp(min(hold.since_ms, LATEST_MS) / 1000, UTC),
        ends=hold.ends,
    )


def _stored(row: DocumentRow) -> StoredDocument:
    return StoredDocument(
        version=row.version,
        deleted=row.deleted,
        title=row.title,
        source=row.source,
        media_type=row.media_type,
        attributes=dict(row.attributes),
        chunks=row.chunks,
        model=row.model,
        generations=list(row.generations),
        pipeline=f"{row.pipeline_id}@{row.pipeline_version}",
        request_id=row.request_id,
        indexed_at=row.indexed_at,
    )


def _letter(letter: DeadLetterEntry) -> DeadLetterDocument:
    return DeadLetterDocument(
        stage=letter.stage,
        reason=letter.reason,
        message=letter.message,
        remedy=letter.remedy,
        version=letter.version,
        request_id=letter.request_id,
        partition=letter.partition,
        offset=letter.offset,
    )


def _key(tenant: str, identifier: str) -> bytes:
    """Return the document's key; raises :class:`headrace.errors.InvalidRecord` for an invalid ID."""
    return check_change(Change(tenant, identifier, 0, Operation.UPSERT)).key
