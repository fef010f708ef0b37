"""Changes over HTTP: what is published, what is refused and how, and what a repeat gets."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

import pytest

from headrace.envelope import Operation
from headrace.errors import DependencyDown
from headrace.payloads import ChangeEvent

pytestmark = pytest.mark.unit

GOOD = {"op": "upsert", "id": "guides/a b.md", "version": 7, "content": "# A", "updated_at": 1728333791}


def is_problem(answer: Any, status: int, kind: str) -> dict[str, Any]:
    """Assert that the answer is a problem document of this kind and return it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert document["type"] == f"urn:headrace:problem:{kind}"
    assert document["status"] == status
    assert document["detail"]
    return document


async def test_a_change_is_published_as_avro_under_its_tenants_key(gateway: Any) -> None:
    """If it failed, ingest would get another record, key or header than its contract says."""
    answer = await gateway.change({**GOOD, "title": "A", "attributes": {"lang": "en"}, "acl": ["group:team"]})
    assert answer.status_code == 202
    body = answer.json()
    assert body["accepted"] == 1
    assert body["documents"][0]["version"] == 7
    assert unquote(body["documents"][0]["status_url"]) == "/v1/documents/guides/a b.md"
    (message,) = gateway.publisher.messages
    assert (message.topic, message.key) == ("t-changes", b"alpha/guides/a b.md")
    assert dict(message.headers) == {
        "request-id": body["request_id"].encode(),
        "operation": b"UPSERT",
        "version": b"7",
    }
    event = gateway.codec.decode_plain(message.value, ChangeEvent)
    assert (event.tenant, event.document_id, event.operation) == ("alpha", "guides/a b.md", Operation.UPSERT)
    assert (event.version, event.title, event.content) == (7, "A", "# A")
    assert (event.attributes, event.acl) == ({"lang": "en"}, ("group:team",))
    assert event.request_id == body["request_id"]
    assert event.requested_by.startswith("key:")
    assert event.occurred_at.timestamp() == 1728333791


async def test_the_run_that_a_request_names_travels_as_a_header(gateway: Any) -> None:
    """If it failed, nobody could tell how far an ingest of many requests is."""
    answer = await gateway.change(GOOD, headers={"Headrace-Run": "20260101T000000Z-ab12"})
    assert answer.status_code == 202
    assert dict(gateway.publisher.messages[0].headers)["run"] == b"20260101T000000Z-ab12"


@pytest.mark.parametrize("run", ["", "a b", "x" * 129, "a/b"])
async def test_a_run_of_another_form_is_refused(gateway: Any, run: str) -> None:
    """If it failed, a run could be named so that no command line can ask for it."""
    answer = await gateway.change(GOOD, headers={"Headrace-Run": run})
    assert answer.status_code == 422
    assert not gateway.publisher.messages


async def test_a_change_without_a_version_is_answered_with_its_offset(gateway: Any) -> None:
    """If it failed, a client could not wait for a change to which the log gave its version."""
    answer = await gateway.change({"op": "delete", "document_id": "x"})
    assert answer.json()["documents"][0]["version"] == 100
    assert gateway.codec.decode_plain(gateway.publisher.messages[0].value, ChangeEvent).version is None
    assert "version" not in dict(gateway.publisher.messages[0].headers)


@pytest.mark.parametrize("wrap", [lambda item: item, lambda item: [item], lambda item: {"changes": [item]}])
async def test_one_change_a_list_and_a_batch_are_the_same(gateway: Any, wrap: Any) -> None:
    """If it failed, one of the three documented forms of the body would be refused."""
    answer = await gateway.change(wrap(GOOD))
    assert answer.status_code == 202
    assert len(gateway.publisher.messages) == 1


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"op": "merge"}, "op"),
        ({"id": ""}, "id"),
        ({"id": None}, "id"),
        ({"id": "x" * 513}, "id"),
        ({"title": "x" * 4097}, "title"),
        ({"source": "x" * 4097}, "source"),
        ({"attributes": {"a": "x" * 4097}}, "attributes.a"),
        ({"attributes": {f"a{number}": "x" for number in range(65)}}, "attributes"),
        ({"acl": ["user:x"] * 1025}, "acl"),
        ({"acl": ["user:x", "team"]}, "acl[1]"),
        ({"acl": ["user:"]}, "acl[0]"),
        ({"acl": ["role:admin"]}, "acl[0]"),
        ({"acl": ["*"]}, "acl[0]"),
        ({"acl": ["user:" + "x" * 256]}, "acl[0]"),
        ({"acl": ["user:a\nb"]}, "acl[0]"),
        ({"id": "a\x00b"}, "id"),
        ({"id": "\ud800"}, "id"),
        ({"version": -1}, "version"),
        ({"version": 2**63}, "version"),
        ({"version": True}, "version"),
        ({"version": "7"}, "version"),
        ({"version": 10**400}, "version"),
        ({"content": None}, "content"),
        ({"content": 5}, "content"),
        ({"content": "a\x00b"}, "content"),
        ({"content": "\udfff"}, "content"),
        ({"attributes": {"a": 1}}, "attributes.a"),
        ({"attributes": {"a b": "x"}}, "attributes.a b.[key]"),
        ({"acl": "all"}, "acl"),
        ({"updated_at": "yesterday"}, "updated_at"),
        ({"colour": "red"}, "colour"),
        ({"content_base64": "YQ=="}, "content_base64"),
        ({"content": None, "content_base64": "Y"}, "content_base64"),
        ({"content": None, "content_base64": 5}, "content_base64"),
        ({"content": None, "content_base64": "YQ==", "reference": "https://a/b"}, "reference"),
        ({"content": None, "reference": "x" * 4097}, "reference"),
        ({"language": "Deutsch!"}, "language"),
    ],
)
async def test_a_bad_item_is_named_and_nothing_is_published(gateway: Any, change: dict[str, Any], field: str) -> None:
    """If it failed, a client would not learn what to repair, or half a batch would be in the log."""
    body = json.dumps([GOOD, {**GOOD, **change}])
    answer = await gateway.client.post("/v1/changes", content=body, headers={"Content-Type": "application/json"})
    document = is_problem(answer, 422, "invalid-changes")
    assert [(error["index"], error["field"]) for error in document["errors"]] == [(1, field)]
    assert document["errors"][0]["reason"]
    assert gateway.publisher.messages == []


async def test_a_file_or_a_reference_goes_in_place_of_text(gateway: Any) -> None:
    """If it failed, files could not be sent over HTTP, or would be sent as text."""
    base = {"op": "upsert", "id": "a.pdf", "version": 1}
    file = {**base, "content_base64": "JVBERg==", "media_type": "application/pdf", "language": "ko"}
    assert (await gateway.change([file, {**base, "id": "b", "reference": "s3://bucket/b.pdf"}])).status_code == 202
    first, second = (gateway.codec.decode_plain(message.value, ChangeEvent) for message in gateway.publisher.messages)
    assert (first.data, first.content, first.media_type, first.language) == (b"%PDF", None, "application/pdf", "ko")
    assert (second.reference, second.data, second.content) == ("s3://bucket/b.pdf", None, None)


async def test_an_item_without_id_or_operation_names_both(gateway: Any) -> None:
    """If it failed, a client would repair one error at a time."""
    document = is_problem(await gateway.change([{"content": "a"}]), 422, "invalid-changes")
    assert {error["field"] for error in document["errors"]} == {"id", "op"}


async def test_partial_takes_the_good_items_and_lists_the_others(gateway: Any) -> None:
    """If it failed, one bad document would hold up all others of a batch."""
    answer = await gateway.change([{**GOOD, "version": -1}, GOOD, 5], params={"partial": "true"})
    assert answer.status_code == 202
    body = answer.json()
    assert body["accepted"] == 1
    assert [(error["index"], error["field"]) for error in body["errors"]] == [(0, "version"), (2, "(whole)")]
    assert len(gateway.publisher.messages) == 1


async def test_partial_with_nothing_good_is_refused(gateway: Any) -> None:
    """If it failed, a batch of which nothing was taken would be reported as accepted."""
    is_problem(await gateway.change([{"op": "upsert"}], params={"partial": "true"}), 422, "invalid-changes")


@pytest.mark.parametrize("batch", [GOOD | {"tenant": "beta"}, [GOOD, GOOD | {"tenant": "beta"}], [{"tenant": 5}]])
async def test_another_tenant_in_the_body_is_forbidden(gateway: Any, batch: Any) -> None:
    """If it failed, whoever has a key could write into every tenant, or test which exist."""
    for params in ({}, {"partial": "true"}):
        is_problem(await gateway.change(batch, params=params), 403, "foreign-tenant")
    assert gateway.publisher.messages == []


async def test_the_own_tenant_in_the_body_is_accepted(gateway: Any) -> None:
    """If it failed, clients that name their tenant, as the event's schema does, would be refused."""
    assert (await gateway.change(GOOD | {"tenant": "alpha"})).status_code == 202


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"op": "upsert", ', "line 1"),
        (b'{"id": "\xff"}', "byte 8 is 0xff"),
        (b"[" * 100_0, "JSON"),
        (b"", "JSON"),
        (b'{"version": ' + b"9" * 5000 + b"}", "JSON"),
    ],
)
async def test_a_body_that_is_no_json_is_malformed(gateway: Any, body: bytes, said: str) -> None:
    """If it failed, bytes that do not decode would be a 500 instead of the client's 400."""
    answer = await gateway.client.post("/v1/changes", content=body, headers={"Content-Type": "application/json"})
    assert said in is_problem(answer, 400, "malformed")["detail"]


async def test_an_empty_batch_and_a_strange_wrapper_are_refused(gateway: Any) -> None:
    """If it failed, a client that sends nothing would believe that something was taken."""
    is_problem(await gateway.change([]), 422, "no-changes")
    is_problem(await gateway.change({"changes": [GOOD], "tenant": "beta"}), 422, "invalid")
    is_problem(await gateway.change("text"), 422, "invalid-changes")


async def test_what_is_too_large_is_refused_as_such(gateway: Any) -> None:
    """If it failed, oversized input would reach Kafka, or be refused without the reason."""
    document = is_problem(await gateway.change(GOOD | {"content": "é" * 501}), 413, "too-large")
    assert document["errors"][0]["reason"] == "has 1002 bytes; the limit is 1000"
    is_problem(await gateway.change([GOOD] * 21), 413, "too-many")
    is_problem(await gateway.change(GOOD | {"content": "a" * 70_000}), 413, "too-large")
    assert gateway.publisher.messages == []


async def test_a_body_too_large_in_pieces_is_refused(gateway: Any) -> None:
    """If it failed, a chunked body without a length would fill the memory."""

    async def pieces() -> Any:
        for _ in range(20):
            yield b" " * 8192

    answer = await gateway.client.post("/v1/changes", content=pieces(), headers={"Content-Type": "application/json"})
    is_problem(answer, 413, "too-large")


async def test_another_media_type_is_refused(gateway: Any) -> None:
    """If it failed, XML would be reported as broken JSON."""
    answer = await gateway.client.post("/v1/changes", content=b"<a/>", headers={"Content-Type": "text/xml"})
    is_problem(answer, 415, "media-type")


async def test_a_repeat_with_the_same_key_is_the_same_request(gateway: Any) -> None:
    """If it failed, a client that repeats after a lost answer would publish twice, under two request ids."""
    first = await gateway.change(GOOD, headers={"Idempotency-Key": "k1"})
    second = await gateway.change(GOOD, headers={"Idempotency-Key": "k1"})
    assert first.json() == second.json()
    assert len(gateway.publisher.messages) == 1
    gateway.store.keys["hr_alpha"] = "alpha"
    other = await gateway.client.post(
        "/v1/changes", json=GOOD, headers={"Idempotency-Key": "k1", "Authorization": "Bearer hr_beta"}
    )
    assert other.json()["request_id"] != first.json()["request_id"]
    document = await gateway.change(GOOD | {"version": 8}, headers={"Idempotency-Key": "k1"})
    is_problem(document, 422, "idempotency-key")


async def test_without_a_key_every_request_is_its_own(gateway: Any) -> None:
    """If it failed, two different requests would be taken for one."""
    first, second = await gateway.change(GOOD), await gateway.change(GOOD)
    assert first.json()["request_id"] != second.json()["request_id"]
    assert len(gateway.publisher.messages) == 2


async def test_after_a_failure_the_same_key_tries_again_under_the_same_id(gateway: Any) -> None:
    """If it failed, an outage would be remembered as the answer, or the repeat be another request."""
    gateway.publisher.down = DependencyDown("kafka", "2 of 3 acknowledged at broker-7.internal")
    document = is_problem(await gateway.change(GOOD, headers={"Idempotency-Key": "k"}), 503, "dependency-down")
    assert document["dependency"] == "kafka"
    assert "broker-7" not in json.dumps(document)
    gateway.publisher.down = None
    answer = await gateway.change(GOOD, headers={"Idempotency-Key": "k"})
    assert answer.status_code == 202
    again = await gateway.change(GOOD, headers={"Idempotency-Key": "k"})
    assert again.json() == answer.json()


@pytest.mark.parametrize("key", ["", "k" * 256])
async def test_an_unusable_idempotency_key_is_refused(gateway: Any, key: str) -> None:
    """If it failed, an empty key would make all requests one."""
    is_problem(await gateway.change(GOOD, headers={"Idempotency-Key": key}), 422, "idempotency-key")


async def test_kafka_down_says_when_to_come_back(gateway: Any) -> None:
    """If it failed, clients would hammer a gateway whose Kafka is down, or lose the change."""
    gateway.publisher.down = DependencyDown("kafka")
    answer = await gateway.change(GOOD)
    is_problem(answer, 503, "dependency-down")
    assert answer.headers["retry-after"] == "2"


async def test_a_structured_cloud_event_is_a_change(gateway: Any) -> None:
    """If it failed, upstream systems that speak CloudEvents could not publish through the gateway."""
    event = {
        "specversion": "1.0",
        "id": "41",
        "source": "/wiki",
        "type": "com.example.page.updated",
        "subject": "page-1",
        "time": "2026-01-02T03:04:05Z",
        "data": {"version": 2, "content": "text"},
    }
    answer = await gateway.client.post(
        "/v1/changes", content=json.dumps(event), headers={"Content-Type": "application/cloudevents+json"}
    )
    assert answer.status_code == 202, answer.text
    change = gateway.codec.decode_plain(gateway.publisher.messages[0].value, ChangeEvent)
    assert (change.document_id, change.version, change.operation) == ("page-1", 2, Operation.UPSERT)
    assert (change.source, change.occurred_at.isoformat()) == ("/wiki", "2026-01-02T03:04:05+00:00")


async def test_a_binary_cloud_event_is_a_change_and_its_id_makes_repeats_harmless(gateway: Any) -> None:
    """If it failed, a redelivered CloudEvent would be a second request, or a deletion an upsert."""
    headers = {
        "Content-Type": "application/json",
        "ce-specversion": "1.0",
        "ce-id": "42",
        "ce-source": "/wiki",
        "ce-type": "com.example.page.deleted",
        "ce-subject": "page%201",
    }
    first = await gateway.client.post("/v1/changes", content=b'{"version": 3}', headers=headers)
    second = await gateway.client.post("/v1/changes", content=b'{"version": 3}', headers=headers)
    assert first.status_code == 202, first.text
    assert first.json() == second.json()
    change = gateway.codec.decode_plain(gateway.publisher.messages[0].value, ChangeEvent)
    assert (change.document_id, change.operation) == ("page 1", Operation.DELETE)


async def test_extensions_of_a_cloud_event_state_version_title_and_pipeline(gateway: Any) -> None:
    """If it failed, the offset would stand in for a stated version, and the change would be dropped as an older one."""
    headers = {
        "Content-Type": "application/json",
        "ce-specversion": "1.0",
        "ce-id": "42",
        "ce-source": "/wiki",
        "ce-type": "com.example.page.updated",
        "ce-subject": "page-1",
        "ce-version": "8",
        "ce-title": "Leave%20of%20absence",
        "ce-pipeline": "mine",
        "ce-tenant": "globex",
    }
    answer = await gateway.client.post("/v1/changes", content=b'{"content": "text"}', headers=headers)
    assert answer.json()["documents"][0]["version"] == 8
    change = gateway.codec.decode_plain(gateway.publisher.messages[0].value, ChangeEvent)
    assert (change.version, change.title, change.pipeline, change.tenant) == (8, "Leave of absence", "mine", "alpha")
    removed = {"ce-type": "com.example.page.removed", "ce-version": "9", "ce-id": "43"}
    await gateway.client.post("/v1/changes", content=b"{}", headers={**headers, **removed})
    assert gateway.codec.decode_plain(gateway.publisher.messages[1].value, ChangeEvent).operation is Operation.DELETE
    wrong = {"ce-version": "eight", "ce-id": "44"}
    refused = await gateway.client.post("/v1/changes", content=b'{"content": "text"}', headers={**headers, **wrong})
    assert refused.json()["errors"][0]["field"] == "version", refused.text


async def test_data_of_a_cloud_event_comes_before_its_extensions(gateway: Any) -> None:
    """If it failed, a reference would be refused beside nothing, or an attribute would overrule the data."""
    event = {"specversion": "1.0", "id": "1", "source": "/wiki", "type": "page.updated", "subject": "page-1"}
    event |= {"version": "5", "dataref": "https://wiki.example.com/page-1"}
    for given in (event, {**event, "id": "2", "data": {"version": 6, "content": "text"}}):
        answer = await gateway.client.post(
            "/v1/changes", content=json.dumps(given), headers={"Content-Type": "application/cloudevents+json"}
        )
        assert answer.status_code == 202, answer.text
    changes = [gateway.codec.decode_plain(one.value, ChangeEvent) for one in gateway.publisher.messages]
    assert [(one.version, one.reference) for one in changes] == [(5, event["dataref"]), (6, None)]


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("ce-subject", "page-2", 422),
        ("ce-version", "9", 422),
        ("ce-type", "page.updated", 422),
        ("ce-traceparent", "00-2", 202),
    ],
)
async def test_a_key_that_was_used_for_another_binary_event_is_refused(
    gateway: Any, name: str, value: str, status: int
) -> None:
    """If it failed, a change of another document would be answered with the first one's 202, and be lost."""
    headers = {
        "Content-Type": "application/json",
        "Idempotency-Key": "k1",
        "ce-specversion": "1.0",
        "ce-id": "42",
        "ce-source": "/wiki",
        "ce-type": "page.deleted",
        "ce-subject": "page-1",
        "ce-traceparent": "00-1",
    }
    first = await gateway.client.post("/v1/changes", content=b'{"content": "text"}', headers=headers)
    other = await gateway.client.post("/v1/changes", content=b'{"content": "text"}', headers={**headers, name: value})
    assert (first.status_code, other.status_code) == (202, status)
    assert len(gateway.publisher.messages) == 1


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, "is missing; it must name the document if the data has no id"),
        ({"subject": None}, "is missing; it must name the document if the data has no id"),
        ({"subject": ""}, "is missing or empty"),
        ({"subject": 7}, "Input should be a valid string"),
    ],
)
async def test_an_event_that_names_no_document_is_told_of_its_subject(
    gateway: Any, given: dict[str, Any], reason: str
) -> None:
    """Broken: who sent an event with an id, but without subject, would be told that its id is missing."""
    event = {"specversion": "1.0", "id": "1", "source": "/wiki", "type": "page.updated", "data": {"content": "text"}}
    answer = await gateway.client.post(
        "/v1/changes", content=json.dumps(event | given), headers={"Content-Type": "application/cloudevents+json"}
    )
    is_problem(answer, 422, "invalid-changes")
    assert [(one["field"], one["reason"]) for one in answer.json()["errors"]] == [("subject", reason)]


async def test_an_error_of_an_id_in_the_data_of_an_event_is_the_ids(gateway: Any) -> None:
    """Broken: who named the document in the data would be sent to look for a subject."""
    event = {"specversion": "1.0", "id": "1", "source": "/wiki", "type": "page.updated", "subject": "page-1"}
    answer = await gateway.client.post(
        "/v1/changes",
        content=json.dumps({**event, "data": {"id": 7, "content": "text"}}),
        headers={"Content-Type": "application/cloudevents+json"},
    )
    assert [one["field"] for one in answer.json()["errors"]] == ["id"]


@pytest.mark.parametrize("event", [{"specversion": "0.3"}, {"specversion": "1.0", "id": "1"}, []])
async def test_what_is_no_cloud_event_is_refused(gateway: Any, event: Any) -> None:
    """If it failed, an event without the required attributes would pass under a made-up identity."""
    answer = await gateway.client.post(
        "/v1/changes", content=json.dumps(event), headers={"Content-Type": "application/cloudevents+json"}
    )
    is_problem(answer, 422, "invalid")
