"""Filters, pages, highlights, freshness and notes of search over HTTP, and what a wrong request gets."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace
from typing import Any

import pytest

from headrace.documents.status import Waiting
from headrace.errors import DependencyDown
from headrace.filters.model import Condition, Operator
from headrace.orders.holds import Hold
from headrace.store.neighbours import Neighbours, Passage
from headrace.store.search import Shape
from headrace_gateway import cursors
from headrace_gateway.flow import FlowState

pytestmark = pytest.mark.unit

YEAR = {"field": "attributes.year", "gte": 2020}


async def search(gateway: Any, **body: Any) -> Any:
    """The answer of a search; it must succeed."""
    answer = await gateway.client.post("/v1/search", json={"query": "gate", **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def refused(gateway: Any, **body: Any) -> dict[str, Any]:
    """The problem document of a search that is refused."""
    answer = await gateway.client.post("/v1/search", json={"query": "gate", **body})
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert gateway.store.searches == []
    return document


@pytest.mark.parametrize(
    ("body", "field", "reason"),
    [
        ({"filter": {"and": [YEAR, {"field": "colour", "eq": 1}]}}, "filter.and[1].field", "not a known field"),
        ({"filter": {"field": "version", "gte": "seven"}}, "filter.gte", "whole number"),
        ({"filter": {"not": {"not": {"field": "version", "regex": 1}}}}, "filter.not.not.regex", "not an operator"),
        ({"filter": []}, "filter", "must be an object"),
        ({"filter": {"field": "document", "eq": "a\x00"}}, "filter.eq", "NUL"),
        ({"filter": {"or": [YEAR] * 65}}, "filter.or[64]", "limit is 64"),
        ({"document_ids": ["a"]}, "document_ids", "not a known field"),
        ({"query": ""}, "query", "at least 1 character"),
        ({"query": " \n\t　"}, "query", "no character but spaces"),
        ({"query": "x" * 10_001}, "query", "at most 10000 characters"),
        ({"query": 5}, "query", "valid string"),
        ({"mode": "semantic"}, "mode", "'hybrid', 'vector' or 'lexical'"),
        ({"top_k": 0}, "top_k", "greater than or equal to 1"),
        ({"top_k": 101}, "top_k", "less than or equal to 100"),
        ({"top_k": "many"}, "top_k", "valid integer"),
        ({"neighbours": 11}, "neighbours", "less than or equal to 10"),
        ({"group_by": "section"}, "group_by", "'document'"),
        ({"per_document": 2}, "per_document", "needs"),
        ({"group_by": "document", "per_document": 11}, "per_document", "less than or equal to 10"),
        ({"cursor": ""}, "cursor", "at least 1 character"),
        ({"cursor": "x" * 10_000}, "cursor", "at most"),
        ({"cursor": "no cursor!"}, "cursor", "is not a cursor of this API"),
        ({"cursor": base64.urlsafe_b64encode(b"\x01" + bytes(60)).decode()}, "cursor", "damaged"),
    ],
)
async def test_a_wrong_request_is_refused_with_the_field(
    gateway: Any, body: dict[str, Any], field: str, reason: str
) -> None:
    """Broken: a caller must guess what is wrong, or a wrong request is searched for."""
    (error,) = (await refused(gateway, **body))["errors"]
    assert (error["field"], reason in error["reason"]) == (field, True), error


@pytest.mark.parametrize(
    "query",
    ["?!", "'; DROP TABLE chunk; --", "a AND (b OR NOT c)", 'title:"x" ~2 +must -not *', "{$ne: 1}", "x" * 10_000,
     "a\\'b\"", "(((", "한국어 AND"],
)  # fmt: skip
async def test_signs_of_any_query_language_are_plain_text(gateway: Any, query: str) -> None:
    """Broken: quotes or operators in a question break the search, or mean something."""
    await search(gateway, query=query)
    assert len(gateway.store.searches) == 1


async def test_a_filter_and_a_shape_reach_the_store(gateway: Any) -> None:
    """Broken: what a caller asks for is dropped on the way, and more is searched than allowed."""
    await search(gateway, filter=YEAR, group_by="document", per_document=2, neighbours=1)
    (asked,) = gateway.store.searches
    assert asked["filters"].field == "attributes.year"
    assert asked["shape"] == Shape(2, 1)
    await search(gateway, filter={"field": "language", "eq": "ko"})
    assert gateway.store.searches[1]["filters"] == Condition("language", Operator.EQ, "ko")
    assert gateway.store.searches[1]["shape"] == Shape()


async def test_neighbours_and_highlights_stand_with_their_hit(gateway: Any, rows: Any) -> None:
    """Broken: a client cannot show where the words of a Korean query stand, or what stands around a hit."""
    near = Neighbours((Passage(("Start",), 0, 9, 0, "수문 앞"),), ())
    gateway.store.hits = [rows.hit("서울의 수문을 연다. Gates open.", neighbours=near)]
    (hit,) = (await search(gateway, query="수문 gate", highlight=True))["hits"]
    assert [hit["text"][start:end] for start, end in hit["highlights"]] == ["수문", "Gates"]
    assert hit["neighbours"] == {
        "before": [{"section": ["Start"], "start": 0, "end": 9, "text": "수문 앞"}],
        "after": [],
    }
    (plain,) = (await search(gateway, query="수문 gate"))["hits"]
    assert plain["highlights"] is None


async def test_pages_follow_their_cursor(gateway: Any, rows: Any) -> None:
    """Broken: a hit is shown twice, or the pages never end."""
    gateway.store.hits = [rows.hit(f"Gate {n}", chunk_id=n.to_bytes(16, "big")) for n in range(7)]
    texts, cursor, pages = [], None, 0
    while cursor is not None or not pages:
        page = await search(gateway, top_k=3, **({} if cursor is None else {"cursor": cursor}))
        texts += [hit["text"] for hit in page["hits"]]
        cursor, pages = page["cursor"], pages + 1
    assert texts == [f"Gate {n}" for n in range(7)]
    assert pages == 3


async def test_a_search_shows_at_most_a_thousand_hits(gateway: Any, rows: Any) -> None:
    """Broken: pages read ever deeper, and one caller keeps PostgreSQL busy."""
    gateway.store.hits = [rows.hit(f"Gate {n}", chunk_id=n.to_bytes(16, "big")) for n in range(1500)]
    shown, page = 0, await search(gateway, top_k=95)
    while True:
        shown += len(page["hits"])
        if page["cursor"] is None:
            break
        assert len(page["cursor"]) <= cursors.MAX_CURSOR
        page = await search(gateway, top_k=95, cursor=page["cursor"])
    assert shown == 1000


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"query": "other"}, "query differs"),
        ({"mode": "lexical"}, "mode differs"),
        ({"filter": YEAR}, "filter differs"),
        ({"group_by": "document"}, "group_by differs"),
    ],
)
async def test_a_cursor_of_another_search_is_refused(
    gateway: Any, rows: Any, change: dict[str, Any], reason: str
) -> None:
    """Broken: the second page belongs to another search than the first, and hits are missing without a word."""
    gateway.store.hits = [rows.hit(chunk_id=bytes([n] * 16)) for n in range(3)]
    cursor = (await search(gateway, top_k=1))["cursor"]
    gateway.store.searches.clear()
    document = await refused(gateway, cursor=cursor, top_k=1, **change)
    assert document["type"] == "urn:headrace:problem:invalid-cursor"
    assert document["errors"] == [{"field": "cursor", "reason": f"was made for another search: {reason}"}]
    assert "first page" in document["remedy"]


async def test_a_cursor_is_bound_to_generation_and_tenant_and_unchanged(gateway: Any, rows: Any) -> None:
    """Broken: a cursor works after a switch of the index, for another tenant, or with a changed byte."""
    gateway.store.hits = [rows.hit(chunk_id=bytes([n] * 16)) for n in range(3)]
    cursor = (await search(gateway, top_k=1))["cursor"]
    gateway.store.searches.clear()
    for at in range(0, len(cursor), 7):
        changed = cursor[:at] + ("A" if cursor[at] != "A" else "B") + cursor[at + 1 :]
        await refused(gateway, cursor=changed, top_k=1)
    other = await gateway.client.post(
        "/v1/search", json={"query": "gate", "cursor": cursor}, headers={"Authorization": "Bearer hr_beta"}
    )
    assert (other.status_code, other.json()["errors"][0]["field"]) == (422, "cursor")
    gateway.store.generation = replace(gateway.store.generation, name="g2")
    document = await refused(gateway, cursor=cursor, top_k=1)
    assert "the generation of the index differs" in document["errors"][0]["reason"]


def waiting(stage: str = "chunker", version: int = 4, hold: Hold | None = None) -> FlowState:
    """A state in which one record waits."""
    return FlowState((Waiting(stage, version, "UPSERT", None, 0, 9, hold=hold),))


HOLD = Hold(kind="cap", scope="tenant alpha", why="over its cap", since_ms=1_900_000_000_000, ends="headrace held")


async def test_a_hit_says_how_fresh_its_document_is(gateway: Any, rows: Any) -> None:
    """Broken: a reader trusts a passage whose document has changed, or is held."""
    names = ["fresh", "changing", "held", "failed", "incomplete", "done"]
    gateway.store.hits = [rows.hit(document_id=name, complete=name != "incomplete") for name in names]
    gateway.store.rows = {("alpha", name): rows.row(name, version=3) for name in names}
    gateway.flow.states = {
        b"alpha/changing": waiting(), b"alpha/held": waiting(hold=HOLD), b"alpha/done": waiting(version=3),
    }  # fmt: skip
    gateway.flow.letters = {b"alpha/failed": [rows.letter(version=4)], b"alpha/done": [rows.letter(version=3)]}
    found = {hit["document_id"]: hit["freshness"] for hit in (await search(gateway, top_k=9))["hits"]}
    assert found == {
        "fresh": "fresh", "changing": "changing", "held": "held", "failed": "failed", "incomplete": "changing",
        "done": "fresh",
    }  # fmt: skip


async def test_a_search_does_not_depend_on_kafka(gateway: Any, rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: search fails or waits while Kafka does, or calls a document fresh without knowing it."""
    gateway.store.hits = [rows.hit()]
    gateway.flow.down = DependencyDown("kafka", "gone")
    assert (await search(gateway))["hits"][0]["freshness"] is None
    gateway.flow.down, gateway.flow.slow = None, asyncio.Event()
    monkeypatch.setattr("headrace_gateway.answers.FRESHNESS_WAIT_S", 0.01)
    assert (await search(gateway))["hits"][0]["freshness"] is None
    gateway.flow.slow = None
    gateway.flow.states = {b"alpha/guide.md": FlowState(complete=False)}
    assert (await search(gateway))["hits"][0]["freshness"] is None
    gateway.store.down = DependencyDown("postgresql")
    answer = await gateway.client.post("/v1/search", json={"query": "gate"})
    assert answer.json()["dependency"] == "postgresql"


async def test_an_answer_says_that_meaning_was_left_out(gateway: Any) -> None:
    """Broken: a Korean reader does not learn why a model that reads English alone finds so little."""
    gateway.store.generation = replace(gateway.store.generation, model="all-MiniLM-L6-v2")
    (note,) = (await search(gateway, query="수문을 여는 방법"))["notes"]
    assert note["kind"] == "meaning-left-out"
    assert "all-MiniLM-L6-v2 does not know the script hangul" in note["text"]
    assert (await search(gateway, query="gate"))["notes"] == []
    assert (await search(gateway, query="수문", mode="lexical"))["notes"] == []
    for mode, text in (("hybrid", "by meaning alone"), ("lexical", "nothing is found by words")):
        (note,) = (await search(gateway, query="?!", mode=mode))["notes"]
        assert (note["kind"], text in note["text"]) == ("no-words", True)


async def test_words_are_offered_while_the_embedder_is_down(gateway: Any) -> None:
    """Broken: nothing tells a caller that words alone would still be found."""
    gateway.embedder.down = DependencyDown("embedder", "gone")
    found = {
        mode: (await gateway.client.post("/v1/search", json={"query": "gate", "mode": mode})).json()["remedy"]
        for mode in ("hybrid", "vector")
    }
    assert '"mode": "lexical"' in found["hybrid"]
    assert "lexical" not in found["vector"]


async def test_a_wrong_filter_of_a_question_is_refused(gateway: Any) -> None:
    """Broken: a question is published that its stage can only give up."""
    answer = await gateway.client.post("/v1/ask", json={"question": "How?", "filter": {"field": "x", "eq": 1}})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "filter.field")
    assert gateway.publisher.messages == []


def test_a_cursor_round_trips() -> None:
    """Broken: the second page shows what the first one did."""
    bound = {"query": "q", "filter": ""}
    seen = {bytes([n] * 6) for n in range(200)}
    assert cursors.decode("acme", bound, cursors.encode("acme", bound, seen)) == seen
    full = cursors.encode("acme", bound, {n.to_bytes(6, "big") for n in range(cursors.MAX_DEPTH)})
    with pytest.raises(cursors.InvalidCursor, match="behind 1000 hits"):
        cursors.decode("acme", bound, full)
    for broken in ("", "A", "AAAA", "é", cursors.encode("acme", {"query": "q"}, seen)):
        with pytest.raises(cursors.InvalidCursor):
            cursors.decode("acme", bound, broken)
