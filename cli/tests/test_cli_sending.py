"""How changes are sent: batches, order, retries, refusals."""

from __future__ import annotations

import random
from typing import Any

import pytest

from headrace_cli.client import Gateway
from headrace_cli.exit_codes import ExitCode
from headrace_cli.failures import NotReachable, ProblemError
from headrace_cli.ingest import sending
from headrace_cli.ingest.sources import Change, Failure

pytestmark = pytest.mark.unit


def change(identifier: str, version: int = 1, content: str = "text", op: str = "upsert") -> Change:
    """Return a change."""
    item: dict[str, Any] = {"id": identifier, "op": op, "version": version, "content": content}
    return Change(item, f"file:{identifier}:{version}")


def test_batches_keep_both_bounds(gateway: Any, client: Gateway) -> None:
    """Broken: the gateway refuses whole requests for their size or number of changes."""
    many = [change("one", number) for number in range(1201)]
    large = [change("big", number, "x" * 1_500_000) for number in range(5)]
    sent = sending.send(client, [*many, *large])
    sizes = [len(batch) for batch in gateway.changes()]
    assert sent.accepted == sum(sizes) == 1206
    assert max(sizes) == sending.MOST_ITEMS
    assert all(one.size <= sending.MOST_BYTES + 100 for one in gateway.requests)


def test_a_change_above_the_bound_goes_alone(gateway: Any, client: Gateway) -> None:
    """Broken: one large document is never sent, or takes others into a refusal."""
    sending.send(client, [change("a", 1), change("a", 2, "x" * (sending.MOST_BYTES + 1)), change("a", 3)])
    assert [[one["version"] for one in batch] for batch in gateway.changes()] == [[1], [2], [3]]


def test_changes_of_one_document_are_never_in_two_requests_at_once(gateway: Any, client: Gateway) -> None:
    """Broken: an older version can overtake a newer one where versions are left to the order of arrival."""
    chance = random.Random(5)
    names = [f"d{number}" for number in range(40)]
    versions = dict.fromkeys(names, 0)
    changes = []
    for _ in range(9000):
        name = chance.choice(names)
        versions[name] += 1
        changes.append(change(name, versions[name]))
    under_way: list[set[str]] = []
    overlaps: list[set[str]] = []
    seen: dict[str, list[int]] = {name: [] for name in names}

    def reply(request: Any) -> None:
        ids = {one["id"] for one in request.body["changes"]}
        with gateway.lock:
            overlaps.extend(ids & other for other in under_way)
            under_way.append(ids)
            for one in request.body["changes"]:
                seen[one["id"]].append(one["version"])
        with gateway.lock:
            under_way.remove(ids)

    gateway.reply = reply
    sent = sending.send(client, changes)
    assert len(gateway.requests) >= sending.LANES
    assert not any(overlaps)
    assert all(found == sorted(found) for found in seen.values())
    assert sent.versions == versions


def test_several_requests_are_under_way_at_the_same_time(gateway: Any, client: Gateway) -> None:
    """Broken: a folder is sent as slowly as one request after the other."""
    import threading

    together = threading.Barrier(2, timeout=20)
    gateway.reply = lambda _: (together.wait(), None)[1]
    names = [f"d{number}" for number in range(100)]
    sending.send(client, [change(name) for name in names])
    assert len(gateway.requests) == sending.LANES


def test_a_busy_gateway_is_asked_again_after_the_time_that_it_names(
    gateway: Any, client: Gateway, fake_time: Any
) -> None:
    """Broken: an outage of a few seconds loses changes, or the gateway is hammered."""
    answers: list[tuple[int, dict[str, str], object]] = [(503, {"Retry-After": "7"}, {}), (429, {}, {}), (503, {}, {})]
    gateway.reply = lambda _: answers.pop(0) if answers else None
    sent = sending.send(client, [change("a")])
    assert sent.accepted == 1
    assert len(gateway.requests) == 4
    assert fake_time.slept[0] >= 7.0
    assert len({one.headers["idempotency-key"] for one in gateway.requests}) == 1


def test_an_outage_that_lasts_ends_the_command(gateway: Any, client: Gateway, fake_time: Any) -> None:
    """Broken: ingest hangs for ever, or ends as if all were done."""
    gateway.reply = lambda _: (503, {}, {"detail": "kafka does not answer", "remedy": "wait"})
    with pytest.raises(ProblemError, match="kafka does not answer") as caught:
        sending.send(client, [change("a")])
    assert caught.value.exit_code is ExitCode.UNREACHABLE
    assert 20 < fake_time.time <= 30


def test_nobody_there_is_said_so(fake_time: Any) -> None:
    """Broken: a refused connection shows a traceback."""
    with pytest.raises(NotReachable, match="does not answer"):
        sending.send(Gateway("http://127.0.0.1:1", "hr_x", retry_s=1.0, clock=fake_time.clock), [change("a")])


def test_refused_items_are_named_and_the_rest_is_done(gateway: Any, client: Gateway) -> None:
    """Broken: one bad line of thousands hides which it was, or takes the others along."""

    def reply(request: Any) -> tuple[int, dict[str, str], Any] | None:
        if any(one["version"] < 0 for one in request.body["changes"]):
            bad = [i for i, one in enumerate(request.body["changes"]) if one["version"] < 0]
            errors = [{"index": i, "id": "a", "field": "version", "reason": "is negative"} for i in bad]
            good = [one for i, one in enumerate(request.body["changes"]) if i not in bad]
            documents = [{"id": one["id"], "version": one["version"]} for one in good]
            return (202 if good else 422), {}, {"documents": documents, "errors": errors}
        return None

    gateway.reply = reply
    sent = sending.send(client, [change("a", -1), change("a", 2), change("a", -3), change("a", 4)])
    assert sent.accepted == 2
    assert sent.versions == {"a": 4}
    assert [(one.origin, one.reason) for one in sent.failures] == [
        ("file:a:-1", "version: is negative"),
        ("file:a:-3", "version: is negative"),
    ]
    alone = sending.send(client, [change("b", -1)])
    assert (alone.accepted, [one.reason for one in alone.failures]) == (0, ["version: is negative"])


def test_a_request_that_is_too_large_is_halved(gateway: Any, client: Gateway) -> None:
    """Broken: a gateway with tighter limits than ours takes nothing at all."""
    gateway.reply = lambda request: (413, {}, {"detail": "too large"}) if len(request.body["changes"]) > 2 else None
    sent = sending.send(client, [change("a", number) for number in range(8)])
    assert sent.accepted == 8
    assert [one["version"] for batch in gateway.changes() if len(batch) <= 2 for one in batch] == list(range(8))


def test_a_line_of_another_tenant_is_named_and_the_rest_is_done(gateway: Any, client: Gateway) -> None:
    """Broken: one line with a tenant that is not the key's ends an ingest of thousands, and nobody learns which."""

    def reply(request: Any) -> tuple[int, dict[str, str], Any] | None:
        if any("tenant" in one for one in request.body["changes"]):
            return 403, {}, {"detail": "Another tenant.", "remedy": "Leave `tenant` out."}
        return None

    gateway.reply = reply
    foreign = Change({"id": "b", "op": "upsert", "version": 1, "content": "x", "tenant": "acme"}, "file:2")
    sent = sending.send(client, [change("a", 1), foreign, change("a", 2), change("c", 3)])
    assert sent.versions == {"a": 2, "c": 3}
    assert [(one.origin, one.reason, one.remedy) for one in sent.failures] == [
        ("file:2", "Another tenant.", "Leave `tenant` out.")
    ]


def test_a_refused_key_ends_the_command(gateway: Any, client: Gateway) -> None:
    """Broken: thousands of items are listed as failed where the key is wrong."""
    gateway.reply = lambda _: (401, {}, {"detail": "The API key is unknown.", "remedy": "Use another one."})
    with pytest.raises(ProblemError) as caught:
        sending.send(client, [change("a")])
    assert caught.value.exit_code is ExitCode.DENIED
    assert caught.value.remedy == "Use another one."


def test_failures_of_reading_are_kept_and_counted(gateway: Any, client: Gateway) -> None:
    """Broken: an unreadable file stops the progress bar before its end, or is forgotten."""
    done: list[int] = []
    sent = sending.send(client, [Failure("x", None, "is not UTF-8"), change("a")], done.append)
    assert (sum(done), sent.accepted, len(sent.failures)) == (2, 1, 1)


def test_what_should_be_gone_is_known(gateway: Any, client: Gateway) -> None:
    """Broken: waiting takes a delete that arrived for a document that vanished."""
    changes = [change("a", 1), change("a", 2, op="delete"), change("b", 1, op="delete"), change("b", 2)]
    assert sending.send(client, changes).deleted == {"a"}
