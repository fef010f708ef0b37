"""Where a document is now, and whether many have arrived."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from confluent_kafka import murmur2

from headrace.documents.status import Waiting, judge
from headrace.envelope import StageRun
from headrace.errors import DependencyDown
from headrace.orders.holds import hold_of
from headrace_gateway.dead_letters import DeadLetterBook
from headrace_gateway.flow import FlowState

pytestmark = pytest.mark.unit

KEY = b"alpha/guide.md"


def waiting(stage: str = "embedder", version: int | None = 4) -> Waiting:
    """A record that waits."""
    run = StageRun("ingest", ("parse@1",), "w", "changes", 0, 1, 1, datetime(2026, 1, 1, tzinfo=UTC), 7)
    return Waiting(stage, version, "UPSERT", "r-4", 2, 17, (run,), acl=())


def held(version: int | None = 4, since_ms: int = 1_700_000_000_000) -> Waiting:
    """A record that a cap holds since the end of 2023."""
    said = {"held-kind": "pause", "held-for": "cap/alpha", "held-why": "the cap is reached", "held-at": str(since_ms)}
    return Waiting("embedder", version, "UPSERT", "r-4", 2, 17, hold=hold_of(said, "embedder/2/17"), acl=())


def test_keys_go_where_kafkas_own_clients_write_them() -> None:
    """If it failed, the gateway would look for documents in partitions where they are not.

    The values are those of Kafka's own test, ``UtilsTest.testMurmur2``.
    """
    known = {
        b"21": -973932308,
        b"foobar": -790332482,
        b"a-little-bit-long-string": -985981536,
        b"a-little-bit-longer-string": -1486304829,
        b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
        b"abc": 479470107,
    }
    for data, expected in known.items():
        for partitions in (8, 2**31 - 1):
            assert murmur2(data, partitions) == (expected & 0x7FFFFFFF) % partitions


def test_an_indexed_document(rows: Any) -> None:
    """If it failed, a document in the index would be reported as anything else."""
    verdict = judge(rows.row("a"), [], [], "g1")
    assert (verdict.state, verdict.version) == ("indexed", 3)
    assert judge(rows.row("a", deleted=True), [], [], "g1").state == "deleted"
    assert judge(None, [], [], "g1").state == "unknown"


def test_a_newer_record_under_way_counts_and_an_older_one_does_not(rows: Any) -> None:
    """If it failed, an edit under way would look finished, or a replay of old records like an edit."""
    assert judge(rows.row("a"), [waiting(version=4)], [], "g1").state == "in_flight"
    assert judge(rows.row("a"), [waiting(version=3)], [], "g1").state == "indexed"
    verdict = judge(rows.row("a"), [waiting("ingest", 6), waiting("indexer", 5)], [], "g1")
    assert (verdict.version, verdict.waiting.stage if verdict.waiting else None) == (6, "ingest")
    assert judge(rows.row("a"), [waiting("ingest", None)], [], "g1").state == "in_flight"


def test_a_dead_letter_counts_until_something_newer_arrived(rows: Any) -> None:
    """If it failed, a failure would be hidden, or a repaired document be shown as failed for ever."""
    letter = rows.letter(version=4)
    assert judge(rows.row("a"), [], [letter], "g1").state == "dead_lettered"
    assert judge(None, [], [letter], "g1").dead_letter == letter
    assert judge(rows.row("a", version=4), [], [letter], "g1").state == "indexed"
    assert judge(rows.row("a"), [waiting(version=5)], [letter], "g1").state == "in_flight"
    assert judge(rows.row("a"), [waiting(version=4)], [letter], "g1").state == "in_flight"
    unknown = rows.letter(version=None)
    assert judge(rows.row("a"), [], [unknown], "g1").state == "dead_lettered"
    later = rows.row("a", indexed_at=datetime(2100, 1, 1, tzinfo=UTC))
    assert judge(later, [], [unknown], "g1").state == "indexed"


def test_a_held_record_counts_until_it_went_on(rows: Any) -> None:
    """Broken: a held document is unknown, or one that was released stays held as long as its topic keeps the record."""
    verdict = judge(rows.row("a"), [held()], [], "g1")
    assert (verdict.state, verdict.version) == ("held", 4)
    assert judge(None, [held()], [], "g1").waiting == held()
    assert judge(rows.row("a", version=4), [held()], [], "g1").state == "indexed"
    assert judge(None, [held(), waiting("indexer", 4)], [], "g1").state == "in_flight"
    assert judge(None, [held(), waiting("indexer", 3)], [], "g1").state == "held"
    before, after = rows.letter(failed_at_ms=1_600_000_000_000), rows.letter(failed_at_ms=1_800_000_000_000)
    assert judge(None, [held()], [before], "g1").state == "held"  # it was redriven since
    assert judge(None, [held()], [after], "g1").state == "dead_lettered"  # a rejection, or a failure after the release
    assert judge(None, [held(5)], [after], "g1").state == "held"
    assert judge(None, [held(3)], [before], "g1").state == "dead_lettered"


def test_a_held_record_without_a_version_is_judged_by_time(rows: Any) -> None:
    """Broken: an upstream's own event that was released long ago stays held for ever."""
    indexed = datetime(2024, 1, 1, tzinfo=UTC)
    at = round(indexed.timestamp() * 1000)
    assert judge(rows.row("a", indexed_at=indexed), [held(None, at + 1)], [], "g1").state == "held"
    assert judge(rows.row("a", indexed_at=indexed), [held(None, at)], [], "g1").state == "indexed"
    assert judge(None, [held(None, at)], [rows.letter(failed_at_ms=at)], "g1").state == "dead_lettered"


def test_a_version_that_only_another_generation_holds_is_under_way(rows: Any) -> None:
    """If it failed, a document would be called indexed that no search finds, because a new model's index has it."""
    assert judge(rows.row("a"), [], [], "g2").state == "in_flight"
    assert judge(rows.row("a"), [waiting(version=3)], [], "g2").waiting is not None
    assert judge(rows.row("a"), [], [rows.letter(version=3)], "g2").state == "dead_lettered"
    assert judge(rows.row("a", deleted=True), [], [], "g2").state == "deleted"


async def test_status_of_an_indexed_document(gateway: Any, rows: Any) -> None:
    """If it failed, `headrace status` would not show the document's row and its stages."""
    gateway.store.rows[("alpha", "guides/a b.md")] = rows.row("guides/a b.md")
    answer = await gateway.client.get("/v1/documents/guides%2Fa%20b.md")
    assert answer.status_code == 200
    body = answer.json()
    assert (body["id"], body["state"], body["version"]) == ("guides/a b.md", "indexed", 3)
    assert (body["stored"]["chunks"], body["stored"]["pipeline"]) == (4, "index@1")
    assert body["stages"][0]["handlers"] == ["parse@1"]
    assert (body["waiting_for"], body["dead_letter"], body["notes"]) == (None, None, [])


async def test_status_of_a_document_under_way(gateway: Any) -> None:
    """If it failed, nobody would see which stage holds a document up."""
    gateway.flow.states[KEY] = FlowState((waiting(),))
    body = (await gateway.client.get("/v1/documents/guide.md")).json()
    assert (body["state"], body["waiting_for"], body["version"]) == ("in_flight", "embedder", 4)
    assert body["stages"][0]["stage"] == "ingest"
    assert body["in_flight"][0]["offset"] == 17


async def test_status_of_a_held_document(gateway: Any) -> None:
    """Broken: who waits for a document that a cap holds is told that nothing is known of it."""
    gateway.flow.states[KEY] = FlowState((held(),))
    body = (await gateway.client.get("/v1/documents/guide.md")).json()
    assert (body["state"], body["version"], body["waiting_for"], body["in_flight"]) == ("held", 4, "embedder", [])
    assert body["held"].pop("ends").endswith("then run headrace embeddings release")
    assert body["held"] == {
        "stage": "embedder", "waits_for": "cap", "scope": "cap/alpha", "why": "the cap is reached",
        "since": "2023-11-14T22:13:20Z",
    }  # fmt: skip


async def test_status_of_a_document_that_was_dead_lettered(gateway: Any, rows: Any) -> None:
    """If it failed, the reason would have to be dug out of a topic."""
    gateway.flow.letters[KEY] = [rows.letter()]
    body = (await gateway.client.get("/v1/documents/guide.md")).json()
    assert body["state"] == "dead_lettered"
    assert body["dead_letter"]["message"] == "content: is no text"
    assert body["dead_letter"]["remedy"] == "Send text."


async def test_an_unknown_document_is_404_and_others_tenants_are_unknown(gateway: Any, rows: Any) -> None:
    """If it failed, a tenant could find out what another one has."""
    gateway.store.rows[("beta", "guide.md")] = rows.row("guide.md")
    gateway.flow.letters[b"beta/guide.md"] = [rows.letter()]
    assert (await gateway.client.get("/v1/documents/guide.md")).status_code == 404
    looked_up = await gateway.client.post("/v1/documents:lookup", json={"documents": [{"id": "guide.md"}]})
    assert looked_up.json()["documents"][0] == {
        "id": "guide.md",
        "version": None,
        "indexed": False,
        "deleted": False,
        "dead_letter": None,
    }


async def test_a_reading_that_was_cut_says_so(gateway: Any, rows: Any) -> None:
    """If it failed, "indexed" or "unknown" would be claimed although not everything was looked at."""
    gateway.flow.states[KEY] = FlowState((), complete=False)
    unknown = await gateway.client.get("/v1/documents/guide.md")
    assert (unknown.status_code, unknown.json()["state"]) == (200, "unknown")
    assert unknown.json()["notes"]
    gateway.store.rows[("alpha", "guide.md")] = rows.row("guide.md")
    gateway.flow.down = DependencyDown("kafka")
    known = await gateway.client.get("/v1/documents/guide.md")
    assert (known.json()["state"], len(known.json()["notes"])) == ("indexed", 1)


async def test_kafka_down_and_nothing_stored_is_503_and_not_404(gateway: Any) -> None:
    """If it failed, an outage would look as if the document had never been sent."""
    gateway.flow.down = DependencyDown("kafka")
    assert (await gateway.client.get("/v1/documents/guide.md")).status_code == 503


async def test_an_impossible_id_is_refused(gateway: Any) -> None:
    """If it failed, a NUL in the path would be a 500 from the database."""
    assert (await gateway.client.get("/v1/documents/a%00b")).status_code == 422


@pytest.mark.parametrize(
    ("item", "request_id", "indexed"),
    [
        ({"version": 3}, None, True),
        ({"version": 2}, None, True),
        ({"version": 4}, None, False),
        ({}, "r-3", True),
        ({}, "r-9", False),
        ({}, None, True),
    ],
)
async def test_lookup_tells_whether_a_version_or_request_arrived(
    gateway: Any, rows: Any, item: dict[str, Any], request_id: str | None, indexed: bool
) -> None:
    """If it failed, `ingest --wait` would end too early, or never."""
    gateway.store.rows[("alpha", "guide.md")] = rows.row("guide.md", deleted=True)
    body = {"documents": [{"id": "guide.md", **item}], "request_id": request_id}
    (found,) = (await gateway.client.post("/v1/documents:lookup", json=body)).json()["documents"]
    assert (found["indexed"], found["version"], found["deleted"]) == (indexed, 3, True)


async def test_lookup_shows_the_dead_letter_of_the_request_or_version_only(gateway: Any, rows: Any) -> None:
    """If it failed, waiting would never end for a failed document, or end at once for an older failure."""
    gateway.flow.letters[KEY] = [rows.letter(version=4, request_id="r-4")]

    async def letter(item: dict[str, Any], request_id: str | None) -> Any:
        body = {"documents": [{"id": "guide.md", **item}], "request_id": request_id}
        return (await gateway.client.post("/v1/documents:lookup", json=body)).json()["documents"][0]["dead_letter"]

    assert (await letter({}, "r-4"))["reason"] == "invalid-record"
    assert (await letter({"version": 4}, None))["stage"] == "chunker"
    assert await letter({}, "r-5") is None
    assert await letter({"version": 5}, None) is None


async def test_lookup_takes_a_thousand_and_no_more(gateway: Any) -> None:
    """If it failed, one request could ask for everything."""
    small = [{"id": str(number)} for number in range(1000)]
    assert (await gateway.client.post("/v1/documents:lookup", json={"documents": small})).status_code == 200
    many = [{"id": str(number)} for number in range(1001)]
    assert (await gateway.client.post("/v1/documents:lookup", json={"documents": many})).status_code == 422


def test_the_book_keeps_the_newest_keys_within_its_bound(rows: Any) -> None:
    """If it failed, dead letters would fill the memory, or the newest be forgotten first."""
    book = DeadLetterBook(max_entries=3)
    for number in range(4):
        book.add(f"k{number}".encode(), rows.letter(offset=number))
    assert book.of(b"k0") == ()
    assert [letter.offset for letter in book.of(b"k3")] == [3]
    book.add(b"k1", rows.letter(offset=9, failed_at_ms=1))
    assert [letter.offset for letter in book.of(b"k1")] == [9, 1]
    assert book.of(b"k2") == ()


async def test_documents_are_found_by_all_of_their_attributes_a_page_at_a_time(gateway: Any, rows: Any) -> None:
    """If it failed, a client could not find again what it marked, or would see a page twice."""
    for number in range(5):
        attributes = {"team": "core", "even": str(number % 2 == 0)}
        row = rows.row(f"d{number}", attributes=attributes)
        gateway.store.rows["alpha", f"d{number}"] = row
        gateway.store.rows["beta", f"d{number}"] = row
    asked = {"attributes": {"team": "core", "even": "True"}, "limit": 2}
    first = (await gateway.client.post("/v1/documents:search", json=asked)).json()
    assert [one["id"] for one in first["documents"]] == ["d0", "d2"]
    assert first["documents"][0]["attributes"] == {"team": "core", "even": "True"}
    second = (await gateway.client.post("/v1/documents:search", json={**asked, "after": first["next"]})).json()
    assert ([one["id"] for one in second["documents"]], second["next"]) == (["d4"], None)


async def test_documents_of_another_tenant_cannot_be_asked_for(gateway: Any) -> None:
    """If it failed, a tenant would see what another has."""
    answer = await gateway.client.post("/v1/documents:search", json={"tenant": "beta"})
    assert answer.status_code == 403
