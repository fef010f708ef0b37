"""``/v1/search``, ``/v1/ask`` and ``/v1/artifacts``."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse, Response

from headrace.access.readers import Reader
from headrace.envelope import Change, Context, Operation, Trace
from headrace.errors import DependencyDown
from headrace.filters.model import Filter, to_json
from headrace.kafka.broker_contract import Message
from headrace.kafka.headers import OPERATION, REQUEST_ID, VERSION
from headrace.payloads import GenerationRequest
from headrace.retrieval.mode import Mode
from headrace.store.artifacts import Artifact, artifact_id
from headrace.store.rows import Generation
from headrace.store.search import Found, Question, Shape, fingerprint
from headrace.topology.stages import GENERATOR
from headrace_gateway import cursors
from headrace_gateway.answers import Freshnesses, hits_of, notes_of, plan_of
from headrace_gateway.authentication import Reading, ReadingCaller, require_own_tenant
from headrace_gateway.dependencies import Dependencies
from headrace_gateway.idempotency import checked_key, request_id
from headrace_gateway.models import ArtifactDocument, Pending
from headrace_gateway.openapi import problems
from headrace_gateway.problems import Problem
from headrace_gateway.search_models import AskRequest, Reranking, SearchAnswer, SearchRequest, Timings

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
async def search(request: Request, caller: ReadingCaller, body: SearchRequest) -> SearchAnswer:
    """Return the passages that match the query best, from the documents that the reader may read.

    Quotes, operators and other signs have no meaning in a query: it is plain text.
    """
    dependencies: Dependencies = request.app.state.dependencies
    require_own_tenant(caller, body.tenant)
    if body.rerank and not dependencies.reranker.enabled:
        raise _no_reranker()
    begun = dependencies.clock()
    generation = await dependencies.store.active()
    only = body.only()
    bound = _bound(body, only, generation, caller.reader)
    seen = frozenset[bytes]() if body.cursor is None else cursors.decode(caller.tenant, bound, body.cursor)
    shape = Shape(body.per_document if body.group_by else None, body.neighbours, seen)
    freshness = Freshnesses(dependencies, caller.tenant, caller.reader)
    top_k = min(body.top_k, cursors.MAX_DEPTH - len(seen))
    try:
        question = await _question(dependencies, generation, caller.tenant, body)
        embedded = dependencies.clock()
        depth = dependencies.reranker.depth(top_k) if body.rerank else top_k
        found = await dependencies.store.search(
            caller.tenant, caller.reader, generation, question, top_k=depth, filters=only, shape=shape
        )
    except BaseException:
        freshness.cancel()
        raise
    searched = dependencies.clock()
    found, reranking = await _best(dependencies, body, found, top_k)
    reranked = dependencies.clock()
    fresh = await freshness.of(found.hits, generation)
    seen |= {fingerprint(shape.identity(hit)) for hit in found.hits}
    more = found.more and len(seen) < cursors.MAX_DEPTH
    return SearchAnswer(
        hits=hits_of(found.hits, body, question, generation, fresh),
        fits=dependencies.questions.fits(found.fit, body.minimum_fit),
        fit=found.fit,
        reranking=reranking,
        cursor=cursors.encode(caller.tenant, bound, seen) if more else None,
        notes=notes_of(body, question, generation),
        timings=Timings(
            embed_ms=_ms(begun, embedded), search_ms=_ms(embedded, searched), rerank_ms=_ms(searched, reranked),
            freshness_ms=_ms(reranked, dependencies.clock()),
        ),
        plan=plan_of(found.plan, question, generation) if body.explain else None,
    )  # fmt: skip


async def _best(
    dependencies: Dependencies, body: SearchRequest, found: Found, top_k: int
) -> tuple[Found, Reranking | None]:
    """Return the hits to show, none if they do not fit, and what the reranker did if it was asked."""
    if body.minimum_fit is not None and not dependencies.questions.fits(found.fit, body.minimum_fit):
        return replace(found, hits=(), more=False), None
    if not body.rerank:
        return found, None
    again = await dependencies.reranker.rerank(body.query, found.hits)
    shown = replace(found, hits=again.hits[:top_k], more=found.more or len(again.hits) > top_k)
    return shown, Reranking.model_validate(again, from_attributes=True)


def _no_reranker() -> Problem:
    return Problem(
        422,
        "no-reranker",
        "`rerank` is true, but no reranker is configured.",
        remedy="Set HEADRACE_RERANK_URL on the gateway, or leave `rerank` out.",
    )


async def _question(dependencies: Dependencies, generation: Generation, tenant: str, body: SearchRequest) -> Question:
    try:
        return await dependencies.questions.ask(generation, tenant, body.query, body.mode, explain=body.explain)
    except DependencyDown as error:
        if body.mode is not Mode.HYBRID:
            raise
        remedy = (
            'Search by words alone with "mode": "lexical", or send the request again after the time in Retry-After.'
        )
        raise DependencyDown(error.dependency, error.message, delay=error.delay, remedy=remedy) from error


def _bound(body: SearchRequest, only: Filter | None, generation: Generation, reader: Reader) -> dict[str, str]:
    """Return the parts of a search that a cursor is bound to."""
    return {
        "query": body.query,
        "mode": body.mode,
        "filter": "" if only is None else json.dumps(to_json(only)),
        "group_by": body.group_by or "",
        "the generation of the index": generation.name,
        "the reader": reader.setting,
    }


def _ms(begun: float, ended: float) -> float:
    return round((ended - begun) * 1000, 2)


@router.post(
    "/v1/ask",
    response_model=ArtifactDocument,
    summary="Ask a question",
    responses={202: {"model": Pending}, **problems(400, 401, 403, 413, 422, 502, 503)},
)
async def ask(
    request: Request,
    caller: ReadingCaller,
    body: AskRequest,
    idempotency_key: Annotated[
        str | None, Header(description="Requests with the same key count as one request and get the same answer.")
    ] = None,
) -> Response:
    """Generate an answer from the documents that the reader may read, and wait for it up to `wait_s` seconds.

    If it takes longer, the status is 202: generation continues, and the URL in `Location` returns the answer later.
    """
    dependencies: Dependencies = request.app.state.dependencies
    require_own_tenant(caller, body.tenant)
    key = checked_key(idempotency_key)
    identity = request_id(caller.tenant, caller.reader, "ask", key)
    identifier = artifact_id(caller.tenant, identity)
    found = None if key is None else await dependencies.store.artifact(caller.tenant, caller.reader, identifier)
    if found is None:
        message = await asyncio.to_thread(_request_message, body, caller, identity, dependencies)
        await dependencies.publisher.publish([message])
        found = await _wait(dependencies, caller, identity, body.wait_s)
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
async def artifact(request: Request, caller: ReadingCaller, identifier: UUID) -> ArtifactDocument:
    """Return the artifact's newest version.

    It exists for the reader who asked, as long as he may read all documents that it was made from.
    """
    dependencies: Dependencies = request.app.state.dependencies
    found = await dependencies.store.artifact(caller.tenant, caller.reader, identifier)
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


def _request_message(body: AskRequest, caller: Reading, identity: str, dependencies: Dependencies) -> Message:
    change = Change(caller.tenant, identity, 0, Operation.UPSERT)
    trace = Trace(
        request_id=identity,
        pipeline_id=PIPELINE,
        pipeline_version=dependencies.pipeline_version(PIPELINE),
        started_at=datetime.now(UTC),
        requested_by=caller.name,
    )
    only = body.only()
    payload = GenerationRequest(
        question=body.question,
        top_k=body.top_k,
        reader=caller.reader.names,
        filter=None if only is None else json.dumps(to_json(only), ensure_ascii=False),
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


async def _wait(dependencies: Dependencies, caller: Reading, identity: str, seconds: float) -> Artifact | None:
    """Return the artifact as soon as the store has it; raises :class:`Problem` 502 if the request was dead-lettered."""
    key = Change(caller.tenant, identity, 0, Operation.UPSERT).key
    identifier = artifact_id(caller.tenant, identity)
    deadline = dependencies.clock() + seconds
    pause = _FIRST_WAIT_S
    while (left := deadline - dependencies.clock()) > 0:
        await dependencies.sleep(min(pause, left))
        pause = min(pause * 1.5, _LONGEST_WAIT_S)
        found = await dependencies.store.artifact(caller.tenant, caller.reader, identifier)
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
