"""The loop, the computing thread and the watchdog: what they do with the decision's commands."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from headrace.errors import DependencyDown
from headrace.kafka.broker_contract import (
    Message,
    OffsetsLost,
    TopicPartition,
    TransactionAborted,
    TransactionUncertain,
)
from headrace.runtime import worker as worker_module
from headrace.runtime.compute import ComputeThread
from headrace.runtime.contract import Lane, Time
from headrace.runtime.loop.batch import Batch, BatchResult
from headrace.runtime.loop.breaker import Open
from headrace.runtime.loop.commands import Command
from headrace.runtime.loop.decide import decide
from headrace.runtime.loop.events import Event, LiveLaneChanged, OrdersChanged
from headrace.runtime.loop.lifecycle import EXIT_BUG, EXIT_DONE, EXIT_FENCED, EXIT_OFFSETS_LOST, Lifecycle
from headrace.runtime.loop.limits import Limits
from headrace.runtime.loop.state import State
from headrace.runtime.watchdog import Watchdog
from headrace.runtime.worker import LATELY_S, Worker
from headrace_testing.fakes import FakeClock, InlineComputer
from headrace_testing.memory_broker import CommitFault, CommitOutcome, MemoryBroker
from headrace_testing.memory_cluster import MemoryCluster

pytestmark = pytest.mark.unit

WAIT_S = 30.0
"""Bound of a wait for a real thread."""


class Bench:
    """One worker that copies records, over a cluster with a topic in and a topic out."""

    def __init__(self, compute: Callable[[Batch], BatchResult] | None = None) -> None:
        self.clock = FakeClock()
        self.cluster = MemoryCluster(clock=self.clock, wait=self.clock.advance)
        self.cluster.create_topic("in", 2)
        self.cluster.create_topic("out", 2)
        self.broker = MemoryBroker(self.cluster, group="g", transactional_id="g-0")
        self.computer = InlineComputer(compute or copy, self.clock)
        lane = Lane("bench", ["in"], Limits(batch_records=4, backoff_s=1.0))
        self.worker = Worker(lane, self.broker, self.computer, time=Time(self.clock, jitter=lambda: 1.0))

    def produce(self, number: int) -> None:
        """Write so many records."""
        for index in range(number):
            self.cluster.append(Message("in", f"t/{index}".encode(), str(index).encode()))

    def steps(self, number: int = 60) -> None:
        """Let the worker go on."""
        for _ in range(number):
            self.worker.step()

    def output(self) -> list[int]:
        """What was committed, sorted."""
        return sorted(int(record.value or b"") for record in self.cluster.read_committed("out"))


def copy(batch: Batch) -> BatchResult:
    """Copy the records."""
    return BatchResult([Message("out", record.key or b"", record.value or b"") for record in batch.records])


def test_run_works_until_told_to_stop_and_leaves_the_group() -> None:
    """Broken: a drained worker keeps its partitions until its session times out."""

    def compute(batch: Batch) -> BatchResult:
        if len(bench.output()) >= 5:
            bench.worker.stop()
        return copy(batch)

    bench = Bench(compute)
    bench.produce(9)
    assert bench.worker.run() == EXIT_DONE
    assert bench.output() == list(range(9))
    assert bench.cluster.group("g").members == {}


def test_a_lane_is_busy_until_its_last_record_is_a_while_ago() -> None:
    """Broken: a replay takes a whole turn between two live records, or waits for records that no longer come."""
    bench = Bench()
    assert not bench.worker.busy()
    bench.broker.subscribe(["in"])
    bench.produce(1)
    while bench.worker.state.in_progress.next_number == 1:
        bench.worker.step()
    bench.steps(2)
    assert bench.output() == [0]
    assert bench.worker.busy()
    bench.clock.advance(LATELY_S)
    assert not bench.worker.busy()


class Desk:
    """The operators' orders and the other lane, as tests want them."""

    def __init__(self) -> None:
        self.why: str | None = None
        self.gone_on = 3
        self.live = False

    def paused(self) -> str | None:
        """Return why nothing is started."""
        return self.why

    def resumes(self) -> int:
        """Return the orders to go on."""
        return self.gone_on


def test_orders_and_the_live_lane_come_to_the_decision_as_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: state changes behind the decision's back, so that no recording of events tells what a worker did."""
    seen: list[Event] = []

    def recorded(state: State, event: Event, limits: Limits) -> tuple[State, list[Command]]:
        seen.append(event)
        return decide(state, event, limits)

    monkeypatch.setattr(worker_module, "decide", recorded)
    bench, desk = Bench(), Desk()
    bench.broker.subscribe(["in"])
    worker = Worker(
        Lane("bench", ["in"], Limits(batch_records=4)), bench.broker, bench.computer,
        orders=desk, live_busy=lambda: desk.live, time=Time(bench.clock),
    )  # fmt: skip
    assert worker.state.lifecycle.resumes == 3  # orders from before the start let nothing go on
    desk.why, desk.live = "paused by ann", True
    for _ in range(6):
        worker.step()
    bench.produce(2)
    for _ in range(6):
        worker.step()
    assert bench.output() == []
    desk.why, desk.gone_on = None, 4
    for _ in range(6):
        worker.step()
    assert bench.output() == [0, 1]
    told = [event for event in seen if isinstance(event, (OrdersChanged, LiveLaneChanged))]
    assert [(type(event), getattr(event, "paused", None), getattr(event, "resumes", None)) for event in told] == [
        (OrdersChanged, "paused by ann", 3), (LiveLaneChanged, None, None), (OrdersChanged, None, 4),
    ]  # fmt: skip
    assert replay(seen, Limits(batch_records=4), 3) == worker.state


def replay(events: list[Event], limits: Limits, resumes: int) -> State:
    """The state that the events alone lead to."""
    state = State(lifecycle=Lifecycle(resumes=resumes))
    for event in events:
        state, _ = decide(state, event, limits)
    return state


def test_a_successor_does_what_a_stop_left() -> None:
    """Broken: records between the last commit and the stop are lost or doubled."""
    bench = Bench()
    bench.produce(20)
    bench.broker.subscribe(["in"])
    while len(bench.output()) < 4:
        bench.worker.step()
    bench.worker.stop()
    while bench.worker.state.exit is None:
        bench.worker.step()
    bench.broker.close()
    left = bench.output()
    assert 4 <= len(left) < 20
    broker = MemoryBroker(bench.cluster, group="g", transactional_id="g-0")
    successor = Worker(Lane("bench", ["in"], Limits()), broker, bench.computer, time=Time(bench.clock))
    successor._broker.subscribe(["in"])
    for _ in range(40):
        successor.step()
    assert bench.output() == list(range(20))


@pytest.mark.parametrize(
    "fault",
    [
        CommitFault(CommitOutcome.ABORTED, TransactionAborted()),
        CommitFault(CommitOutcome.COMMITTED, TransactionUncertain()),
        CommitFault(CommitOutcome.OPEN, TransactionUncertain()),
    ],
    ids=lambda fault: fault.outcome,
)
def test_a_commit_that_fails_is_done_again_exactly_once(fault: CommitFault) -> None:
    """Broken: a refused or uncertain transaction loses or doubles its batch."""
    bench = Bench()
    bench.produce(10)
    bench.broker.subscribe(["in"])
    bench.broker.faults.append(fault)
    bench.steps()
    assert bench.output() == list(range(10))
    assert not bench.broker.faults


def test_an_outage_of_a_dependency_keeps_membership_and_records() -> None:
    """Broken: while a provider is down the worker is thrown out of its group, or gives records up."""
    failures = iter([DependencyDown("llm", delay=60.0)])

    def compute(batch: Batch) -> BatchResult:
        for error in failures:
            raise error
        return copy(batch)

    bench = Bench(compute)
    bench.produce(6)
    bench.broker.subscribe(["in"])
    started = bench.clock()
    bench.steps(20)
    assert isinstance(bench.worker.state.breaker.circuit, Open)
    assert bench.output() == []
    while bench.clock() - started < 70.0:
        bench.worker.step()
    bench.steps()
    assert bench.output() == list(range(6))
    assert list(bench.cluster.group("g").members) == ["member-1"]


def test_a_worker_is_ended_by_a_fence_a_bug_or_lost_offsets() -> None:
    """Broken: the exit code does not tell the supervisor why."""

    def fail(_: Batch) -> BatchResult:
        raise AssertionError("bug")

    bench = Bench(fail)
    bench.produce(1)
    assert bench.worker.run() == EXIT_BUG
    bench = Bench()
    bench.produce(1)
    bench.broker.subscribe(["in"])
    bench.cluster.init_producer("g-0")
    bench.steps(10)
    assert bench.worker.state.exit is not None
    assert bench.worker.state.exit.code == EXIT_FENCED
    bench = Bench()
    bench.produce(40)
    bench.broker.subscribe(["in"])
    bench.steps(4)
    place = next(iter(bench.cluster.committed("g")))
    bench.broker.close()
    bench.cluster.delete_before(place, bench.cluster.bounds(place)[1])
    assert bench.worker.run() == EXIT_OFFSETS_LOST
    assert bench.worker.state.exit is not None
    assert str(place) in bench.worker.state.exit.reason


def test_a_broken_connection_is_waited_for() -> None:
    """Broken: a restart of Kafka ends the worker, or loses records."""
    bench = Bench()
    bench.produce(3)
    bench.broker.subscribe(["in"])
    bench.cluster.available = False
    bench.steps(5)
    assert isinstance(bench.worker.state.breaker.circuit, Open)
    assert bench.worker.state.breaker.circuit.dependency == "kafka"
    bench.cluster.available = True
    bench.steps()
    assert bench.output() == [0, 1, 2]


def test_memory_readers_stop_at_an_open_transaction() -> None:
    """Broken: the memory broker shows what Kafka would not, so that tests over it prove nothing."""
    bench = Bench()
    bench.broker.subscribe(["in"])
    bench.cluster.write("other", [Message("in", b"k", b"0")], {})
    place = bench.cluster.append(Message("in", b"k", b"1"))
    assert bench.cluster.read_committed("in") == []
    bench.cluster.end_open_transaction("other", commit=False)
    assert [record.value for record in bench.cluster.read_committed("in")] == [b"1"]
    assert bench.cluster.bounds(TopicPartition("in", place.partition)) == (0, 3)


def test_lost_offsets_name_partition_and_bounds() -> None:
    """Broken: the operator cannot tell which partition lost what."""
    bench = Bench()
    with pytest.raises(OffsetsLost, match=r"in\[1\].*from 5 to 9"):
        bench.cluster.check_position(TopicPartition("in", 1), 3, 5, 9)


def batch(number: int) -> Batch:
    """An empty batch."""
    return Batch(number, (), None, 0.0)


def test_the_computing_thread_keeps_the_order_and_reports_errors() -> None:
    """Broken: batches overtake each other, or an error is swallowed."""
    running: list[int] = []
    most: list[int] = []

    async def process(found: Batch) -> BatchResult:
        running.append(found.number)
        most.append(len(running))
        await asyncio.sleep(0)
        running.remove(found.number)
        if found.number == 2:
            raise KeyError("two")
        return BatchResult([], found.number)

    thread = ComputeThread()
    computer = thread.computer(process)
    try:
        assert computer.wait(0.0) is None
        for number in (1, 2, 3):
            computer.submit(batch(number))
        returned = [computer.wait(WAIT_S) for _ in range(3)]
    finally:
        thread.close()
    assert [found.number for found in returned if found] == [1, 2, 3]
    assert isinstance(returned[1].outcome, KeyError) if returned[1] else False
    assert max(most) == 1


def test_a_cancelled_batch_ends_and_the_next_one_runs() -> None:
    """Broken: a doomed batch blocks the thread, or its successor is cancelled with it."""
    started = threading.Event()

    async def process(found: Batch) -> BatchResult:
        if found.number == 1:
            started.set()
            await asyncio.Event().wait()
        return BatchResult([])

    thread = ComputeThread()
    computer = thread.computer(process)
    try:
        computer.submit(batch(1))
        computer.submit(batch(2))
        computer.submit(batch(3))
        assert started.wait(WAIT_S)
        computer.cancel(2)
        computer.cancel(1)
        returned = [computer.wait(WAIT_S) for _ in range(3)]
    finally:
        thread.close()
    outcomes = {found.number: found.outcome for found in returned if found is not None}
    assert isinstance(outcomes[1], asyncio.CancelledError)
    assert isinstance(outcomes[2], asyncio.CancelledError)
    assert outcomes[3] == BatchResult([])
    assert computer._tasks == {}


def test_a_dead_side_task_is_reported_by_name() -> None:
    """Broken: a side task dies in silence and the service goes on without it."""
    ended = threading.Event()
    told: list[tuple[str, BaseException | None]] = []

    async def fail() -> None:
        raise RuntimeError("side")

    def on_end(name: str, failure: BaseException | None) -> None:
        told.append((name, failure))
        ended.set()

    thread = ComputeThread()
    try:
        thread.spawn("query-server", fail(), on_end)
        assert ended.wait(WAIT_S)
    finally:
        thread.close()
    assert told[0][0] == "query-server"
    assert isinstance(told[0][1], RuntimeError)


def test_the_watchdog_reports_a_hanging_call_once() -> None:
    """Broken: a call that never returns keeps the partitions for ever, or a slow one ends the process."""
    clock = FakeClock()
    told: list[tuple[str, float]] = []
    watchdog = Watchdog(120.0, expired=lambda call, bound: told.append((call, bound)), clock=clock)
    watchdog.check()
    with watchdog.watch("commit"):
        clock.advance(119.0)
        watchdog.check()
        assert told == []
        clock.advance(2.0)
        watchdog.check()
        watchdog.check()
    assert told == [("commit", 120.0)]
    clock.advance(500.0)
    watchdog.check()
    with watchdog.watch("poll"):
        watchdog.check()
    assert told == [("commit", 120.0)]


def test_the_compute_thread_outlives_a_task_that_calls_sys_exit() -> None:
    """Broken: a handler's own task ends the event loop silently, and every later batch hangs."""
    compute = ComputeThread()

    async def leave() -> None:
        raise SystemExit(1)

    async def answer() -> str:
        return "alive"

    try:
        with pytest.raises(SystemExit):
            compute.call(leave(), timeout=5)
        assert compute.call(answer(), timeout=5) == "alive"
    finally:
        if compute._thread.is_alive():
            compute.close()
