"""Held records on real Kafka and registry: what goes on, as what, only once, and what is deleted behind it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from confluent_kafka import Producer
from typer.testing import CliRunner

from headrace.codec.codec import Codec
from headrace.config.settings import KafkaSettings
from headrace.errors import InvalidRecord
from headrace.kafka import headers
from headrace.kafka.broker_contract import Record
from headrace.kafka.headers import Origin
from headrace.payloads import DeadLetter
from headrace_cli.app import app
from headrace_operations import transactions
from headrace_operations.actions import ActionRequest
from headrace_operations.held.act import HeldActor
from headrace_operations.held.log import HeldLog
from headrace_operations.held.model import (
    APPROVED,
    REJECTED,
    RELEASED,
    HeldEntry,
    HeldSelection,
    NoSuchHeldRecord,
    RefusedHeldRecord,
)
from headrace_testing.committed import read_all
from headrace_testing.deployment import Place

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
ACME = frozenset({"tenant/acme"})


@dataclass(frozen=True)
class Site:
    """Topics of this test alone, with what holds records as the runtime does."""

    kafka: KafkaSettings
    codec: Codec
    registry: str

    def hold(self, key: str, number: int, *, scope: str = "tenant/acme", target: str | None = None) -> None:
        """Have the chunker set a record aside: of a pause, or with a target for a review."""
        kind = "pause" if target is None else "review"
        said = headers.for_hold(
            (("version", b"3"),), Origin(self.kafka.topic("documents"), 1, number), kind=kind, scope=scope, why="why",
            now_ms=1_700_000_000_000 + number, target=None if target is None else self.kafka.topic(target),
        )  # fmt: skip
        producer = Producer({**self.kafka.client(), "partitioner": "murmur2_random"})
        producer.produce(self.kafka.topic("held.chunker"), f"v{number}".encode(), key, headers=list(said))
        assert producer.flush(10) == 0

    def records(self, name: str) -> list[Record]:
        """What is committed in a topic."""
        return read_all(self.kafka.bootstrap, self.kafka.topic(name))

    def waiting(self, **asked: Any) -> list[HeldEntry]:
        """What waits."""
        return HeldLog(self.kafka, self.codec).select(HeldSelection(**asked))

    def actor(self) -> HeldActor:
        """Somebody who acts."""
        return HeldActor(self.kafka, self.codec, now=lambda: datetime.fromtimestamp(1_800_000_000, UTC))

    def run(self, *words: str, code: int = 0) -> Any:
        """Run the command line."""
        env = {"HEADRACE_KAFKA_TOPIC_PREFIX": self.kafka.topic_prefix, "COLUMNS": "200"}
        place = ("--kafka", self.kafka.bootstrap, "--registry", self.registry)
        result = CliRunner().invoke(app, [*words, *place], env=env)
        assert result.exit_code == code, result.output
        return result


@pytest.fixture
def site(place: Place) -> Site:
    """The test's own topics."""
    return Site(place.kafka_settings(), place.create_topics(), place.registry)


def request(action: str, why: str = "because") -> ActionRequest:
    """A request of olga's."""
    return ActionRequest(action, "b1", "olga", why)


def test_what_a_pause_held_goes_back_as_it_was_once_and_leaves_the_topic(site: Site) -> None:
    """If it failed, a resumed tenant would lose records, get them twice, or another's would go with them."""
    for number in range(6):
        site.hold(f"acme/{number}.md", number)
    site.hold("other/a.md", 9, scope="tenant/other")
    site.hold("-", 10)
    assert len(site.actor().release(ACME, request(RELEASED)).taken) == 7
    sent = {record.value: record for record in site.records("retry.chunker")}
    assert len(sent) == 7
    assert (sent[b"v2"].key, sent[b"v10"].key) == (b"acme/2.md", None)
    assert sent[b"v2"].headers == (
        ("version", b"3"), ("origin-topic", site.kafka.topic("documents").encode()), ("origin-partition", b"1"),
        ("origin-offset", b"2"), ("retry-attempt", b"1"), ("retry-due", b"1800000000000"),
    )  # fmt: skip
    assert [entry.tenant for entry in site.waiting()] == ["other"]
    assert site.actor().release(ACME, request(RELEASED)).taken == []
    assert len(site.records("retry.chunker")) == 7
    kept = site.records("held.chunker")
    assert b"v9" in [record.value for record in kept]
    before_it = [one for one in kept if one.value != b"v9" and one.partition != _partition_of(kept, b"v9")]
    assert before_it == []


def _partition_of(records: list[Record], value: bytes) -> int:
    return next(record.partition for record in records if record.value == value)


def test_a_crash_between_batches_and_in_one_sends_nothing_twice(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, a release that died would send records again, or lose them, at the next one."""
    monkeypatch.setattr(transactions, "_BATCH_RECORDS", 2)
    for number in range(7):
        site.hold("acme/a.md", number)
    encode, calls = site.codec.encode_plain, []

    def failing(record: Any) -> bytes:
        calls.append(record)
        if len(calls) == 4:
            raise InvalidRecord("why", "is wrong")
        return encode(record)

    with monkeypatch.context() as patch:
        patch.setattr(site.codec, "encode_plain", failing)
        with pytest.raises(InvalidRecord):
            site.actor().release(ACME, request(RELEASED))
    assert len(site.waiting()) == 5
    assert len(site.actor().release(ACME, request(RELEASED)).taken) == 5
    assert sorted(record.value or b"" for record in site.records("retry.chunker")) == [b"v%d" % n for n in range(7)]
    assert site.records("held.chunker") == []


def test_a_command_that_was_overtaken_sends_nothing_more(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, two operators who resume at the same time would send a record twice."""
    monkeypatch.setattr(transactions, "_BATCH_RECORDS", 1)
    for number in range(4):
        site.hold("acme/a.md", number)
    seconds: list[HeldEntry] = []

    def overtake(_: int) -> None:
        if not seconds:
            seconds.extend(site.actor().release(ACME, request(RELEASED)).taken)

    with pytest.raises(RefusedHeldRecord, match="took over; 1 records were released"):
        site.actor().release(ACME, request(RELEASED), overtake)
    assert len(seconds) == 3
    assert len(site.records("retry.chunker")) == 4


def test_a_review_sends_on_or_turns_down_and_is_final(site: Site) -> None:
    """If it failed, an approved output would not go on as it is, or a rejected one would vanish or go on."""
    for number in range(2):
        site.hold("acme/a.md", number, scope="pipeline/default", target="chunks")
    site.hold("acme/b.md", 2)
    site.hold("acme/c.md", 3, scope="pipeline/default", target="control")
    good, bad = (entry.id for entry in site.waiting(kind="review", document="a.md"))
    assert [entry.id for entry in site.actor().decide(frozenset({good}), request(APPROVED)).taken] == [good]
    (sent,) = site.records("chunks")
    assert (sent.key, sent.value, sent.headers) == (b"acme/a.md", b"v0", (("version", b"3"),))
    again = site.actor().decide(frozenset({good}), request(APPROVED))
    assert again.taken == []
    assert "was approved by olga" in again.before[0][1]

    site.actor().decide(frozenset({bad}), request(REJECTED, "it is cut"))
    (carrier,) = site.records("dead-letters.chunker")
    letter = site.codec.decode_plain(carrier.value, DeadLetter)
    assert letter.reason == "rejected"
    assert letter.message.startswith("rejected by olga: it is cut")
    assert (letter.key, letter.value, letter.topic, letter.offset) == (
        b"acme/a.md", b"v1", site.kafka.topic("documents"), 1,
    )  # fmt: skip
    (paused,), (astray,) = site.waiting(document="b.md"), site.waiting(document="c.md")
    for wrong, says in (
        (bad, "was rejected by olga"),
        (paused.id, "is held by a pause"),
        (astray.id, "does not write"),
    ):
        with pytest.raises(RefusedHeldRecord, match=says):
            site.actor().decide(frozenset({wrong}), request(APPROVED))
    with pytest.raises(NoSuchHeldRecord):
        site.actor().decide(frozenset({type(good)("chunker", 0, 999)}), request(APPROVED))
    assert len(site.records("chunks")) == 1


def test_the_command_line_lists_shows_and_decides(site: Site) -> None:
    """If it failed, reviewers could not do what the guide says."""
    site.hold("acme/a.md", 0, scope="pipeline/default", target="chunks")
    site.hold("acme/b.md", 1)
    listed = json.loads(site.run("held", "list", "--json").stdout)
    assert [(one["kind"], one["scope"], one["document"]) for one in listed] == [
        ("review", "pipeline/default", "a.md"), ("pause", "tenant/acme", "b.md"),
    ]  # fmt: skip
    assert "1 held records" in site.run("held", "list", "--kind", "pause").output
    (waits,) = json.loads(site.run("review", "list", "--json").stdout)
    assert "djA=" in site.run("review", "show", waits["id"], "--json").output
    assert "would be approved" in site.run("review", "approve", waits["id"], "--dry-run").output
    assert site.records("chunks") == []
    assert "acme, a.md): approved" in site.run("review", "approve", waits["id"]).output
    assert "was approved by" in site.run("review", "approve", waits["id"]).output
    assert "was approved by" in site.run("review", "reject", waits["id"], "--why", "x", code=1).output
    site.run("review", "show", "chunker/0/999", code=6)
