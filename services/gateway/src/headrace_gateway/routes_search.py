"""``/v1/search``, ``/v1/ask`` and ``/v1/artifacts``."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse, Response

from headrace.envelope import Change, Context, Operation, Trace
from headrace.kafka.broker_contract import Message
from headrace.kafka.headers import OPERATION, REQUEST_ID, VERSION
from headrace.payloads import GenerationRequest
from headrace.store.artifacts import Artifact, artifact_id
from headrace.store.conditions import Filters
from headrace.store.search import Hit, HitExplanation
from headrace.topology.stages import GENERATOR
from headrace_gateway.authentication import Caller, Principal, require_own_tenant
from headrace_gateway.dependencies import Dependencies
from headrace_gateway.idempotency import checked_key, request_id
from headrace_gateway.models import (
    ArtifactDocument,
    AskRequest,
    Explanation,
    MatchedTerm,
    Pending,
    Reranking,
    SearchAnswer,
    SearchHit,
    SearchRequest,
    Timings,
)
from headrace_gateway.openapi import problems
from headrace_gateway.problems import Problem

router = APIRouter(tags=["search and generation"])

PIPELINE = "answer"
_FIRST_WAIT_S = 0.05
_LONGEST_WAIT_S = 0.5


@router.post(
    "/v1/search",
    response_model=SearchAnswer,
    summary="Find passages",
    responses=problems(400, 401, 403, 413, 422, 503),
)
async def search(request: Request, caller: Caller, body: SearchRequest) -> SearchAnswer:
    """Return the tenant's passages that match the query best."""
    dependencies: Dependencies = request.app.state.dependencies
    require_own_tenant(caller, body.tenant)
    if body.rerank and not dependencies.reranker.enabled:
        raise _no_reranker()
    begun = dependencies.clock()
    generation = await dependencies.store.active()
    question = await dependencies.questions.ask(generation, caller.tenant, body.query, body.mode, explain=body.explain)
    embedded = dependencies.clock()
    filters = Filters(None if body.document_ids is None else tuple(body.document_ids), body.attributes or None)
    depth = dependencies.reranker.depth(body.top_k) if body.rerank else body.top_k
    found = await dependencies.store.search(caller.tenant, generation, question, top_k=depth, filters=filters)
    searched = dependencies.clock()
    reranked = await dependencies.reranker.rerank(body.query, found.hits) if body.rerank else None
    done = dependencies.clock()
    timings = Timings(
        embed_ms=_milliseconds(embedded - begun),
        search_ms=_milliseconds(searched - embedded),
        rerank_ms=_milliseconds(done - searched),
    )
    fits = dependencies.questions.fits(found.fit, body.minimum_fit)
    best = (found.hits if reranked is None else reranked.hits)[: body.top_k]
    hits = best if fits or body.minimum_fit is None else ()
    reranking = None if reranked is None else Reranking.model_validate(reranked, from_attributes=True)
    return SearchAnswer(
        hits=[_hit(hit) for hit in hits], fits=fits, fit=found.fit, reranking=reranking, timings=timings
    )


def _no_reranker() -> Problem:
    return Problem(
        422,
        "no-reranker",
        "`rerank` is true, but no reranker is configured.",
        remedy="Set HEADRACE_RERANK_URL on the gateway, or leave `rerank` out.",
    )


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 2)


@router.post(
    "/v1/ask",
    response_model=ArtifactDocument,
    summary="Ask a question",
    responses={202: {"model": Pending}, **problems(400, 401, 403, 413, 422, 502, 503)},
)
async def ask(
    request: Request,
    caller: Caller,
    body: AskRequest,
    idempotency_key: Annotated[
        str | None, Header(description="Requests with the same key count as one request and get the same answer.")
    ] = None,
) -> Response:
    """Generate an answer from the tenant's documents, and wait for it up to `wait_s` seconds.

    If it takes longer, the status is 202: generation continues, and the URL in `Location` returns the answer later.
    """
    dependencies: Dependencies = request.app.state.dependencies
    require_own_tenant(caller, body.tenant)
    key = checked_key(idempotency_key)
    identity = request_id(caller.tenant, "ask", key)
    identifier = artifact_id(caller.tenant, identity)
    found = None if key is None else await dependencies.store.artifact(caller.tenant, identifier)
    if found is None:
        message = await asyncio.to_thread(_request_message, body, caller, identity, dependencies)
        await dependencies.publisher.publish([message])
        found = await _wait(dependencies, caller.tenant, identity, body.wait_s)
    if found is not None:
        if key is not None:
            _require_same_question(found, body)
        return JSONResponse(artifact_document(found).model_dump(mode="json"))
    url = f"/v1/artifacts/{identifier}"
    pending = Pending(request_id=identity, artifact_id=identifier, artifact_url=url)
    return JSONResponse(pending.model_dump(mode="json"), 202, {"Location": url, "Retry-After": "1"})


@router.get(
    "/v1/artifacts/{identifier}",
    response_model=ArtifactDocument,
    summary="Get a generated answer",
    responses=problems(401, 404, 422, 503),
)
async def artifact(request: Request, caller: Caller, identifier: UUID) -> ArtifactDocument:
    """Return the artifact's newest version."""
    dependencies: Dependencies = request.app.state.dependencies
    found = await dependencies.store.artifact(caller.tenant, identifier)
    if found is None:
        raise Problem(
            404,
            "no-artifact",
            f"Artifact {identifier} does not exist yet.",
            remedy="If you have just asked the question, try again shortly. Otherwise check the ID.",
        )
    return artifact_document(found)


def artifact_document(found: Artifact) -> ArtifactDocument:
    """Return the artifact for clients."""
    return ArtifactDocument(
        id=found.artifact_id,
        version=found.version,
        kind=found.kind,
        title=found.title,
        mime_type=found.mime_type,
        text=found.text,
        citations=[dict(citation) for citation in found.citations],
        provider=found.provider,
        model=found.model,
        request_id=found.request_id,
        created_at=found.created_at,
    )


def _request_message(body: AskRequest, caller: Principal, identity: str, dependencies: Dependencies) -> Message:
    change = Change(caller.tenant, identity, 0, Operation.UPSERT)
    trace = Trace(
        request_id=identity,
        pipeline_id=PIPELINE,
        pipeline_version=dependencies.pipeline_version(PIPELINE),
        started_at=datetime.now(UTC),
        requested_by=caller.name,
    )
    payload = GenerationRequest(
        question=body.question,
        document_ids=tuple(body.document_ids or ()),
        attributes=body.attributes or {},
        top_k=body.top_k,
        minimum_fit=body.minimum_fit,
    )
    value = dependencies.codec.encode(Context(trace, change, payload), GenerationRequest)
    headers = ((REQUEST_ID, identity.encode()), (OPERATION, b"UPSERT"), (VERSION, b"0"))
    return Message(dependencies.kafka.topic(GENERATOR.source), change.key, value, headers)


def _require_same_question(found: Artifact, body: AskRequest) -> None:
    """Reject a key that was used for another question. An artifact's title is the beginning of its question."""
    if not body.question.strip().startswith(found.title):
        raise Problem(
            422,
            "idempotency-key",
            "This Idempotency-Key was already used for another question.",
            remedy="Use a new key for a new question.",
        )


async def _wait(dependencies: Dependencies, tenant: str, identity: str, seconds: float) -> Artifact | None:
    """Return the artifact as soon as the store has it; raises :class:`Problem` 502 if the request was dead-lettered."""
    key = Change(tenant, identity, 0, Operation.UPSERT).key
    identifier = artifact_id(tenant, identity)
    deadline = dependencies.clock() + seconds
    pause = _FIRST_WAIT_S
    while (left := deadline - dependencies.clock()) > 0:
        await dependencies.sleep(min(pause, left))
        pause = min(pause * 1.5, _LONGEST_WAIT_S)
        found = await dependencies.store.artifact(tenant, identifier)
        if found is not None:
            return found
        letters = dependencies.flow.dead_letters(key)
        if letters:
            raise Problem(
                502,
                "generation-failed",
                f"The generator dead-lettered the request: {letters[-1].message}",
                remedy=letters[-1].remedy,
                reason=letters[-1].reason,
                request_id=identity,
            )
    return None


def _hit(hit: Hit) -> SearchHit:
    return SearchHit(
        document_id=hit.document_id,
        title=hit.title,
        version=hit.version,
        section=list(hit.section),
        start=hit.start,
        end=hit.end,
        text=hit.text,
        score=hit.score,
        source=hit.source,
        attributes=dict(hit.attributes),
        page=hit.page,
        language=hit.language,
        explanation=None if hit.explanation is None else _explanation(hit.explanation),
        relevance=hit.relevance,
    )


def _explanation(found: HitExplanation) -> Explanation:
    ordered = sorted(found.terms.items(), key=lambda item: (-item[1], item[0]))
    terms = [MatchedTerm(term=term, score=score) for term, score in ordered]
    return Explanation(dense=found.dense, lexical=found.lexical, terms=terms, phrases=found.phrases)
