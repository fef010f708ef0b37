"""What is known of held records, which are meant, and as what they go on."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from headrace.config.settings import KafkaSettings
from headrace.errors import ConfigurationError
from headrace.kafka import headers
from headrace.kafka.broker_contract import Headers, Record
from headrace.kafka.headers import Origin
from headrace.payloads import HeldAction
from headrace_operations.actions import ActionRequest
from headrace_operations.held.model import (
    APPROVED,
    REJECTED,
    RELEASED,
    HeldId,
    HeldSelection,
    RefusedHeldRecord,
    approved_headers,
    check,
    entry_of,
    parse_id,
    refuse_misfits,
    refuse_others,
    released,
    target_of,
)

pytestmark = pytest.mark.unit

KAFKA = KafkaSettings(topic_prefix="p-")

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def record(
    own: Headers = (), *, key: bytes | None = b"acme/a.md", stage: str = "chunker", first: str = "p-documents",
    scope: str = "tenant/acme", target: str | None = None,
) -> Record:  # fmt: skip
    """A record as the runtime holds it."""
    said = headers.for_hold(
        own,
        Origin(first, 1, 7),
        kind="review" if target else "pause",
        scope=scope,
        why="why",
        now_ms=1000,
        target=target,
    )
    return Record(f"held.{stage}", 2, 8, key, b"v", said, 5)


def request(action: str) -> ActionRequest:
    """A request of olga's."""
    return ActionRequest(action, "b", "olga", "why")


def test_a_held_record_says_whose_it_is_and_why_it_waits() -> None:
    """If it failed, operators would look at another record than the one that waits."""
    entry = entry_of(record((("version", b"3"), ("request-id", b"r1"))))
    assert (entry.id, entry.kind, entry.scope, entry.why) == (HeldId("chunker", 2, 8), "pause", "tenant/acme", "why")
    assert (entry.tenant, entry.document_id, entry.version, entry.request_id) == ("acme", "a.md", 3, "r1")
    assert (entry.held_at, entry.origin) == (datetime.fromtimestamp(1, UTC), "p-documents/1/7")
    keyless = entry_of(record(key=b"-"))
    assert (keyless.tenant, keyless.document_id, keyless.version) == ("acme", None, None)
    foreign = entry_of(Record("held.chunker", 0, 0, None, None, ((headers.HELD_AT, b"9" * 18),), -1))
    assert (foreign.tenant, foreign.scope, foreign.held_at.year) == (None, "", 9999)


def test_what_a_pause_held_goes_back_due_at_once_and_else_as_it_was() -> None:
    """If it failed, the stage would see another record, wait for an old due time, or lose where it came from."""
    before = (("version", b"3"), ("version", None), ("retry-due", b"9"), ("retry-attempt", b"7"), ("replay", b"r"))
    message = released(record(before), KAFKA, now_ms=5)
    assert (message.topic, message.key, message.value) == ("retry.chunker", b"acme/a.md", b"v")
    assert message.headers == (
        ("version", b"3"), ("version", None), ("origin-topic", b"p-documents"), ("origin-partition", b"1"),
        ("origin-offset", b"7"), ("retry-attempt", b"1"), ("retry-due", b"5"),
    )  # fmt: skip
    assert released(record(key=b"-"), KAFKA, now_ms=5).key == b""


def test_a_replayed_record_stays_in_its_replay() -> None:
    """If it failed, a paused replay would go on in the live stream, or a client's header would lead a record astray."""
    kept = released(record((("replay", b"r"),), first="p-replay.chunker"), KAFKA, now_ms=5)
    assert ("replay", b"r") in kept.headers
    assert "replay" not in dict(released(record((("replay", b"r"),)), KAFKA, now_ms=5).headers)


@pytest.mark.parametrize(
    ("stage", "target"),
    [("chunker", "chunks"), ("chunker", "replay.embedder"), ("embedder", "vectors"), ("indexer", "indexed")],
)
def test_an_approved_output_goes_where_its_stage_writes(stage: str, target: str) -> None:
    """If it failed, an approved output would not arrive."""
    held = record((("operation", b"UPSERT"),), stage=stage, target=KAFKA.topic(target))
    assert target_of(held, KAFKA) == target
    assert approved_headers(held) == (("operation", b"UPSERT"),)


@pytest.mark.parametrize(
    "target",
    ["chunks", "p-control", "p-vectors.g1", "p-replay.chunker", "p-replay.embedder.g2", "p-chunks2", "p-chunks\n"],
)
def test_an_output_goes_nowhere_else(target: str) -> None:
    """If it failed, whoever can write a held record could have an operator write into any topic."""
    with pytest.raises(RefusedHeldRecord, match="does not write"):
        target_of(record(target=target), KAFKA)


def test_all_conditions_of_a_selection_hold() -> None:
    """If it failed, a resume of one tenant would release another's records."""
    entry = entry_of(record())
    good: list[dict[str, Any]] = [
        {}, {"stage": "chunker"}, {"kind": "pause"}, {"tenant": "acme", "document": "a.md"},
        {"scopes": frozenset({"tenant/acme"})}, {"ids": frozenset({entry.id})},
    ]  # fmt: skip
    bad: list[dict[str, Any]] = [
        {"stage": "ingest"}, {"kind": "review"}, {"tenant": "acme", "document": "b.md"},
        {"scopes": frozenset({"tenant/acm", "pipeline/acme"})}, {"ids": frozenset({HeldId("chunker", 2, 9)})},
    ]  # fmt: skip
    assert all(HeldSelection(**one).holds(entry) for one in good)
    assert not any(HeldSelection(**one).holds(entry) for one in bad)
    assert HeldSelection(ids=frozenset({entry.id})).stages() == ["chunker"]
    for wrong in (HeldSelection(stage="nope"), HeldSelection(kind="nap")):
        with pytest.raises(ConfigurationError, match="unknown"):
            check(wrong)


def test_a_cap_is_a_pause_that_can_be_asked_for_alone() -> None:
    """Broken: a list says that somebody paused what a cap holds, or a release of a cap's records finds none."""
    paused, capped = entry_of(record()), entry_of(record(scope="cap/acme"))
    assert (paused.waits_for, capped.waits_for) == ("pause", "cap")
    assert "headrace embeddings release" in capped.ends
    assert paused.ends == "headrace resume --tenant acme"
    assert [HeldSelection(kind="pause").holds(one) for one in (paused, capped)] == [True, True]
    assert [HeldSelection(kind="cap").holds(one) for one in (paused, capped)] == [False, True]
    assert check(HeldSelection(kind="cap")).kind == "cap"


def test_requests_that_do_not_fit_are_refused_before_anything_moves() -> None:
    """If it failed, an approval would end a pause, a release would pass a review, or a decision would be undone."""
    paused, reviewed = entry_of(record()), entry_of(record(target="p-chunks", scope="pipeline/default"))
    with pytest.raises(RefusedHeldRecord, match="held by a pause") as caught:
        refuse_misfits([reviewed, paused], request(APPROVED))
    assert caught.value.remedy == "headrace resume --tenant acme"
    with pytest.raises(RefusedHeldRecord, match="held for a review"):
        refuse_misfits([reviewed], request(RELEASED))
    refuse_misfits([reviewed], request(REJECTED))
    before = {str(paused.id): HeldAction(APPROVED, "chunker", 2, 8, "b", "olga", T0, "")}
    ids = frozenset({paused.id, HeldId("chunker", 0, 1)})
    assert refuse_others(ids, before, request(APPROVED)) == [
        (paused.id, "was approved by olga at 2026-01-01T00:00:00+00:00")
    ]
    with pytest.raises(RefusedHeldRecord, match="was approved by olga"):
        refuse_others(ids, before, request(REJECTED))


def test_ids_are_read_and_others_refused() -> None:
    """If it failed, a misspelt id would decide on another record, or be a traceback."""
    assert parse_id("chunker/0/17") == HeldId("chunker", 0, 17)
    for wrong in ("nostage/0/1", "chunker/0", "chunker/0/-1", "chunker/0/1\n", ""):
        with pytest.raises(ConfigurationError, match="invalid held-record ID"):
            parse_id(wrong)


@pytest.mark.parametrize("value", [None, b"", b"v"])
def test_a_released_record_has_the_value_that_it_had(value: bytes | None) -> None:
    """Broken: a delete without a value (a CloudEvent in binary mode) goes on with a text, which it never had."""
    assert released(record()._replace(value=value), KAFKA, now_ms=5).value == value
