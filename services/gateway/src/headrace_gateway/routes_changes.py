"""``POST /v1/changes``: publishes changes to the topic ``changes`` and answers after the acknowledgement."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import JSONResponse

from headrace.access.readers import UNNAMED
from headrace.envelope import Change, Operation
from headrace.kafka.broker_contract import Message
from headrace.kafka.headers import OPERATION, REQUEST_ID, RUN, VERSION
from headrace.topology.stages import INGEST
from headrace_gateway import metrics
from headrace_gateway.authentication import Caller, Principal, require_own_tenant
from headrace_gateway.change_body import default_idempotency_key, fingerprint, read_items
from headrace_gateway.change_models import ChangeItem, CheckedBatch, check_batch, named_tenants
from headrace_gateway.dependencies import Dependencies
from headrace_gateway.idempotency import AnswerCache, checked_key, request_id
from headrace_gateway.models import Accepted
from headrace_gateway.openapi import CHANGES_BODY, problems
from headrace_gateway.problems import Problem
from headrace_gateway.publisher import Delivered

router = APIRouter(tags=["changes"])


@router.post(
    "/v1/changes",
    status_code=202,
    response_model=Accepted,
    summary="Publish changes of documents",
    openapi_extra=CHANGES_BODY,
    responses=problems(400, 401, 403, 409, 413, 415, 422, 503),
)
async def post_changes(
    request: Request,
    caller: Caller,
    partial: Annotated[bool, Query(description="Publish the valid changes even if others are rejected.")] = False,
    run: Annotated[
        str | None,
        Header(
            alias="Headrace-Run",
            pattern=r"^[A-Za-z0-9._:-]{1,128}$",
            description="Name of the run that these changes belong to. A run can span many requests.",
        ),
    ] = None,
) -> JSONResponse:
    """Publish one or more changes; answers once all of them are stored durably in the log.

    Requests with the same `Idempotency-Key` count as one request and get the same answer.
    """
    dependencies: Dependencies = request.app.state.dependencies
    answers: AnswerCache = request.app.state.answers
    key = checked_key(default_idempotency_key(request.headers))
    identity = request_id(caller.tenant, caller.reader or UNNAMED, "changes", key)
    body = await request.body()

    async def work() -> dict[str, Any]:
        batch = _checked(read_items(body, request.headers), caller, dependencies, partial=partial)
        return await _publish(batch, caller, identity, run, dependencies)

    said = fingerprint(body, request.headers, partial=partial)
    answer = await (work() if key is None else answers.once(identity, said, work))
    return JSONResponse(answer, 202)


def _checked(raw: list[object], caller: Principal, dependencies: Dependencies, *, partial: bool) -> CheckedBatch:
    settings = dependencies.settings
    if len(raw) > settings.max_changes:
        raise Problem(
            413,
            "too-many",
            f"The request has {len(raw)} changes; the limit is {settings.max_changes}.",
            remedy="Split the changes across several requests.",
        )
    for named in named_tenants(raw):
        require_own_tenant(caller, named)
    batch = check_batch(raw, caller.tenant, settings.max_content_bytes)
    metrics.CHANGES_REFUSED.inc(len({error.index for error in batch.errors}))
    if batch.errors and not (partial and batch.items):
        raise _refused(batch)
    return batch


def _refused(batch: CheckedBatch) -> Problem:
    indexes = {error.index for error in batch.errors}
    only_size = all(error.too_large for error in batch.errors)
    return Problem(
        413 if only_size else 422,
        "too-large" if only_size else "invalid-changes",
        f"{len(indexes)} of {len(indexes) + len(batch.items)} changes are invalid; nothing was published.",
        remedy="Correct the changes in `errors` and send the request again, or publish the others with ?partial=true.",
        errors=[error.document() for error in batch.errors],
    )


async def _publish(
    batch: CheckedBatch, caller: Principal, identity: str, run: str | None, dependencies: Dependencies
) -> dict[str, Any]:
    items = [item for _, item in batch.items]
    messages = await asyncio.to_thread(_messages, items, caller, identity, run, dependencies)
    delivered = await dependencies.publisher.publish(messages)
    for item in items:
        metrics.CHANGES.labels(item.op).inc()
    return {
        "request_id": identity,
        "accepted": len(items),
        "documents": [_accepted(item, place) for item, place in zip(items, delivered, strict=True)],
        "errors": [error.document() for error in batch.errors],
    }


def _messages(
    items: list[ChangeItem], caller: Principal, identity: str, run: str | None, dependencies: Dependencies
) -> list[Message]:
    """Encode the items. Calls the registry once, so it runs in a thread."""
    topic = dependencies.kafka.topic(INGEST.source)
    limit = dependencies.kafka.max_message_bytes
    messages = []
    for item in items:
        value = dependencies.codec.encode_plain(item.event(caller.tenant, identity, caller.name))
        if len(value) > limit:
            raise Problem(
                413, "too-large", f"The change to {item.id[:200]!r} has {len(value)} bytes; the limit is {limit}."
            )
        operation = Operation(item.op.upper())
        headers = [(REQUEST_ID, identity.encode()), (OPERATION, operation.value.encode())]
        if item.version is not None:
            headers.append((VERSION, str(item.version).encode()))
        if run is not None:
            headers.append((RUN, run.encode()))
        key = Change(caller.tenant, item.id, item.version or 0, operation).key
        messages.append(Message(topic, key, value, tuple(headers)))
    return messages


def _accepted(item: ChangeItem, place: Delivered) -> dict[str, Any]:
    """Return the client's result for one change; without a version, the offset is the document's version."""
    version = place.offset if item.version is None else item.version
    return {"id": item.id, "version": version, "status_url": f"/v1/documents/{quote(item.id, safe='')}"}
