"""Dead letters on real Kafka and registry: what is listed, sent again, discarded and exported, and what never twice."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from typer.testing import CliRunner

from headrace.codec.codec import Codec
from headrace.config.settings import KafkaSettings, WorkerSettings
from headrace.errors import InvalidRecord
from headrace.kafka.broker_contract import Headers, Record
from headrace.kafka.headers import Origin
from headrace.migrate import create_topics
from headrace.runtime.compute import ComputeThread
from headrace.runtime.deadletters import Failure, dead_letter
from headrace.stage_process.main import Parts
from headrace.topology.stages import INGEST, STAGES
from headrace_cli.app import app
from headrace_ingest.order_guard import guarding
from headrace_operations import transactions
from headrace_operations.actions import ActionRequest
from headrace_operations.dead_letters.act import REDRIVEN, Actor, plan
from headrace_operations.dead_letters.log import DeadLetterLog
from headrace_operations.dead_letters.model import Id, NoSuchDeadLetter, RefusedDeadLetter, Selection, State
from headrace_testing.committed import read_all
from headrace_testing.deployment import Place

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@dataclass(frozen=True)
class Ground:
    """Topics of this test alone, with what writes dead letters as the runtime does."""

    kafka: KafkaSettings
    codec: Codec
    registry: str

    def give_up(
        self, key: bytes | None, value: bytes | None = b"{}", *, headers: Headers = (), offset: int = 7,
        stage: str = "ingest",
    ) -> None:  # fmt: skip
        """Have a stage give a record up."""
        topic = self.kafka.topic(STAGES[stage].source)
        record = Record(topic, 1, offset, key, value, headers, 1_700_000_000_000)
        message = dead_letter(
            record, Failure(InvalidRecord("title", f"is '{offset}'")), stage=stage,
            topic=self.kafka.topic(f"dead-letters.{stage}"), worker=f"{stage}-0", first=Origin(topic, 1, offset),
            attempt=1, now=datetime.now(UTC), codec=self.codec, max_message_bytes=self.kafka.max_message_bytes,
        )  # fmt: skip
        producer = Producer({**self.kafka.client(), "partitioner": "murmur2_random"})
        producer.produce(message.topic, message.value, message.key, headers=list(message.headers))
        assert producer.flush(60) == 0

    def retried(self, stage: str = "ingest") -> list[Record]:
        """What lies in the stage's retry topic, as its side lane would read it."""
        return read_all(self.kafka.bootstrap, self.kafka.topic(f"retry.{stage}"))

    def select(self, **asked: Any) -> Any:
        """What the log holds."""
        return DeadLetterLog(self.kafka, self.codec).select(Selection(**asked))

    def act(self, action: str = REDRIVEN, *, again: bool = False, **asked: Any) -> list[Id]:
        """Carry a request out."""
        request = ActionRequest(action, "b1", "olga", "because", again)
        planned = plan(self.select(**asked), request, named="ids" in asked)
        return Actor(self.kafka, self.codec).carry_out(planned.taken, request)

    def run(self, *words: str, code: int = 0, text: str | None = None) -> Any:
        """Run the command line."""
        env = {"HEADRACE_KAFKA_TOPIC_PREFIX": self.kafka.topic_prefix, "COLUMNS": "200"}
        result = CliRunner().invoke(
            app, ["dlq", *words, "--kafka", self.kafka.bootstrap, "--registry", self.registry], env=env, input=text
        )
        assert result.exit_code == code, result.output
        return result


@pytest.fixture
def ground(place: Place) -> Ground:
    """The test's own topics."""
    return Ground(place.kafka_settings(), place.create_topics(), place.registry)


def test_a_record_goes_back_as_it_was_and_only_once(ground: Ground) -> None:
    """If it failed, a redrive would alter a document's record, lose where it came from, or send it twice."""
    ground.give_up(b"acme/a.md", b'{"id": 1}', headers=(("version", b"3"), ("none", None), ("redrive", b"old")))
    ground.give_up(None, None, offset=8)
    assert len(ground.act()) == 2
    keyed, unkeyed = sorted(ground.retried(), key=lambda record: record.key is None)
    assert (keyed.key, keyed.value) == (b"acme/a.md", b'{"id": 1}')
    given = dict(keyed.headers)
    identity = next(entry.id for entry in ground.select(states=frozenset(State)) if entry.tenant == "acme")
    assert (given.pop("retry-due") or b"").isdigit()
    assert given == {
        "version": b"3", "none": None, "origin-topic": ground.kafka.topic("changes").encode(), "origin-partition": b"1",
        "origin-offset": b"7", "retry-attempt": b"1", "redrive": identity.place.encode(),
    }  # fmt: skip
    assert (unkeyed.key, unkeyed.value) == (None, None)

    assert ground.act() == []
    with pytest.raises(RefusedDeadLetter, match="redriven by olga"):
        ground.act(ids=frozenset({identity}), states=frozenset(State))
    assert len(ground.retried()) == 2
    assert ground.act(ids=frozenset({identity}), states=frozenset(State), again=True) == [identity]
    assert len(ground.retried()) == 3


def test_a_command_that_was_overtaken_sends_nothing_more(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, two redrives at the same time would send a record twice."""
    for number in range(4):
        ground.give_up(f"acme/{number}".encode(), offset=number)
    monkeypatch.setattr(transactions, "_BATCH_RECORDS", 1)
    chosen, request = ground.select(), ActionRequest(REDRIVEN, "b1", "olga")
    slow = Actor(ground.kafka, ground.codec)
    seconds: list[Id] = []

    def overtake(_: int) -> None:
        if not seconds:
            seconds.extend(Actor(ground.kafka, ground.codec).carry_out(chosen, replace(request, batch="b2")))

    with pytest.raises(RefusedDeadLetter, match="took over; 1 dead letters were redriven"):
        slow.carry_out(chosen, request, overtake)
    assert len(seconds) == 3
    assert len(ground.retried()) == 4
    assert {entry.action.batch for entry in ground.select(states=frozenset(State))} == {"b1", "b2"}


def test_a_failure_in_a_batch_undoes_all_of_it(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, a crash would leave a record sent and not noted, which the next command sends again."""
    for number in range(3):
        ground.give_up(b"acme/a.md", offset=number)
    encode, calls = ground.codec.encode_plain, []

    def failing(record: Any) -> bytes:
        calls.append(record)
        if len(calls) == 3:
            raise InvalidRecord("why", "is wrong")
        return encode(record)

    with monkeypatch.context() as patch:
        patch.setattr(ground.codec, "encode_plain", failing)
        with pytest.raises(InvalidRecord):
            ground.act()
    assert ground.retried() == []
    assert [entry.state for entry in ground.select()] == [State.OPEN] * 3
    assert len(ground.act()) == 3
    assert len(ground.retried()) == 3


def test_each_generation_has_its_own_dead_letters_of_the_same_id(ground: Ground) -> None:
    """If it failed, a redrive of one generation would hide, or send, what another gave up at the same place."""
    second = replace(ground, kafka=ground.kafka.of("g2"))
    create_topics(second.kafka, 1)
    for one in (ground, second):
        one.give_up(b"acme/a.md", stage="embedder")
    ground.give_up(b"acme/b.md")
    (embedder,) = second.select(stage="embedder")
    assert [entry.id for entry in ground.select(stage="embedder")] == [embedder.id]
    assert second.act(ids=frozenset({embedder.id})) == [embedder.id]
    assert (len(second.retried("embedder")), len(ground.retried("embedder"))) == (1, 0)
    assert second.select(stage="embedder") == []
    assert [entry.id for entry in ground.select(stage="embedder")] == [embedder.id]
    assert len(second.act(stage="ingest")) == 1
    assert ground.select(stage="ingest") == []  # what all share was dealt with for all


def test_what_does_not_exist_is_refused_naming_what_does(ground: Ground) -> None:
    """If it failed, a misspelt id would be a silent nothing, or a traceback."""
    ground.give_up(b"acme/a.md")
    (entry,) = ground.select()
    for wrong, says in (
        (replace(entry.id, partition=99), "partitions 0 to 3"),
        (replace(entry.id, offset=99), "has offsets 0 to 0"),
    ):
        with pytest.raises(NoSuchDeadLetter, match=says):
            ground.select(ids=frozenset({wrong}), states=frozenset(State))
    assert "has offsets 0 to 0" in ground.run("redrive", str(replace(entry.id, offset=99)), code=6).output
    assert "matches the filters" in ground.run("redrive", "--document", "nobody", code=6).output
    elsewhere = replace(ground, kafka=ground.kafka.model_copy(update={"topic_prefix": "nowhere-"}))
    assert "headrace bootstrap" in elsewhere.run("list", code=2).output


def test_the_command_line_lists_sends_discards_and_exports(ground: Ground, tmp_path: Path) -> None:
    """If it failed, operators could not do what the guide says, or a list would show a payload."""
    ground.give_up(b"acme/a.md", b'{"secret": "words"}', offset=1)
    ground.give_up(b"acme/b.md", b"\xff\x00", offset=2)
    listed = ground.run("list").output
    assert "title: is …" in listed
    assert "2 dead letters" in listed
    each = json.loads(ground.run("list", "--each", "--json").stdout)
    assert [one["document"] for one in each] == ["a.md", "b.md"]
    assert "secret" not in listed + ground.run("list", "--each").output + json.dumps(each)
    assert '"secret": "words"' in ground.run("show", each[0]["id"]).output

    exported = tmp_path / "dead.jsonl"
    ground.run("export", str(exported))
    lines = [json.loads(line) for line in exported.read_text().splitlines()]
    assert sorted(line["record"]["value_base64"] for line in lines) == ["/wA=", "eyJzZWNyZXQiOiAid29yZHMifQ=="]
    assert exported.stat().st_mode & 0o777 == 0o600
    assert "already exists" in ground.run("export", str(exported), code=2).output

    assert "2 would be redriven" in ground.run("redrive", "--all", "--dry-run").output
    assert ground.run("discard", each[1]["id"], "--why", "junk", code=1, text="n\n").exit_code == 1
    assert len(ground.select()) == 2
    assert "1 dead letters discarded" in ground.run("discard", each[1]["id"], "--why", "junk", text="y\n").output
    sent = json.loads(ground.run("redrive", "--tenant", "acme", "--json").stdout)
    assert sent["ids"] == [each[0]["id"]]
    assert "0 dead letters" in ground.run("list").output
    known = json.loads(ground.run("list", "--each", "--all-states", "--json").stdout)
    assert [(one["state"], one["action"]["why"]) for one in known] == [("redriven", ""), ("discarded", "junk")]
    assert "redriven by" in ground.run("redrive", each[0]["id"], code=1).output
    assert [one["id"] for one in json.loads(
        ground.run("list", "--batch", sent["batch"], "--each", "--json").stdout)] == sent["ids"]  # fmt: skip


def test_a_bad_order_is_one_dead_letter_over_two_workers_and_a_restart(ground: Ground) -> None:
    """If it failed, a bad order would leave no trace, or one dead letter for each worker and each start."""

    def order(value: bytes) -> None:
        producer = Producer(ground.kafka.client())
        producer.produce(ground.kafka.topic("control"), value, b"stage/embedder", partition=0)
        assert producer.flush(60) == 0

    def listed(number: int) -> list[Any]:
        deadline = time.monotonic() + 60
        while len(found := ground.select(stage="control")) < number and time.monotonic() < deadline:
            pass  # each look reads the topic anew and takes its time
        return [(entry.origin.rpartition("/")[2], entry.reason) for entry in found]

    def guard(slot: str) -> Any:
        return guarding(Parts(INGEST, ground.kafka, WorkerSettings(slot=slot), ground.codec, compute))

    compute = ComputeThread()
    try:
        order(b"STOP")
        with guard("0"), guard("1"):
            assert listed(1) == [("0", "undecodable")]
        order(b"STOP again")
        with guard("0"):
            assert listed(2) == [("0", "undecodable"), ("1", "undecodable")]
    finally:
        compute.close()
    ground.run("redrive", "control/0/0", code=1)
    assert "undecodable" in ground.run("list", "--stage", "control").stdout
