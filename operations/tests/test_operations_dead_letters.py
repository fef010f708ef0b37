"""What is known of dead letters, which are meant, and what goes back of each."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from headrace.codec.codec import Codec
from headrace.codec.schema_registry import FixedIds
from headrace.config.settings import KafkaSettings
from headrace.envelope import Change, Context, Operation, Reference, Trace
from headrace.errors import ConfigurationError
from headrace.kafka.broker_contract import Headers, Record
from headrace.payloads import ChangeEvent, Control, DeadLetter, DeadLetterAction, HeaderPart, SourceDocument
from headrace_operations.actions import ActionRequest
from headrace_operations.dead_letters import messages, payload
from headrace_operations.dead_letters.act import DISCARDED, REDRIVEN, plan
from headrace_operations.dead_letters.log import Found
from headrace_operations.dead_letters.model import (
    ANY_STATE,
    Entry,
    Id,
    RefusedDeadLetter,
    Selection,
    State,
    cause_of,
    check,
    counted,
    grouped,
    parse_id,
    parse_place,
)

pytestmark = pytest.mark.unit

KAFKA = KafkaSettings(topic_prefix="p-")

T0 = datetime(2026, 1, 1, tzinfo=UTC)
HERE = Id("ingest", 1, 8)


def letter(
    headers: Headers = (), *, key: bytes | None = b"acme/a.md", value: bytes | None = b"{}", topic: str = "p-changes"
) -> DeadLetter:
    """A dead letter of ingest, which had not read its content."""
    return DeadLetter(
        "ingest", "invalid-record", "title: is 'x'", "", None, None, 1, topic, 1, 7, T0, key, value,
        tuple(HeaderPart(*pair) for pair in headers), T0, "ingest-0",
    )  # fmt: skip


def carrier(headers: Headers = ()) -> Record:
    """The record that carries a dead letter."""
    return Record("dead-letters.ingest", 1, 8, b"acme/a.md", b"", headers, 0)


def action(what: str = "REDRIVEN") -> DeadLetterAction:
    """What became of it."""
    return DeadLetterAction(what, "ingest", 1, 8, "b1", "olga", T0, "")


def entry(**other: Any) -> Entry:
    """An open dead letter."""
    return replace(messages.entry(HERE, letter(), carrier(), None), **other)


def test_ids_and_places_are_read_and_others_refused() -> None:
    """If it failed, a misspelt id would act on another dead letter, or be a traceback."""
    assert parse_id("chunker/0/17") == Id("chunker", 0, 17)
    assert str(Id("chunker", 0, 17)) == "chunker/0/17"
    for wrong in ("nostage/0/1", "chunker/0", "chunker/0/-1", "chunker/0/1 ", "", "chunker/0/" + "9" * 30):
        with pytest.raises(ConfigurationError, match="invalid"):
            parse_id(wrong)
    assert parse_place("my-dead-letters.chunker/0/17") == parse_place(Id("chunker", 0, 17).place)
    assert [parse_place(wrong) for wrong in ("", "x", "dead-letters.x/0/1", "dead-letters.chunker/a/1")] == [None] * 4


def test_what_goes_back_says_where_it_comes_from_and_is_else_as_it_was() -> None:
    """If it failed, the stage would wait for an old due time, or the history would name another dead letter."""
    before = (
        ("version", b"3"), ("origin-topic", b"p-changes"), ("origin-offset", b"7"), ("retry-due", b"99"),
        ("retry-attempt", b"8"), ("held-kind", b"pause"),
        ("redrive", b"dead-letters.ingest/1/2"), ("version", None), ("replay", b"r1"),
    )  # fmt: skip
    assert messages.retry_headers(HERE, letter(before), KAFKA, now_ms=5) == (
        ("version", b"3"), ("version", None), ("replay", b"r1"), ("origin-topic", b"p-changes"),
        ("origin-partition", b"1"), ("origin-offset", b"7"), ("retry-attempt", b"1"), ("retry-due", b"5"),
        ("redrive", b"dead-letters.ingest/1/8"),
    )  # fmt: skip


def test_a_replay_header_that_a_client_wrote_does_not_come_into_force() -> None:
    """If it failed, a client could lead its record into the lane of replays, where a cancelled run drops it."""
    forged = letter((("replay", b"r1"),))
    assert "replay" not in dict(messages.retry_headers(HERE, forged, KAFKA, now_ms=5))
    replayed = letter((("replay", b"r1"),), topic="p-replay.ingest")
    assert dict(messages.retry_headers(HERE, replayed, KAFKA, now_ms=5))["replay"] == b"r1"


@pytest.mark.parametrize(
    ("key", "headers", "goes_back"),
    [
        (b"acme/a.md", (), b"acme/a.md"),
        (None, (), None),
        (b"", (), b""),
        (b"-", (), b"-"),
        (b"-", (("origin-topic", b"p-changes"),), None),
    ],
    ids=["a key", "none", "empty", "a client's dash", "our dash"],
)
def test_the_key_goes_back_as_it_was(key: bytes | None, headers: Headers, goes_back: bytes | None) -> None:
    """If it failed, a record would come back under a key that its source never wrote."""
    assert messages.retry_key(letter(headers, key=key), KAFKA) == goes_back


def test_a_record_that_is_not_there_in_full_is_not_sent_again() -> None:
    """If it failed, a redrive would send the beginning of a document as the document."""
    cut = messages.entry(HERE, letter(), carrier((("cut", b"99999"),)), None)
    unread = messages.entry(HERE, letter((("headrace.unreadable", b"why"),)), carrier(), None)
    foreign = messages.undecodable(HERE, "it is not Avro", carrier(), None)
    turned_down = letter((("held-kind", b"review"), ("held-target", b"p-chunks")))
    output = messages.entry(HERE, turned_down, carrier(), None)
    bad = [cut, unread, foreign, output]
    planned = plan([entry(id=Id("ingest", 0, 1)), *bad], ActionRequest(REDRIVEN, "b", "o"), named=False)
    assert len(planned.taken) == 1
    assert [why for _, why in planned.refused] == [one.whole for one in bad]
    assert "99999 bytes" in str(cut.whole)
    assert len(plan(bad, ActionRequest(DISCARDED, "b", "o", "w"), named=True).taken) == 4


def test_what_was_acted_upon_is_refused_by_id_and_left_out_otherwise() -> None:
    """If it failed, one dead letter would be sent twice without anybody's wish."""
    done = entry(id=Id("ingest", 1, 9), action=action())
    with pytest.raises(RefusedDeadLetter, match="redriven by olga") as refused:
        plan([entry(), done], ActionRequest(REDRIVEN, "b", "o"), named=True)
    assert "--again" in refused.value.remedy
    assert plan([entry(), done], ActionRequest(REDRIVEN, "b", "o"), named=False).taken == [entry()]
    assert len(plan([entry(), done], ActionRequest(REDRIVEN, "b", "o", again=True), named=True).taken) == 2


def test_tenant_and_document_come_from_the_key_where_nothing_else_tells() -> None:
    """If it failed, --tenant and --document would miss every record that was not decoded."""
    assert (entry().tenant, entry().document_id) == ("acme", "a.md")
    known = messages.entry(HERE, replace(letter(), tenant="t", document_id="d"), carrier(), None)
    assert (known.tenant, known.document_id) == ("t", "d")
    nobody = messages.entry(HERE, letter(key=b"\xff"), carrier(), None)
    assert (nobody.tenant, nobody.document_id) == (None, None)


@pytest.mark.parametrize(
    ("asked", "held"),
    [
        ({}, True),
        ({"stage": "ingest", "reason": "invalid-record", "document": "a.md", "tenant": "acme"}, True),
        ({"stage": "chunker"}, False),
        ({"reason": "other"}, False),
        ({"document": "b.md"}, False),
        ({"tenant": "other"}, False),
        ({"since": T0, "until": T0 + timedelta(seconds=1)}, True),
        ({"since": T0 + timedelta(seconds=1)}, False),
        ({"until": T0}, False),
        ({"ids": frozenset({HERE})}, True),
        ({"ids": frozenset({Id("ingest", 1, 9)})}, False),
        ({"batch": "b1"}, False),
    ],
)
def test_all_conditions_hold_together(asked: dict[str, Any], held: bool) -> None:
    """If it failed, a redrive or discard would take in what was not meant."""
    assert Selection(**asked).holds(entry()) is held


def test_only_open_ones_are_meant_unless_asked_otherwise() -> None:
    """If it failed, what was discarded would be sent again."""
    discarded = entry(action=action("DISCARDED"))
    assert discarded.state is State.DISCARDED
    assert not Selection().holds(discarded)
    assert Selection(states=ANY_STATE, batch="b1").holds(discarded)


def test_what_cannot_be_is_refused_naming_what_exists() -> None:
    """If it failed, a misspelt stage or a time in the future would look like an empty list."""
    with pytest.raises(ConfigurationError) as refused:
        check(Selection(stage="chunkr"), T0)
    assert "chunker" in refused.value.remedy
    with pytest.raises(ConfigurationError, match="future"):
        check(Selection(since=T0 + timedelta(seconds=1)), T0)
    with pytest.raises(ConfigurationError, match="empty time range"):
        check(Selection(since=T0, until=T0), T0)


def test_records_of_one_cause_are_one_group() -> None:
    """If it failed, a thousand records with one cause would be a thousand lines."""
    texts = ("title: is 'x' at 17", "title: is 'yy' at 3.5", 'body: is "x"')
    entries = [entry(id=Id("ingest", 0, n), message=text, failed_at=T0 + timedelta(n)) for n, text in enumerate(texts)]
    first, second = grouped(entries)
    assert (first.count, first.cause, first.first, first.last, first.example) == (
        2, "title: is … at #", T0, T0 + timedelta(1), Id("ingest", 0, 1),
    )  # fmt: skip
    assert second.count == 1
    assert cause_of("id 0b7e5d7a-58a2-4be1-9f39-6a8e5f0d1c2b, hash deadbeef01") == "id …, hash …"
    assert len(cause_of("x" * 9999)) == 160


def test_counts_are_by_stage_and_tenant() -> None:
    """If it failed, a dry run would not say whose records move."""
    entries = [entry(), entry(), entry(tenant=None), entry(id=Id("chunker", 0, 1), tenant="b")]
    assert counted(entries) == [("ingest", "acme", 2), ("ingest", None, 1), ("chunker", "b", 1)]


def test_a_chain_of_failures_needs_more_than_a_header() -> None:
    """If it failed, a header that a client wrote would tie its record to another's failures."""
    assert messages.follows(letter(), action(), letter())
    assert not messages.follows(letter(), None, letter())
    assert not messages.follows(letter(), action(), replace(letter(), offset=9))


def test_payloads_are_read_as_far_as_they_can_be() -> None:
    """If it failed, an operator would see base64 where there is JSON, or an export would end at the first bad byte."""
    codec = Codec(FixedIds())
    assert payload.decoded(codec, letter(value=b'{"a": 1}')) == {"form": "json", "value": {"a": 1}}
    assert payload.decoded(codec, letter(value=b"<a>"))["form"] == "text"
    assert payload.decoded(codec, letter(value=b"\xff\x00"))["form"] == "bytes"
    assert payload.decoded(codec, letter(value=None))["form"] == "none"
    event = codec.encode_plain(ChangeEvent("acme", "a.md", Operation.DELETE))
    assert payload.decoded(codec, letter(value=event))["value"]["document_id"] == "a.md"
    broken = payload.decoded(codec, letter(value=event[:-3] + b"\xff\xff\xff"))
    assert broken["form"] in ("bytes", "text")
    assert broken["why"]


def test_a_payload_in_the_object_store_is_told_and_not_fetched() -> None:
    """If it failed, an operator would take a large document for a deleted one, or wait for megabytes to be read."""
    codec = Codec(FixedIds())
    reference = Reference("claim:acme/20260101/" + "ab" * 32, b"\xab" * 32, 7, "headrace.SourceDocument")
    context = Context(Trace("r", "default", 1, T0), Change("acme", "a.md", 1, Operation.UPSERT), None)
    large = replace(letter(value=codec.encode(context, SourceDocument, reference)), stage="chunker")
    shown = payload.decoded(codec, large)
    assert (shown["value"]["change"]["document_id"], shown["value"]["payload"]) == ("a.md", None)
    assert shown["object"] == {
        "uri": reference.uri, "sha256": "ab" * 32, "size": 7, "record": "headrace.SourceDocument",
    }  # fmt: skip


def test_an_export_holds_every_byte() -> None:
    """If it failed, a record could not be restored from what was exported."""
    bad = letter((("h", b"\xff"), ("none", None)), key=b"\xfe", value=b"\xff\x00")
    found = Found(messages.entry(HERE, bad, carrier(), action()), bad, carrier((("reason", b"r"),)))
    document = payload.full_document(Codec(FixedIds()), found)
    record = document["record"]
    assert (record["key_base64"], record["value_base64"]) == ("/g==", "/wA=")
    assert [header["value_base64"] for header in record["headers"]] == ["/w==", None]
    assert document["action"]["acted_by"] == "olga"
    foreign = Found(messages.undecodable(HERE, "why", carrier(), None), None, carrier()._replace(value=b"\x01"))
    assert payload.full_document(Codec(FixedIds()), foreign)["carrier"]["value_base64"] == "AQ=="


def test_a_refused_order_is_listed_shown_and_discarded_but_never_sent_again() -> None:
    """If it failed, nobody would see a refused order, or a redrive would look for a topic that does not exist."""
    codec = Codec(FixedIds())
    value = codec.encode_plain(Control("STOP", "tenant", "acme", "why", "ann", T0))
    refused = replace(letter(value=value, key=b"tenant/acme", topic="p-control"), stage="control", remedy="Give it.")
    place = parse_id("control/0/3")
    found = messages.entry(place, refused, carrier(), None)
    assert (found.tenant, found.document_id, found.whole) == (None, None, messages.ORDER)
    assert Selection().stages()[-1] == "control"
    assert check(Selection(stage="control"), T0).holds(found)
    assert counted([entry(), found]) == [("ingest", "acme", 1), ("control", None, 1)]
    again = plan([found], ActionRequest(REDRIVEN, "b", "olga"), named=False)
    assert (again.taken, again.refused) == ([], [(found, messages.ORDER)])
    with pytest.raises(RefusedDeadLetter) as raised:
        plan([found], ActionRequest(REDRIVEN, "b", "olga"), named=True)
    assert raised.value.remedy == "Give it."
    assert plan([found], ActionRequest(DISCARDED, "b", "olga"), named=True).taken == [found]
    shown = payload.decoded(codec, refused)
    assert (shown["form"], shown["value"]["action"]) == ("avro Control", "STOP")
