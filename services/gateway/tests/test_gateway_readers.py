"""For whom a request reads: bound keys, keys that act for readers, and what a reader may not know of."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest

from headrace.access.readers import EVERY_DOCUMENT, UNNAMED, Reader
from headrace.codec.codec import Codec
from headrace.codec.schema_registry import FixedIds
from headrace.documents.status import Waiting
from headrace.envelope import Change, Context, Operation, Reference, Trace
from headrace.payloads import ChangeEvent, DocumentFacts, GenerationRequest, SourceDocument
from headrace.store.artifacts import Artifact
from headrace.store.keys import KeyOwner
from headrace_gateway.flow import FlowState
from headrace_gateway.record_facts import MAX_ENTRIES, RecordFacts, facts_of

pytestmark = pytest.mark.unit

READING = [
    ("POST", "/v1/search", {"query": "q"}),
    ("POST", "/v1/ask", {"question": "q", "wait_s": 0}),
    ("GET", "/v1/artifacts/6f1f7a10-0f0b-5b0e-9c55-6c1f6f1f7a10", None),
    ("GET", "/v1/documents/x", None),
    ("POST", "/v1/documents:lookup", {"documents": [{"id": "x"}]}),
    ("POST", "/v1/documents:search", {}),
]
"""Every route that reads."""
CHANGE = {"op": "upsert", "id": "x", "version": 1, "content": "c"}
ANN = Reader.named("ann", ["staff"])


def key(name: str) -> dict[str, str]:
    """The header of a key."""
    return {"Authorization": f"Bearer {name}"}


@pytest.fixture(autouse=True)
def owners(gateway: Any) -> None:
    """Keys of all kinds."""
    gateway.store.owners = {
        "hr_ann": KeyOwner("alpha", ANN),
        "hr_all": KeyOwner("alpha", EVERY_DOCUMENT),
        "hr_app": KeyOwner("alpha", None),
    }


def test_every_route_of_the_api_is_tested_here(gateway: Any) -> None:
    """Broken: a route that is added later reads without asking for whom."""
    paths = {
        (method.upper(), path)
        for path, operations in gateway.app.openapi()["paths"].items()
        for method in operations
        if path.startswith("/v1/")
    }
    tested = {(method, path) for method, path, _ in READING}
    shown = {
        (method, path.replace("{identifier}", "x" if "documents" in path else READING[2][1].rpartition("/")[2]))
        for method, path in paths - {("POST", "/v1/changes")}
    }
    assert shown == tested


@pytest.mark.parametrize(("method", "path", "body"), READING)
async def test_a_key_that_acts_for_readers_must_name_one(gateway: Any, method: str, path: str, body: object) -> None:
    """Broken: a request of such a key reads for nobody, or for everybody."""
    answer = await gateway.client.request(method, path, json=body, headers=key("hr_app"))
    assert answer.status_code == 422
    assert answer.json()["type"] == "urn:headrace:problem:no-reader"
    assert gateway.store.searches == []
    assert gateway.publisher.messages == []


@pytest.mark.parametrize("header", ["Headrace-User", "Headrace-Groups", "Headrace-Projects"])
@pytest.mark.parametrize("name", ["hr_alpha", "hr_ann", "hr_all"])
@pytest.mark.parametrize(("method", "path", "body"), [*READING, ("POST", "/v1/changes", CHANGE)])
async def test_a_bound_key_cannot_name_another_reader(
    gateway: Any, method: str, path: str, body: object, name: str, header: str
) -> None:
    """Broken: the holder of a key reads for whomever he names."""
    answer = await gateway.client.request(method, path, json=body, headers={**key(name), header: ""})
    assert answer.status_code == 403
    assert answer.json()["type"] == "urn:headrace:problem:bound-key"
    assert gateway.publisher.messages == []


async def test_searches_read_for_the_reader_of_the_key(gateway: Any) -> None:
    """Broken: the reader gets lost between the key and the index, or one key's reader stays for the next one."""
    named = {"Headrace-User": quote("김민수"), "Headrace-Groups": "a%2Cb, r%26d", "Headrace-Projects": "apollo"}
    for headers in (key("hr_alpha"), key("hr_ann"), key("hr_all"), {**key("hr_app"), **named},
                    {**key("hr_app"), "Headrace-User": ""}, {**key("hr_app"), "Headrace-User": "bob"}):  # fmt: skip
        assert (await gateway.client.post("/v1/search", json={"query": "q"}, headers=headers)).status_code == 200
    assert [one["reader"] for one in gateway.store.searches] == [
        UNNAMED, ANN, EVERY_DOCUMENT, Reader.named("김민수", ["a,b", "r&d"], ["apollo"]), UNNAMED, Reader.named("bob"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "headers",
    [
        [("Headrace-User", "ann"), ("Headrace-User", "bob")],
        [("Headrace-User", "%ff")],
        [("Headrace-User", "%0a")],
        [("Headrace-User", "a%00b")],
        [("Headrace-User", "%20")],
        [("Headrace-User", "x" * 256)],
        [("Headrace-User", "x" * 20_000)],
        [("Headrace-User", "김민수".encode())],
        [("Headrace-Groups", "a,,b")],
        [("Headrace-Groups", ",".join(map(str, range(513))))],
    ],
)
async def test_an_invalid_reader_is_refused(gateway: Any, headers: list[tuple[str, Any]]) -> None:
    """Broken: a name that means something else later on, or a setting of any length, reaches the store."""
    answer = await gateway.client.post(
        "/v1/search", json={"query": "q"}, headers=[("Authorization", "Bearer hr_app"), *headers]
    )
    assert answer.status_code == 422
    assert answer.json()["type"] == "urn:headrace:problem:invalid-reader"
    assert gateway.store.searches == []


async def test_an_asterisk_is_a_name_like_any_other(gateway: Any) -> None:
    """Broken: a user named * reads every document."""
    headers = {**key("hr_app"), "Headrace-User": "*"}
    await gateway.client.post("/v1/search", json={"query": "q"}, headers=headers)
    (asked,) = gateway.store.searches
    assert asked["reader"] == Reader(frozenset({"user:*"}))


async def test_changes_need_no_reader(gateway: Any) -> None:
    """Broken: an application cannot send changes with the key that it reads with."""
    assert (await gateway.client.post("/v1/changes", json=CHANGE, headers=key("hr_app"))).status_code == 202


async def test_a_question_carries_its_reader(gateway: Any) -> None:
    """Broken: the generator answers from documents that the reader may not read."""
    await gateway.client.post("/v1/ask", json={"question": "q", "wait_s": 0}, headers=key("hr_ann"))
    (message,) = gateway.publisher.messages
    request = gateway.codec.decode(message.value, GenerationRequest).payload
    assert request.reader == ("group:staff", "user:ann")


async def test_an_idempotency_key_is_the_readers_own(gateway: Any) -> None:
    """Broken: a reader gets the answer to another reader's question by guessing its Idempotency-Key."""
    asked = {}
    for name, extra in (("hr_ann", {}), ("hr_alpha", {}), ("hr_app", {"Headrace-User": "ann"})):
        headers = {**key(name), **extra, "Idempotency-Key": "k"}
        answer = await gateway.client.post("/v1/ask", json={"question": "q", "wait_s": 0}, headers=headers)
        asked[answer.json()["artifact_id"]] = name
        changed = await gateway.client.post("/v1/changes", json=CHANGE, headers=headers)
        asked[changed.json()["request_id"]] = name
    assert len(asked) == 6


async def test_a_document_that_is_not_for_the_reader_does_not_exist(gateway: Any, rows: Any) -> None:
    """Broken: an answer tells that a document exists that the reader may not read."""
    gateway.store.rows = {("alpha", name): rows.row(name, acl=acl) for name, acl in (("a", ["user:bob"]), ("b", []))}
    refused = await gateway.client.get("/v1/documents/a", headers=key("hr_ann"))
    missing = await gateway.client.get("/v1/documents/c", headers=key("hr_ann"))
    assert refused.status_code == missing.status_code == 404
    assert refused.json() == {
        **missing.json(), "detail": missing.json()["detail"].replace("'c'", "'a'"), "instance": "/v1/documents/a",
    }  # fmt: skip
    body = {"documents": [{"id": "a"}, {"id": "b"}, {"id": "c"}]}
    found = (await gateway.client.post("/v1/documents:lookup", json=body, headers=key("hr_ann"))).json()["documents"]
    assert {**found[0], "id": "c"} == found[2]
    assert [one["indexed"] for one in found] == [False, True, False]
    listed = (await gateway.client.post("/v1/documents:search", json={}, headers=key("hr_ann"))).json()["documents"]
    assert [one["id"] for one in listed] == ["b"]
    listed = (await gateway.client.post("/v1/documents:search", json={}, headers=key("hr_all"))).json()["documents"]
    assert [one["id"] for one in listed] == ["a", "b"]


def waiting(acl: tuple[str, ...] | None, operation: str = "UPSERT") -> Waiting:
    """A newer version that waits for the embedder."""
    return Waiting("embedder", 4, operation, "r-4", 0, 1, acl=acl)


@pytest.mark.parametrize(
    ("stored", "acl", "operation", "state", "everything"),
    [
        (["user:bob"], ("group:staff",), "UPSERT", "in_flight", "in_flight"),  # granted by the newer version
        (["group:staff"], ("user:bob",), "UPSERT", "indexed", "in_flight"),  # revoked by the newer version
        (["group:staff"], None, "UPSERT", "indexed", "in_flight"),  # the newer version's acl is not known
        (["group:staff"], None, "DELETE", "in_flight", "in_flight"),
        (["user:bob"], None, "DELETE", None, "in_flight"),
        (None, None, "DELETE", None, "in_flight"),
        (None, None, "UPSERT", None, "in_flight"),
        (None, ("user:bob",), "UPSERT", None, "in_flight"),
        (None, (), "UPSERT", "in_flight", "in_flight"),
    ],
)
async def test_a_record_under_way_is_told_to_its_readers(
    gateway: Any, rows: Any, stored: Any, acl: Any, operation: str, state: str | None, everything: str
) -> None:
    """Broken: a record between the stages tells of a document to those who may not read it."""
    if stored is not None:
        gateway.store.rows[("alpha", "a")] = rows.row("a", acl=stored)
    place = Change("alpha", "a", 0, Operation.UPSERT).key
    gateway.flow.states[place] = FlowState((waiting(acl, operation),))
    answer = await gateway.client.get("/v1/documents/a", headers=key("hr_ann"))
    assert (answer.json().get("state") if answer.status_code == 200 else None) == state
    if state != "in_flight":
        assert "r-4" not in answer.text
    if state == "in_flight" and stored == ["user:bob"]:
        assert answer.json()["stored"] is None
    whole = await gateway.client.get("/v1/documents/a", headers=key("hr_all"))
    assert whole.json()["state"] == everything


@pytest.mark.parametrize(("acl", "told"), [((), True), (("group:staff",), True), (("user:bob",), False), (None, False)])
async def test_a_dead_letter_is_told_to_its_readers(gateway: Any, rows: Any, acl: Any, told: bool) -> None:
    """Broken: a dead letter quotes a document to those who may not read it, or whose readers are not known."""
    place = Change("alpha", "a", 0, Operation.UPSERT).key
    gateway.flow.letters[place] = [rows.letter(acl=acl)]
    answer = await gateway.client.get("/v1/documents/a", headers=key("hr_ann"))
    assert answer.status_code == (200 if told else 404)
    body = {"documents": [{"id": "a"}]}
    found = (await gateway.client.post("/v1/documents:lookup", json=body, headers=key("hr_ann"))).json()["documents"]
    assert (found[0]["dead_letter"] is not None) == told
    assert (await gateway.client.get("/v1/documents/a", headers=key("hr_all"))).status_code == 200


async def test_an_artifact_is_for_the_reader_who_asked(gateway: Any) -> None:
    """Broken: another reader fetches an answer by its ID."""
    row = Artifact(
        "alpha", UUID(int=7), 1, "r", "answer", "T", "text/plain", "canary", created_at=datetime.now(UTC),
        reader=ANN.names,
    )  # fmt: skip
    gateway.store.artifacts[("alpha", row.artifact_id)] = row
    path = f"/v1/artifacts/{row.artifact_id}"
    assert (await gateway.client.get(path, headers=key("hr_ann"))).status_code == 200
    refused = await gateway.client.get(path, headers=key("hr_alpha"))
    assert (refused.status_code, "canary" in refused.text) == (404, False)


FACTS = DocumentFacts("t", "text/plain", bytes(16), acl=("user:ann",))
TRACE = Trace("r", "index", 1, datetime(2026, 1, 1, tzinfo=UTC))


def test_what_a_record_says_about_its_readers() -> None:
    """Broken: a record whose acl cannot be read, or is elsewhere, counts as one without."""
    codec = Codec(FixedIds())
    change = Change("t", "d", 1, Operation.UPSERT)
    event = ChangeEvent("t", "d", Operation.UPSERT, content="x", acl=("user:ann",))
    assert facts_of(codec, ChangeEvent, codec.encode_plain(event)) == RecordFacts(acl=("user:ann",))
    whole = codec.encode(Context(TRACE, change, SourceDocument(FACTS, "x")), SourceDocument)
    assert facts_of(codec, SourceDocument, whole) == RecordFacts((), ("user:ann",))
    many = replace(FACTS, acl=tuple(f"user:{number}" for number in range(MAX_ENTRIES + 1)))
    large = codec.encode(Context(TRACE, change, SourceDocument(many, "x")), SourceDocument)
    elsewhere = codec.encode(
        Context(TRACE, change, None), SourceDocument, Reference("file:///x", bytes(32), 1, "headrace.SourceDocument")
    )
    request = codec.encode(Context(TRACE, change, GenerationRequest("q", reader=("user:ann",))), GenerationRequest)
    for carries, value in (
        (ChangeEvent, b'{"id": "d", "acl": []}'), (ChangeEvent, None), (SourceDocument, b"broken"),
        (SourceDocument, large), (SourceDocument, elsewhere), (GenerationRequest, request),
        (SourceDocument, codec.encode(Context(TRACE, change, None), SourceDocument)),
    ):  # fmt: skip
        assert facts_of(codec, carries, value).acl is None
