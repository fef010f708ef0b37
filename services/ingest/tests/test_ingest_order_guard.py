"""What is no order on the topic ``control``: one dead letter, whoever follows the topic, and the stage continues."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

import pytest

from headrace.codec.codec import Codec
from headrace.codec.schema_registry import FixedIds
from headrace.errors import DependencyDown
from headrace.kafka.broker_contract import Message, TransactionAborted, TransactionUncertain
from headrace.payloads import Control, DeadLetter, HeaderPart
from headrace.runtime.contract import Lane, Time
from headrace.runtime.loop.breaker import Closed, Open
from headrace.runtime.loop.lifecycle import EXIT_BUG, Exit, Lifecycle
from headrace.runtime.loop.limits import Limits
from headrace.runtime.loop.state import State
from headrace.runtime.worker import Worker
from headrace_ingest.order_guard import REMEDY, OrderCheck, OrderGuard
from headrace_testing.fakes import FakeClock, InlineComputer, run_inline
from headrace_testing.memory_broker import CommitFault, CommitOutcome, MemoryBroker
from headrace_testing.memory_cluster import MemoryCluster

pytestmark = pytest.mark.unit

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TOPIC, LETTERS, GROUP = "p-control", "p-dead-letters.control", "p-headrace-control"


def order(action: str = "PAUSE", scope: str = "stage", target: str = "embedder") -> Control:
    """An order by ann."""
    return Control(action, scope, target, "", "ann", NOW)


class Site:
    """A cluster with the topic, and any number of workers that have the duty."""

    def __init__(self, codec: Codec | None = None) -> None:
        self.clock = FakeClock()
        self.cluster = MemoryCluster(clock=self.clock, wait=self.clock.advance)
        self.cluster.create_topic(TOPIC, 1)
        self.cluster.create_topic(LETTERS, 1)
        self.codec = Codec(FixedIds())
        self.check = OrderCheck(codec or self.codec, LETTERS, "ingest-0", 1000, now=lambda: NOW)

    def write(self, value: bytes | Control, key: bytes = b"stage/embedder", headers: Any = ()) -> None:
        """Have somebody write to the topic."""
        self.cluster.append(Message(TOPIC, key, self.encoded(value), headers))

    def encoded(self, value: bytes | Control) -> bytes:
        """The record's value."""
        return value if isinstance(value, bytes) else self.codec.encode_plain(value)

    def worker(self, slot: int = 0) -> tuple[Worker, MemoryBroker]:
        """A worker that has joined the group."""
        broker = MemoryBroker(self.cluster, group=GROUP, transactional_id=f"{GROUP}-{slot}")
        worker = Worker(
            Lane("control", [TOPIC], Limits(backoff_s=1.0)), broker,
            InlineComputer(run_inline(self.check.process), self.clock), time=Time(self.clock, jitter=lambda: 1.0),
        )  # fmt: skip
        broker.subscribe([TOPIC])
        return worker, broker

    def letters(self) -> list[DeadLetter]:
        """The dead letters that are committed."""
        return [self.codec.decode_plain(found.value, DeadLetter) for found in self.cluster.read_committed(LETTERS)]


def steps(*workers: Worker, number: int = 40) -> None:
    """Let the workers go on in turn."""
    for _ in range(number):
        for worker in workers:
            worker.step()


def test_what_is_no_order_ends_as_one_dead_letter_and_orders_as_none() -> None:
    """Broken: an order of an unknown version is lost without a trace, or a good one is dead-lettered."""
    site = Site()
    site.write(order())
    site.write(b"\x00\x7f\x7f\x7f\x7fnonsense", headers=(("by", b"ann"), ("empty", None)))
    site.write(order("STOP"))
    site.write(order(scope="planet"), key=b"planet/earth")
    site.write(order(target=""), key=b"stage/")
    site.write(b"PAUSE everything")
    site.write(order("RESUME"))
    worker, _ = site.worker()
    steps(worker)
    letters = site.letters()
    assert [(letter.offset, letter.reason) for letter in letters] == [
        (1, "undecodable"), (2, "invalid-record"), (3, "invalid-record"), (4, "invalid-record"), (5, "undecodable"),
    ]  # fmt: skip
    first = letters[0]
    assert (first.stage, first.topic, first.partition, first.key) == ("control", TOPIC, 0, b"stage/embedder")
    assert first.value == b"\x00\x7f\x7f\x7f\x7fnonsense"
    assert first.headers == (HeaderPart("by", b"ann"), HeaderPart("empty", None))
    assert "'STOP'" in letters[1].message
    assert "PAUSE, RESUME" in letters[1].message
    assert letters[1].value == site.encoded(order("STOP"))
    assert {letter.remedy for letter in letters} == {REMEDY}
    assert site.cluster.committed(GROUP)[site.cluster.places([TOPIC])[0]] == 7


def test_several_workers_and_restarts_write_it_once() -> None:
    """Broken: there is one dead letter for each worker of the duty, or another one after each restart."""
    site = Site()
    site.write(b"one")
    first, broker = site.worker(0)
    second, _ = site.worker(1)
    steps(first, second)
    broker.close()
    site.write(b"two")
    steps(second)
    third, _ = site.worker(0)
    site.write(b"three")
    steps(second, third)
    assert [letter.value for letter in site.letters()] == [b"one", b"two", b"three"]


@pytest.mark.parametrize(
    "fault",
    [
        CommitFault(CommitOutcome.ABORTED, TransactionAborted()),
        CommitFault(CommitOutcome.COMMITTED, TransactionUncertain()),
        CommitFault(CommitOutcome.OPEN, TransactionUncertain()),
    ],
    ids=lambda fault: fault.outcome,
)
def test_a_commit_that_fails_or_is_not_known_neither_loses_nor_doubles_it(fault: CommitFault) -> None:
    """Broken: a broker that ends at the wrong moment costs the dead letter, or makes two of it."""
    site = Site()
    site.write(b"one")
    worker, broker = site.worker()
    broker.faults.append(fault)
    steps(worker)
    assert not broker.faults
    assert [letter.value for letter in site.letters()] == [b"one"]


def test_a_registry_that_is_down_gives_no_order_up() -> None:
    """Broken: while the registry is away, good orders end as dead letters."""

    class Away:
        """The codec of a worker whose registry does not answer."""

        def decode_plain(self, data: bytes, record_type: type) -> Any:
            """Raise at first, then decode."""
            if site.clock() < 1_020.0:
                raise DependencyDown("schema registry")
            return site.codec.decode_plain(data, record_type)

    site = Site(cast("Codec", Away()))
    site.write(order())
    worker, _ = site.worker()
    steps(worker, number=5)
    assert isinstance(worker.state.breaker.circuit, Open)
    while site.clock() < 1_060.0:
        worker.step()
    assert isinstance(worker.state.breaker.circuit, Closed)
    assert site.letters() == []
    assert list(site.cluster.committed(GROUP).values()) == [1]


def test_a_record_larger_than_a_message_is_cut_and_says_so() -> None:
    """Broken: a huge record on the topic can never be committed, and no bad order after it is seen."""
    site = Site()
    site.write(b"x" * 600_000)
    worker, _ = site.worker()
    steps(worker)
    (letter,) = site.letters()
    assert letter.message.startswith("The record has 6")
    assert len(letter.value or b"") == 64 * 1024


class Ending:
    """A worker that ends by itself; in its last life its guard is closed."""

    def __init__(self, lives: int, failure: Exception | None) -> None:
        self.lives = lives
        self.failure = failure
        self.stopped = False
        self.state = State(lifecycle=Lifecycle(exit=Exit(EXIT_BUG, "gone")))
        self.guard = OrderGuard(self.make, again_s=0.0)

    def make(self) -> Worker:
        """The next life."""
        self.lives -= 1
        if self.lives == 0:
            self.guard._closed.set()
        return cast("Worker", self)

    def stop(self) -> None:
        """Be told to stop."""
        self.stopped = True

    def run(self) -> int:
        """End at once."""
        if self.failure:
            raise self.failure
        return EXIT_BUG


@pytest.mark.parametrize("failure", [None, RuntimeError("surprise")])
def test_a_check_that_ends_begins_again_and_ends_no_stage(failure: Exception | None) -> None:
    """Broken: a topic that was made anew, or a bug in the check, ends the stage, or ends the check for good."""
    ending = Ending(3, failure)
    ending.guard.run()
    assert (ending.lives, ending.stopped) == (0, True)
