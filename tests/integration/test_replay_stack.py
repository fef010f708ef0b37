"""Replays on real Kafka and registry, without stages: what is sent, what holds a run up, and who may carry it out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from unittest.mock import Mock

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from headrace.codec.codec import Codec
from headrace.config.settings import KafkaSettings
from headrace.kafka.broker_contract import Record
from headrace.orders import control
from headrace.payloads import ReplayRun
from headrace.topology import topics
from headrace_operations.orders import log as orders_log
from headrace_operations.replay.copier import Copier
from headrace_operations.replay.plan import plan
from headrace_operations.replay.runs import CANCELLED, PAUSED, read_run
from headrace_operations.replay.selection import RefusedReplay, Selection
from headrace_operations.transactions import Transactions
from headrace_testing.committed import read_all
from headrace_testing.deployment import Place

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

STAGE = "generator"  # nothing follows it, so that there is one lane to look at
WAIT_S = 60.0


@dataclass(frozen=True)
class Ground:
    """Topics of this test alone; no stage reads them."""

    kafka: KafkaSettings
    codec: Codec

    def write(self, count: int) -> None:
        """Write requests of two tenants, in turns."""
        producer = Producer({**self.kafka.client(), "partitioner": "murmur2_random"})
        for number in range(count):
            key = f"{('acme', 'zeta')[number % 2]}/{number}"
            producer.produce(self.kafka.topic("generation-requests"), b"v%d" % number, key, headers=[("own", b"1")])
        assert producer.flush(WAIT_S) == 0

    def plan(self, **asked: Any) -> ReplayRun:
        """The run that it comes to."""
        return plan(
            self.kafka, Selection(STAGE, **asked), rate=None, asked_by="olga", now=datetime.now(UTC)
        ).run  # fmt: skip

    def copier(self, outstanding: int) -> Copier:
        """Who carries runs out."""
        return Copier(self.kafka, self.codec, outstanding=outstanding)

    def order(self, action: control.Action, run: ReplayRun) -> None:
        """Order it as the command does."""
        orders_log.give(
            self.kafka, self.codec, action=action, scope=control.Scope.RUN, target=run.run_id, reason="", issued_by="o"
        )

    def state(self, run: ReplayRun) -> ReplayRun:
        """What the log says of the run."""
        return read_run(self.kafka, self.codec, run.run_id)

    def sent(self) -> list[Record]:
        """What lies in the replay topic, as the side lane would read it."""
        return read_all(self.kafka.bootstrap, self.kafka.topic(topics.replay_topic(STAGE)))


@pytest.fixture
def ground(place: Place) -> Ground:
    """The test's own topics."""
    return Ground(place.kafka_settings(), place.create_topics())


def until(true: Callable[[], object]) -> None:
    """Wait until it is true."""
    deadline = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


class Carried(threading.Thread):
    """A run that is carried out beside the test."""

    def __init__(self, copier: Copier, run: ReplayRun) -> None:
        super().__init__(daemon=True)
        self._copier = copier
        self._run_id = run.run_id
        self.result: ReplayRun | None = None
        self.refused: RefusedReplay | None = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self._copier.carry_out(self._run_id)
        except RefusedReplay as error:
            self.refused = error


def test_a_run_obeys_and_another_command_may_take_it_over(ground: Ground) -> None:
    """Broken: pause or cancel come late, the flood has no bound, or two commands send the same records twice."""
    ground.write(60)
    run = ground.plan(everything=True)
    first = ground.copier(20)
    first.begin(run)
    carried = Carried(first, run)
    until(lambda: ground.state(run).sent >= 10)
    ground.order(control.Action.PAUSE, run)
    until(lambda: ground.state(run).state == PAUSED)
    bound = ground.state(run).sent
    assert bound <= 20, "no stage took anything up, so no more than the bound may have been sent"
    assert len(ground.sent()) == bound

    ground.order(control.Action.RESUME, run)
    second = Carried(ground.copier(40), run)
    until(lambda: ground.state(run).sent > bound)
    carried.join(WAIT_S)
    assert carried.refused is not None, "the first command was not told that it was taken over"
    ordered = time.monotonic()
    ground.order(control.Action.CANCEL, run)
    second.join(WAIT_S)
    assert second.result is not None
    assert second.result.state == CANCELLED
    assert time.monotonic() - ordered < 10
    sent = [(record.key, record.value) for record in ground.sent()]
    assert len(sent) == len(set(sent)) == second.result.sent == ground.state(run).sent


class Died(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("record", [1, 25, 61])
def test_a_run_that_dies_within_a_transaction_sends_nothing_twice(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, record: int
) -> None:
    """Broken: records sent before a crash are sent again, or what was read before it is left out.

    It dies once ``record`` records and states have reached the broker, the transaction still open.
    """
    ground.write(60)
    run = ground.plan(everything=True)
    dying = ground.copier(1000)
    dying.begin(run)
    produce, said = Transactions._produce, []

    def die(transactions: Transactions, topic: str, **message: Any) -> None:
        produce(transactions, topic, **message)
        said.append(transactions._producer)
        if len(said) == record:
            assert said[-1].flush(WAIT_S) == 0
            transactions._producer = Mock()  # the dead abort nothing
            raise Died

    monkeypatch.setattr(Transactions, "_produce", die)
    with pytest.raises(Died):
        dying.carry_out(run.run_id)
    monkeypatch.undo()
    carried = Carried(ground.copier(1000), run)
    until(lambda: ground.state(run).sent >= 60)
    ground.order(control.Action.CANCEL, run)
    carried.join(WAIT_S)
    sent = [(record.key, record.value) for record in ground.sent()]
    assert len(sent) == len(set(sent)) == ground.state(run).sent == 60


def test_a_tenants_run_sends_its_records_as_they_were_and_no_others(ground: Ground) -> None:
    """Broken: another tenant's records are sent, or key, value or headers change; or a dead run cannot be ended."""
    ground.write(12)
    run = ground.plan(tenant="acme")
    copier = ground.copier(1000)
    copier.begin(run)
    carried = Carried(copier, run)
    until(lambda: ground.state(run).sent == 6)
    assert ground.copier(1000).cancel(run.run_id).state == CANCELLED
    carried.join(WAIT_S)
    assert carried.result is not None
    assert carried.result.state == CANCELLED
    found = {record.key: (record.value, dict(record.headers)) for record in ground.sent()}
    assert set(found) == {b"acme/%d" % number for number in range(0, 12, 2)}
    for key, (value, headers) in found.items():
        assert key is not None
        assert value == b"v" + key.split(b"/")[1]
        assert (headers["own"], headers["replay"]) == (b"1", run.run_id.encode())
        assert headers["origin-topic"] == ground.kafka.topic("generation-requests").encode()


def test_a_place_that_aged_out_is_told_with_what_is_left(ground: Ground) -> None:
    """Broken: records that retention deleted are skipped, and the replay looks whole."""
    ground.write(60)
    topic = ground.kafka.topic("generation-requests")
    admin = AdminClient(ground.kafka.client())
    admin.delete_records([TopicPartition(topic, 0, 3)])[TopicPartition(topic, 0, 3)].result(WAIT_S)
    with pytest.raises(RefusedReplay, match="begins at 3"):
        ground.plan(offsets={0: 1})
    with pytest.raises(RefusedReplay, match="is beyond its end"):
        ground.plan(offsets={0: 1000})
    planned = plan(ground.kafka, Selection(STAGE, everything=True), rate=None, asked_by="o", now=datetime.now(UTC))
    assert planned.cut_off == {0: 3}
