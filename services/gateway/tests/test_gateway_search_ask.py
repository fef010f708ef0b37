"""Search, questions and artifacts over HTTP."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from headrace.access.readers import UNNAMED
from headrace.errors import DependencyDown, UnknownPipeline
from headrace.filters.model import documents
from headrace.lexical.analyzer import Analyzer
from headrace.lexical.weights import query
from headrace.payloads import GenerationRequest
from headrace.store.artifacts import Artifact, artifact_id
from headrace.store.search import HitExplanation, Question, Shape

pytestmark = pytest.mark.unit


def make_artifact(request_id: str, tenant: str = "alpha") -> Artifact:
    """An artifact as the generator stores it."""
    return Artifact(
        tenant=tenant,
        artifact_id=artifact_id(tenant, request_id),
        version=1,
        request_id=request_id,
        kind="answer",
        title="How?",
        mime_type="text/markdown",
        text="Slowly [1].",
        citations=[{"marker": 1, "document_id": "guide.md"}],
        provider="extractive",
        model="none",
        created_at=datetime(2026, 1, 2, tzinfo=UTC),
    )


def answered_after(gateway: Any, sleeps: int) -> None:
    """Have the generator answer after so many waits."""

    def answer() -> None:
        if len(gateway.time.sleeps) == sleeps:
            request = dict(gateway.publisher.messages[0].headers)["request-id"].decode()
            found = make_artifact(request)
            gateway.store.artifacts[("alpha", found.artifact_id)] = found

    gateway.time.on_sleep = answer


async def test_search_returns_passages_of_the_keys_tenant(gateway: Any, rows: Any) -> None:
    """If it failed, hits would lack what a citation needs, or come from another tenant."""
    gateway.store.hits = [rows.hit(), rows.hit("Another.", score=0.5)]
    answer = await gateway.client.post(
        "/v1/search", json={"query": "gate?", "top_k": 1, "filter": {"field": "document", "in": ["guide.md"]}}
    )
    assert answer.status_code == 200
    (hit,) = answer.json()["hits"]
    assert (hit["document_id"], hit["section"], hit["start"], hit["end"]) == ("guide.md", ["Start", "Gate"], 10, 31)
    assert (hit["score"], hit["text"], hit["source"]) == (0.9, "Open the gate slowly.", "https://example.com/guide")
    assert set(answer.json()["timings"]) == {"embed_ms", "search_ms", "rerank_ms", "freshness_ms"}
    assert gateway.store.searches == [
        {
            "tenant": "alpha",
            "reader": UNNAMED,
            "question": Question((5).to_bytes(8, "little"), query(Analyzer(), "alpha", "gate"), sequence=("gate",)),
            "top_k": 1,
            "filters": documents(["guide.md"]),
            "shape": Shape(),
        }
    ]


@pytest.mark.parametrize(
    ("fit", "minimum", "fits", "hits"),
    [(0.5, None, True, 1), (0.05, None, False, 1), (0.05, 0.2, False, 0), (0.3, 0.2, True, 1), (None, 0.9, True, 1)],
)
async def test_search_says_whether_anything_fits(
    gateway: Any, rows: Any, fit: float | None, minimum: float | None, fits: bool, hits: int
) -> None:
    """If it failed, a client could not tell an answer from the best of nothing, or lose hits that it did not refuse."""
    gateway.store.hits, gateway.store.fit = [rows.hit()], fit
    body = {"query": "gate?"} | ({} if minimum is None else {"minimum_fit": minimum})
    answer = (await gateway.client.post("/v1/search", json=body)).json()
    assert (answer["fits"], answer["fit"], len(answer["hits"])) == (fits, fit, hits)


async def test_the_best_hits_are_ranked_again_on_request(gateway: Any, rows: Any) -> None:
    """If it failed, a reranker would be asked unasked, or see no more than the hits that are returned."""
    gateway.store.hits = [rows.hit("Short."), rows.hit("A longer passage."), rows.hit("Middle one.")]
    plain = (await gateway.client.post("/v1/search", json={"query": "gate", "top_k": 1})).json()
    ranked = (await gateway.client.post("/v1/search", json={"query": "gate", "top_k": 1, "rerank": True})).json()
    assert (plain["hits"][0]["text"], plain["reranking"]) == ("Short.", None)
    assert ranked["hits"][0]["text"] == "A longer passage."
    assert ranked["hits"][0]["relevance"] > 0
    assert ranked["reranking"] == {"ranked": 3, "wanted": 3, "missing": ""}
    assert len(ranked["hits"]) == 1


@pytest.mark.parametrize("minimum", [-0.1, 1.1, "much", [0.5]])
async def test_a_wrong_minimum_fit_is_refused_by_name(gateway: Any, minimum: object) -> None:
    """If it failed, a typing error would turn the check off."""
    for url, field in (("/v1/search", "query"), ("/v1/ask", "question")):
        answer = await gateway.client.post(url, json={field: "gate?", "minimum_fit": minimum})
        assert answer.status_code in (400, 422)
        assert "minimum_fit" in answer.text


@pytest.mark.parametrize(
    ("mode", "text", "dense", "lexical"),
    [
        ("hybrid", "gate", True, True),
        ("vector", "gate", True, False),
        ("lexical", "gate", False, True),
        ("hybrid", "?!", True, False),
        ("lexical", "?!", False, False),
        ("hybrid", "수문을 여는 방법", False, True),
        ("vector", "수문을 여는 방법", True, False),
    ],
)
async def test_a_question_has_the_legs_that_help(
    gateway: Any, mode: str, text: str, dense: bool, lexical: bool
) -> None:
    """Broken: a mode searches by something else, or a model that cannot read Korean adds noise to a Korean question."""
    gateway.store.generation = replace(gateway.store.generation, model="all-MiniLM-L6-v2")
    answer = await gateway.client.post("/v1/search", json={"query": text, "mode": mode})
    assert answer.status_code == 200
    question = gateway.store.searches[0]["question"]
    assert (question.vector is not None, bool(question.terms)) == (dense, lexical)


async def test_a_hit_is_explained_on_request(gateway: Any, rows: Any) -> None:
    """Broken: an answer does not say why a passage is in it, or says it unasked to those who pay for bytes."""
    found = HitExplanation(0.5, 3.0, {"gate": 1.0, "open": 2.0}, 2, None, 1.5)
    gateway.store.hits = [replace(rows.hit(), explanation=found)]
    answer = await gateway.client.post("/v1/search", json={"query": "open gate", "explain": True})
    assert gateway.store.searches[0]["question"].explain
    assert answer.json()["hits"][0]["explanation"] == {
        "dense": 0.5, "dense_rank": 2, "lexical": 3.0, "lexical_rank": None,
        "terms": [{"term": "open", "score": 2.0}, {"term": "gate", "score": 1.0}], "phrases": 1.5,
    }  # fmt: skip
    assert answer.json()["plan"] == {
        "generation": "g1", "model": "model", "dense": {"access": "exact", "found": 9}, "lexical": None, "documents": 3,
        "readings": 1, "dense_weight": 0.4,
    }  # fmt: skip


async def test_words_are_found_while_the_embedder_is_down(gateway: Any) -> None:
    """Broken: an outage of the model ends the searches that need none."""
    gateway.embedder.down = DependencyDown("embedder", "gone")
    codes = [
        (await gateway.client.post("/v1/search", json={"query": "gate", "mode": mode})).status_code
        for mode in ("lexical", "hybrid")
    ]
    assert codes == [200, 503]


@pytest.mark.parametrize("text", ["a\x00b", "\ud800"])
async def test_a_query_that_no_system_can_carry_is_refused(gateway: Any, text: str) -> None:
    """If it failed, such a text would fail deep inside as a 500."""
    escaped = text.encode("unicode_escape").decode().replace("\\x", "\\u00")
    answer = await gateway.client.post(
        "/v1/search", content=f'{{"query": "{escaped}"}}', headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "query"


async def test_postgresql_down_is_named(gateway: Any) -> None:
    """If it failed, a client could not tell an outage of the index from an empty one."""
    gateway.store.down = DependencyDown("postgresql")
    answer = await gateway.client.post("/v1/search", json={"query": "q"})
    assert (answer.status_code, answer.json()["dependency"]) == (503, "postgresql")


async def test_a_question_is_published_and_its_artifact_returned(gateway: Any) -> None:
    """If it failed, the generator would get another request than was asked, or its answer never arrive."""
    answered_after(gateway, 3)
    answer = await gateway.client.post(
        "/v1/ask", json={"question": "How?", "top_k": 2, "filter": {"field": "language", "eq": "ko"}}
    )
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["text"], body["provider"], body["citations"][0]["marker"]) == ("Slowly [1].", "extractive", 1)
    (message,) = gateway.publisher.messages
    assert message.topic == "t-generation-requests"
    context = gateway.codec.decode(message.value, GenerationRequest)
    assert message.key == f"alpha/{body['request_id']}".encode() == context.change.key
    assert (context.trace.pipeline_id, context.trace.pipeline_version) == ("answer", 3)
    assert context.trace.request_id == body["request_id"] == context.change.document_id
    assert context.payload == GenerationRequest("How?", top_k=2, filter='{"field": "language", "eq": "ko"}')


async def test_waiting_backs_off_and_ends_in_202(gateway: Any) -> None:
    """If it failed, waiting would hammer the store, or hold the connection longer than was asked."""
    answer = await gateway.client.post("/v1/ask", json={"question": "How?", "wait_s": 5})
    assert answer.status_code == 202
    body = answer.json()
    assert answer.headers["location"] == body["artifact_url"] == f"/v1/artifacts/{body['artifact_id']}"
    assert UUID(body["artifact_id"]) == artifact_id("alpha", body["request_id"])
    assert gateway.time.now == pytest.approx(5)
    assert gateway.time.sleeps[0] == 0.05
    assert max(gateway.time.sleeps) <= 0.5


async def test_a_question_that_was_dead_lettered_says_why(gateway: Any, rows: Any) -> None:
    """If it failed, a client would wait its whole time for an answer that never comes."""

    def give_up() -> None:
        key = gateway.publisher.messages[0].key
        gateway.flow.letters[key] = [rows.letter(stage="generator", message="too long", remedy="Ask less.")]

    gateway.time.on_sleep = give_up
    answer = await gateway.client.post("/v1/ask", json={"question": "How?"})
    assert answer.status_code == 502
    assert "too long" in answer.json()["detail"]
    assert answer.json()["remedy"] == "Ask less."
    assert len(gateway.time.sleeps) == 1


async def test_a_repeated_question_is_answered_from_its_artifact(gateway: Any) -> None:
    """If it failed, a repeat with the same key would pay for a second answer."""
    answered_after(gateway, 1)
    headers = {"Idempotency-Key": "q1"}
    first = await gateway.client.post("/v1/ask", json={"question": "How?"}, headers=headers)
    second = await gateway.client.post("/v1/ask", json={"question": "How?"}, headers=headers)
    assert first.json() == second.json()
    assert len(gateway.publisher.messages) == 1


async def test_a_key_of_another_question_is_refused(gateway: Any) -> None:
    """If it failed, a client that uses a key twice would take the first question's answer for the second's."""
    answered_after(gateway, 1)
    headers = {"Idempotency-Key": "q1"}
    await gateway.client.post("/v1/ask", json={"question": "How?"}, headers=headers)
    other = await gateway.client.post("/v1/ask", json={"question": "Why?"}, headers=headers)
    assert (other.status_code, other.json()["type"]) == (422, "urn:headrace:problem:idempotency-key")


async def test_without_the_pipeline_a_question_is_refused(gateway: Any) -> None:
    """If it failed, a request would be published that its stage can only give up."""

    def unknown(name: str) -> int:
        raise UnknownPipeline(f"pipeline {name!r} was never applied")

    gateway.replace(pipeline_version=unknown)
    answer = await gateway.client.post("/v1/ask", json={"question": "How?"})
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:headrace:problem:unknown-pipeline")
    assert gateway.publisher.messages == []


async def test_artifacts_are_the_tenants_own(gateway: Any) -> None:
    """If it failed, an artifact's id would open it to every tenant."""
    mine, theirs = make_artifact("r1"), make_artifact("r1", "beta")
    gateway.store.artifacts = {("alpha", mine.artifact_id): mine, ("beta", theirs.artifact_id): theirs}
    assert mine.artifact_id != theirs.artifact_id
    found = await gateway.client.get(f"/v1/artifacts/{mine.artifact_id}")
    assert (found.status_code, found.json()["request_id"]) == (200, "r1")
    assert (await gateway.client.get(f"/v1/artifacts/{theirs.artifact_id}")).status_code == 404
    assert (await gateway.client.get("/v1/artifacts/no-uuid")).status_code == 422
