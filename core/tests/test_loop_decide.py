"""The decision of the runtime: what it does next, event by event, and what never happens whatever the order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import ConfigurationError, DependencyDown
from headrace.kafka.broker_contract import (
    BrokerUnavailable,
    Mark,
    Message,
    OffsetsLost,
    Polled,
    ProducerFenced,
    Record,
    Snapshot,
    TopicPartition,
    TransactionAborted,
    TransactionUncertain,
)
from headrace.runtime.loop.batch import Batch, BatchResult
from headrace.runtime.loop.batching import Recovery
from headrace.runtime.loop.breaker import Circuit, Closed, HalfOpen, Open
from headrace.runtime.loop.commands import (
    Cancel,
    Command,
    Commit,
    Compute,
    PauseFetching,
    Recover,
    RecoveryStep,
    ResumeFetching,
)
from headrace.runtime.loop.decide import decide
from headrace.runtime.loop.events import (
    CommitReturned,
    ComputeReturned,
    Event,
    LiveLaneChanged,
    OrdersChanged,
    PollFailed,
    PollReturned,
    RecoveryReturned,
    StopRequested,
    Tick,
)
from headrace.runtime.loop.lifecycle import EXIT_BUG, EXIT_DONE, EXIT_FENCED, EXIT_OFFSETS_LOST
from headrace.runtime.loop.limits import Limits
from headrace.runtime.loop.pacing import PAUSE_AFTER_S, Pacing
from headrace.runtime.loop.state import State
from headrace.runtime.loop.waiting import IDLE_POLL_S, next_wait

pytestmark = pytest.mark.unit

LIMITS = Limits(batch_records=3, backoff_s=1.0, backoff_max_s=8.0, drain_s=10.0)
RESULT = BatchResult([Message("out", b"k", b"v")])


def records(first: int, number: int, size: int = 1) -> tuple[Record, ...]:
    """So many records from the offset on."""
    return tuple(Record("in", 0, first + index, b"k", b"x" * size) for index in range(number))


def polled(now: float, *found: Record, snapshot: object = "s1", rebalanced: bool = False) -> PollReturned:
    """A poll that came back."""
    return PollReturned(now, Polled(found, rebalanced), Snapshot(snapshot))


def after(*events: Event, limits: Limits = LIMITS) -> tuple[State, list[Command]]:
    """The state after the events, and the last one's commands."""
    state = State()
    commands: list[Command] = []
    for event in events:
        state, commands = decide(state, event, limits)
    return state, commands


def opened(state: State) -> Open:
    """The open circuit."""
    circuit: Circuit = state.breaker.circuit
    assert isinstance(circuit, Open)
    return circuit


def ended(state: State) -> int | None:
    """The exit code, where the worker ends."""
    return None if state.exit is None else state.exit.code


def test_a_poll_with_records_is_computed_at_once() -> None:
    """Broken: a lone change waits for a batch to fill."""
    state, commands = after(polled(1.0, *records(0, 2)))
    assert commands == [Compute(Batch(1, records(0, 2), Snapshot("s1"), 1.0))]
    assert state.in_progress.buffer == ()


def test_a_lingering_batch_waits_to_fill() -> None:
    """Broken: the setting linger_ms does nothing, or holds records back for ever."""
    limits = replace(LIMITS, linger_s=0.5)
    state, commands = after(polled(1.0, *records(0, 2)), limits=limits)
    assert commands == []
    assert next_wait(state, 1.3, limits).timeout == pytest.approx(0.2)
    assert decide(state, Tick(1.5), limits)[1] == [Compute(Batch(1, records(0, 2), Snapshot("s1"), 1.5))]
    assert after(polled(1.0, *records(0, 3)), limits=limits)[1] != []


def test_a_batch_is_bounded_in_records_and_bytes() -> None:
    """Broken: a burst of large documents makes a transaction that no broker takes."""

    def sealed(found: Sequence[Record], limits: Limits) -> int:
        command = after(polled(1.0, *found), limits=limits)[1][0]
        assert isinstance(command, Compute)
        return len(command.batch.records)

    assert sealed(records(0, 5), LIMITS) == 3
    limits = replace(LIMITS, batch_bytes=10)
    assert sealed(records(0, 3, size=4), limits) == 2
    assert sealed(records(0, 3, size=40), limits) == 1


def test_the_next_batch_computes_while_one_commits() -> None:
    """Broken: the model idles during every transaction."""
    state, commands = after(
        polled(1.0, *records(0, 3)), polled(1.1, *records(3, 2), snapshot="s2"), ComputeReturned(1.2, 1, RESULT, 0.0)
    )
    assert commands == [
        Compute(Batch(2, records(3, 2), Snapshot("s2"), 1.2)),
        Commit(Batch(1, records(0, 3), Snapshot("s1"), 1.0), RESULT),
    ]
    assert decide(state, CommitReturned(1.3, None, 1.0), LIMITS)[0].in_progress.awaiting_commit is None


def test_a_batch_keeps_the_snapshot_of_its_seal() -> None:
    """Broken: a zombie's batch is rescued by a fresh membership, and done twice."""
    state, _ = after(polled(1.0, *records(0, 3), snapshot="old"), polled(1.1, *records(3, 1), snapshot="new"))
    _, commands = decide(state, ComputeReturned(1.2, 1, RESULT, 0.0), LIMITS)
    commit = next(command for command in commands if isinstance(command, Commit))
    assert commit.batch.snapshot == Snapshot("old")


def test_a_rebalance_dooms_everything_in_flight() -> None:
    """Broken: records that another worker owns by now are done here as well."""
    state, commands = after(polled(1.0, *records(0, 3)), polled(1.1, *records(3, 2)), polled(1.2, rebalanced=True))
    assert commands == [Cancel(1), Recover(RecoveryStep.REWIND)]
    assert (state.in_progress.buffer, state.in_progress.computing, state.in_progress.snapshot) == ((), None, None)
    state, _ = decide(state, RecoveryReturned(1.3, None, 0.0), LIMITS)
    assert decide(state, ComputeReturned(1.4, 1, RESULT, 0.0), LIMITS)[1] == []


@pytest.mark.parametrize(
    ("error", "steps"),
    [
        (TransactionAborted(), [RecoveryStep.REWIND]),
        (TransactionUncertain(), [RecoveryStep.RENEW, RecoveryStep.REWIND]),
    ],
)
def test_a_failed_commit_starts_again_at_the_committed_offsets(error: Any, steps: list[RecoveryStep]) -> None:
    """Broken: a refused batch is lost, or an uncertain one is done twice."""
    state, _ = after(polled(1.0, *records(0, 3)), polled(1.1, *records(3, 2)), ComputeReturned(1.2, 1, RESULT, 0.0))
    state, commands = decide(state, CommitReturned(1.3, error, 1.0), LIMITS)
    assert commands[0] == Cancel(2)
    assert state.in_progress.buffer == ()
    seen = []
    while state.in_progress.recovery is not None:
        seen.append(commands[-1])
        state, commands = decide(state, RecoveryReturned(1.4, None, 0.0), LIMITS)
    assert (seen, commands) == ([Recover(step) for step in steps], [])


def test_a_worker_whose_place_was_taken_ends() -> None:
    """Broken: two workers with one slot take turns for ever."""
    state, _ = after(PollFailed(1.0, ProducerFenced("taken"), 0.0))
    assert ended(state) == EXIT_FENCED


def test_commits_that_fail_again_and_again_wait_and_say_so() -> None:
    """Broken: a batch that no broker takes spins for ever while the stage says that it is ready, or all in step."""
    state, until = State(), []
    for number, jitter in enumerate((1.0, 0.0, 1.0, 0.5), start=1):
        state, _ = decide(state, polled(10.0 * number, *records(0, 1)), LIMITS)
        state, _ = decide(state, ComputeReturned(10.0 * number, number, RESULT, 0.0), LIMITS)
        state, commands = decide(state, CommitReturned(10.0 * number, TransactionAborted("no"), jitter), LIMITS)
        circuit = state.breaker.circuit
        until.append(circuit.until - 10.0 * number if isinstance(circuit, Open) else None)
        assert (commands == [Recover(RecoveryStep.REWIND)]) == (number == 1)
        state, _ = decide(state, Tick(10.0 * number + 9), LIMITS)
        state, _ = decide(state, RecoveryReturned(10.0 * number + 9, None, 0.0), LIMITS)
    assert until == [None, 0.5, 2.0, 3.0]
    state, _ = decide(state, polled(60.0, *records(0, 1)), LIMITS)
    state, _ = decide(state, ComputeReturned(60.0, 5, RESULT, 0.0), LIMITS)
    assert decide(state, CommitReturned(60.0, None, 1.0), LIMITS)[0].breaker.commit_failures == 0


def test_a_rebalance_does_not_forget_the_producer() -> None:
    """Broken: a producer whose transaction is uncertain goes on being used after a rebalance."""
    state, _ = after(polled(1.0, *records(0, 1)), ComputeReturned(1.1, 1, RESULT, 0.0))
    state, _ = decide(state, CommitReturned(1.2, TransactionUncertain(), 1.0), LIMITS)
    state, _ = decide(state, RecoveryReturned(1.3, BrokerUnavailable(), 0.5), LIMITS)
    state, commands = decide(state, polled(1.4, rebalanced=True), LIMITS)
    assert state.in_progress.recovery == Recovery(renew=True)
    assert commands == [Recover(RecoveryStep.RENEW)]


def test_what_is_read_before_a_rewind_is_dropped() -> None:
    """Broken: while a rewind is retried, records are read ahead of it, and then a second time."""
    state, _ = after(polled(1.0, rebalanced=True), RecoveryReturned(1.1, BrokerUnavailable(), 0.5))
    state, commands = decide(state, polled(1.2, *records(7, 2)), LIMITS)
    assert (state.in_progress.buffer, commands) == ((), [])


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (PollFailed(1.2, OffsetsLost("gone"), 0.0), EXIT_OFFSETS_LOST),
        (ComputeReturned(1.2, 1, RuntimeError("bug"), 0.0), EXIT_BUG),
        (CommitReturned(1.2, ProducerFenced("other"), 1.0), EXIT_FENCED),
        (RecoveryReturned(1.2, ProducerFenced("other"), 0.0), EXIT_FENCED),
        (RecoveryReturned(1.2, OffsetsLost("gone"), 0.0), EXIT_OFFSETS_LOST),
    ],
)
def test_what_cannot_be_repaired_ends_the_worker(event: Event, code: int) -> None:
    """Broken: a fenced or lost worker idles in silence instead of ending with a code that tells why."""
    state, commands = after(polled(1.0, *records(0, 1)), event)
    assert state.exit is not None
    assert state.exit.code == code
    assert state.exit.reason
    assert commands == []


def test_backoff_grows_with_jitter_up_to_its_bound() -> None:
    """Broken: a dependency that is down is hammered, or forgotten for hours."""
    state, _ = after(polled(1.0, *records(0, 1)))
    now = 1.0
    delays = []
    for jitter in (0.0, 1.0, 1.0, 1.0, 1.0, 0.5):
        state, _ = decide(state, ComputeReturned(now, 1, DependencyDown("pg"), jitter), LIMITS)
        delays.append(opened(state).until - now)
        now = opened(state).until
        state, commands = decide(state, Tick(now), LIMITS)
        assert [type(command) for command in commands] == [Compute]
        assert isinstance(state.breaker.circuit, HalfOpen)
    assert delays == pytest.approx([0.5, 2.0, 4.0, 8.0, 8.0, 6.0])


def test_the_dependency_s_own_delay_is_kept() -> None:
    """Broken: Retry-After is ignored."""
    state, _ = after(polled(1.0, *records(0, 1)), ComputeReturned(2.0, 1, DependencyDown("llm", delay=42.0), 0.0))
    assert opened(state).until == 44.0


def test_waiting_keeps_polling_and_computes_the_same_batch_again() -> None:
    """Broken: an outage costs the membership, or the batch."""
    state, commands = after(polled(1.0, *records(0, 2)), ComputeReturned(1.1, 1, DependencyDown("pg"), 1.0))
    assert commands == [PauseFetching()]
    assert next_wait(state, 1.1, LIMITS).max_records > 0
    assert next_wait(state, 1.1, LIMITS).timeout <= IDLE_POLL_S
    assert decide(state, polled(1.2), LIMITS)[1] == []
    state, commands = decide(state, polled(2.2), LIMITS)
    assert commands == [Compute(Batch(1, records(0, 2), Snapshot("s1"), 2.2, attempt=2))]
    _, commands = decide(state, ComputeReturned(2.3, 1, RESULT, 0.0), LIMITS)
    assert [type(command) for command in commands] == [ResumeFetching, Commit]


def test_a_rebalance_during_a_wait_drops_the_batch() -> None:
    """Broken: after an outage a batch is done whose partitions moved meanwhile."""
    state, _ = after(polled(1.0, *records(0, 2)), ComputeReturned(1.1, 1, DependencyDown("pg"), 1.0))
    state, commands = decide(state, polled(1.2, rebalanced=True), LIMITS)
    assert commands == [Cancel(1), ResumeFetching(), Recover(RecoveryStep.REWIND)]
    assert state.breaker.circuit == Closed()


def test_fetching_pauses_when_a_long_computation_meets_a_full_buffer() -> None:
    """Broken: memory grows while a batch computes, or the membership is lost for want of polls."""
    state, commands = after(polled(1.0, *records(0, 3)), polled(1.1, *records(3, 3)))
    assert commands == []
    assert next_wait(state, 1.1, LIMITS).max_records == 0
    state, commands = decide(state, Tick(1.0 + PAUSE_AFTER_S), LIMITS)
    assert commands == [PauseFetching()]
    assert next_wait(state, 2.0, LIMITS).max_records > 0
    _, commands = decide(state, ComputeReturned(2.5, 1, RESULT, 0.0), LIMITS)
    assert [type(command) for command in commands] == [ResumeFetching, Compute, Commit]


def test_a_buffer_of_large_records_is_full_by_its_bytes() -> None:
    """Broken: large documents fill the memory while a batch computes."""
    limits = replace(LIMITS, batch_records=500, batch_bytes=100)
    state, _ = after(polled(1.0, *records(0, 1)), polled(1.1, *records(1, 2, size=60)), limits=limits)
    assert next_wait(state, 1.1, limits).max_records == 0
    assert decide(state, Tick(1.0 + PAUSE_AFTER_S), limits)[1] == [PauseFetching()]


def test_fetching_goes_on_while_the_buffer_has_room() -> None:
    """Broken: every long computation stops the flow, full or not."""
    state, _ = after(polled(1.0, *records(0, 3)), polled(1.1, *records(3, 1)))
    assert decide(state, Tick(9.0), LIMITS)[1] == []


def test_a_stop_commits_what_is_computed_and_leaves_the_rest() -> None:
    """Broken: SIGTERM loses finished work, or does not end."""
    state, commands = after(polled(1.0, *records(0, 3)), polled(1.1, *records(3, 2)), StopRequested(1.2))
    assert (commands, state.exit, state.in_progress.buffer) == ([], None, ())
    state, commands = decide(state, ComputeReturned(1.3, 1, RESULT, 0.0), LIMITS)
    assert [type(command) for command in commands] == [Commit]
    state, commands = decide(state, CommitReturned(1.4, None, 1.0), LIMITS)
    assert (ended(state), commands) == (EXIT_DONE, [])


def test_a_stop_ends_an_idle_worker_at_once_and_a_busy_one_in_time() -> None:
    """Broken: a worker whose handler hangs cannot be stopped."""
    assert ended(after(StopRequested(1.0))[0]) == EXIT_DONE
    state, _ = after(polled(1.0, *records(0, 3)), StopRequested(2.0), StopRequested(9.0))
    assert ended(decide(state, Tick(11.9), LIMITS)[0]) is None
    assert ended(decide(state, Tick(12.0), LIMITS)[0]) == EXIT_DONE


def test_an_unreachable_broker_is_waited_for() -> None:
    """Broken: a restart of Kafka ends every worker."""
    state, commands = after(polled(1.0), PollFailed(2.0, BrokerUnavailable(), 1.0))
    assert (state.exit, commands) == (None, [])
    assert opened(state).dependency == "kafka"
    assert decide(state, polled(3.5, *records(0, 1)), LIMITS)[0].breaker.circuit == Closed()


SIDE = replace(LIMITS, retry_topic="retry", replay_topic="replay", replay_share=0.25, parked_records=3)
WALL = 1_000_000.0
BUSY = State(pacing=Pacing(live_busy=True))


def retried(offset: int, due: float, partition: int = 0) -> Record:
    """A record of the retry topic that is due at the monotonic time."""
    return Record("retry", partition, offset, b"k", b"x", (("retry-due", str(int((due + WALL) * 1000)).encode()),))


def replayed(offset: int) -> Record:
    """A record of the replay topic."""
    return Record("replay", 0, offset, b"k", b"x")


def read(now: float, *found: Record) -> PollReturned:
    """A poll of the side lane."""
    return PollReturned(now, Polled(found, rebalanced=False), Snapshot("s1"), WALL)


def offsets(command: Command) -> list[int]:
    """The offsets of the batch to compute."""
    assert isinstance(command, Compute)
    return [record.offset for record in command.batch.records]


def test_a_retried_record_waits_until_it_is_due() -> None:
    """Broken: a record that failed for now is tried again at once, again and again, or never."""
    state, commands = after(read(1.0, retried(0, due=1.2)), limits=SIDE)
    assert commands == []
    assert next_wait(state, 1.0, SIDE).timeout == pytest.approx(0.2)
    assert decide(state, Tick(1.1), SIDE)[1] == []
    _, commands = decide(state, Tick(1.25), SIDE)
    assert offsets(commands[0]) == [0]


def test_a_due_record_waits_for_those_before_it_in_its_partition_alone() -> None:
    """Broken: offsets are committed over a record that was not done, or one record's wait stops all."""
    state, commands = after(read(1.0, retried(0, due=9.0), retried(1, due=0.0), retried(5, 0.0, 1)), limits=SIDE)
    assert offsets(commands[0]) == [5]
    assert [parked.record.offset for parked in state.parking.parked] == [0, 1]


def test_fetching_stops_while_too_much_waits() -> None:
    """Broken: a flood of retries fills the memory."""
    state, commands = after(read(1.0, *[retried(number, due=9.0) for number in range(3)]), limits=SIDE)
    assert commands == [PauseFetching()]
    _, commands = decide(state, Tick(9.1), SIDE)
    assert [type(command) for command in commands] == [ResumeFetching, Compute]
    large = retried(0, 9.0)._replace(value=b"x" * 100)
    assert after(read(1.0, large), limits=replace(SIDE, parked_bytes=100))[1] == [PauseFetching()]


def test_a_rebalance_forgets_what_waits() -> None:
    """Broken: a retry is done by its old owner and by its new one."""
    state, commands = after(read(1.0, retried(0, due=9.0)), polled(1.1, rebalanced=True), limits=SIDE)
    assert commands == [Recover(RecoveryStep.REWIND)]
    assert state.parking.parked == ()


def test_replayed_records_leave_a_busy_live_lane_its_share() -> None:
    """Broken: a replay holds up live records, or never moves while there are any."""
    state, _ = decide(BUSY, read(1.0, replayed(0)), SIDE)
    state, _ = decide(state, ComputeReturned(1.5, 1, RESULT, 0.0), SIDE)
    state, _ = decide(state, CommitReturned(2.0, None, 1.0), SIDE)
    assert state.pacing.yield_until == 5.0  # one second of work at a quarter of the time
    state, commands = decide(state, read(2.1, replayed(1)), SIDE)
    assert commands == []
    assert next_wait(state, 2.1, SIDE).timeout <= 0.02
    assert offsets(decide(state, Tick(5.0), SIDE)[1][0]) == [1]
    assert offsets(decide(state, LiveLaneChanged(2.2, busy=False), SIDE)[1][0]) == [1]


def test_while_live_records_come_batches_of_replayed_ones_are_small() -> None:
    """Broken: a live record waits at each stage for a whole batch of a replay."""
    limits = replace(SIDE, batch_records=10, replay_batch_records=3, replay_batch_bytes=100)
    polled_ = read(1.0, *(replayed(offset) for offset in range(6)))
    assert offsets(decide(BUSY, polled_, limits)[1][0]) == [0, 1, 2]
    assert offsets(decide(State(), polled_, limits)[1][0]) == [0, 1, 2, 3, 4, 5]
    large = read(1.0, *(replayed(offset)._replace(value=b"x" * 60) for offset in range(3)))
    assert offsets(decide(BUSY, large, limits)[1][0]) == [0]
    again = read(1.0, *(retried(offset, due=0.5) for offset in range(6)))
    assert offsets(decide(BUSY, again, limits)[1][0]) == [0, 1, 2, 3, 4, 5]


def test_a_retry_does_not_wait_for_the_live_lane() -> None:
    """Broken: what failed for now or was sent again waits as a replay does."""
    state = State(pacing=Pacing(live_busy=True, yield_until=9.0))
    assert offsets(decide(state, read(1.0, retried(0, due=0.5)), SIDE)[1][0]) == [0]


def test_a_paused_stage_finishes_what_is_under_way_and_starts_nothing() -> None:
    """Broken: an order to pause is ignored, or loses a batch."""
    state, _ = after(polled(1.0, *records(0, 3)), polled(1.1, *records(3, 2)))
    state, commands = decide(state, OrdersChanged(1.15, "by ann", 0), LIMITS)
    assert commands == [PauseFetching()]
    state, commands = decide(state, ComputeReturned(1.2, 1, RESULT, 0.0), LIMITS)
    assert [type(command) for command in commands] == [Commit]
    state, commands = decide(state, CommitReturned(1.3, None, 1.0), LIMITS)
    assert commands == []
    assert next_wait(state, 1.3, LIMITS).timeout == IDLE_POLL_S
    _, commands = decide(state, OrdersChanged(1.4, None, 1), LIMITS)
    assert commands == [ResumeFetching(), Compute(Batch(2, records(3, 2), Snapshot("s1"), 1.4))]


def test_too_many_faults_stop_the_stage_before_they_are_written() -> None:
    """Broken: a bad release drains a topic into the dead letters."""
    limits = replace(LIMITS, dead_letter_window=6, dead_letter_share=0.5)
    state, _ = after(
        polled(1.0, *records(0, 3)), ComputeReturned(1.1, 1, BatchResult([], 3, faults=3), 0.0), limits=limits
    )
    state, _ = decide(state, CommitReturned(1.2, None, 1.0), limits)
    assert state.lifecycle.stopped is None  # too few records to tell
    state, _ = decide(state, polled(1.3, *records(3, 3)), limits)
    state, commands = decide(state, ComputeReturned(1.4, 2, BatchResult([], 1, faults=1), 0.0), limits)
    assert commands == [PauseFetching(), Recover(RecoveryStep.REWIND)]
    assert state.lifecycle.stopped == "4 of the last 6 records were dead-lettered for reasons other than invalid input"
    state, _ = decide(state, RecoveryReturned(1.5, None, 0.0), limits)
    state, commands = decide(state, polled(1.6, *records(3, 3)), limits)
    assert commands == []
    state, commands = decide(state, OrdersChanged(1.7, None, 1), limits)
    assert [type(command) for command in commands] == [ResumeFetching, Compute]
    assert state.lifecycle.stopped is None


def test_dead_letters_that_are_the_records_own_fault_stop_nothing() -> None:
    """Broken: a client who sends rubbish stops the stage for everybody."""
    limits = replace(LIMITS, dead_letter_window=3, dead_letter_share=0.5)
    found = BatchResult([], 3, faults=0)
    state, _ = after(polled(1.0, *records(0, 3)), ComputeReturned(1.1, 1, found, 0.0), limits=limits)
    assert state.lifecycle.stopped is None


PLACE = TopicPartition("in", 0)


def assigned(mark: Mark | None = None) -> PollReturned:
    """The poll that tells of partition 0, and of the mark that it came with."""
    polled = Polled((), rebalanced=True, assigned=frozenset({PLACE}), marks={} if mark is None else {PLACE: mark})
    return PollReturned(0.5, polled, Snapshot("s1"))


def taken_over(mark: Mark | None = None) -> list[Event]:
    """The events by which a worker takes partition 0 over."""
    return [assigned(mark), RecoveryReturned(0.6, None, 0.0)]


def compute(commands: list[Command]) -> Batch:
    """The batch that is to be computed."""
    return next(command.batch for command in commands if isinstance(command, Compute))


def test_the_first_batch_of_a_partition_is_marked_and_no_other() -> None:
    """Broken: a record that kills the process kills it for ever, or each batch costs a round trip more."""
    state, commands = after(*taken_over(), polled(1.0, *records(7, 2)))
    assert compute(commands).marks == {PLACE: Mark(1, 2, 9, 7)}
    state, _ = decide(state, ComputeReturned(1.1, 1, RESULT, 0.0), LIMITS)
    state, _ = decide(state, CommitReturned(1.2, None, 1.0), LIMITS)
    _, commands = decide(state, polled(1.3, *records(9, 1)), LIMITS)
    assert compute(commands).marks == {}


def test_nothing_is_marked_while_a_commit_is_under_way() -> None:
    """Broken: the mark of a second batch commits the offsets of the first without its outputs, which is a loss."""
    state, _ = after(*taken_over(), polled(1.0, *records(0, 3)), polled(1.1, *records(3, 3)))
    state, commands = decide(state, ComputeReturned(1.2, 1, RESULT, 0.0), LIMITS)
    assert [type(command) for command in commands] == [Commit]
    _, commands = decide(state, CommitReturned(1.3, None, 1.0), LIMITS)
    assert [type(command) for command in commands] == [Compute]


def test_after_two_deaths_records_are_taken_one_by_one_to_the_end_of_the_batch() -> None:
    """Broken: a record that kills the process takes its whole batch into the dead letters, or is never found."""
    _, commands = after(*taken_over(Mark(1, 3, 3, 0)), polled(1.0, *records(0, 3)))
    assert compute(commands).marks == {PLACE: Mark(2, 3, 3, 0)}
    state, commands = after(*taken_over(Mark(2, 3, 3, 0)), polled(1.0, *records(0, 3)), polled(1.1, *records(3, 3)))
    seen = []
    for number in range(1, 5):
        state, commands = decide(state, Tick(2.0 + number), LIMITS) if number == 1 else (state, commands)
        batch = state.in_progress.computing
        assert batch is not None
        seen.append(([record.offset for record in batch.records], batch.marks.get(PLACE)))
        state, _ = decide(state, ComputeReturned(2.0 + number, number, RESULT, 0.0), LIMITS)
        state, commands = decide(state, CommitReturned(2.5 + number, None, 1.0), LIMITS)
    assert seen == [
        ([0], Mark(1, 1, 3, 0)), ([1], Mark(1, 1, 3, 1)), ([2], Mark(1, 1, 3, 2)), ([3, 4, 5], None),
    ]  # fmt: skip


def test_a_record_that_killed_the_worker_three_times_is_given_up_alone() -> None:
    """Broken: one record keeps a stage in a crash loop, or those after it go with it."""
    state, commands = after(*taken_over(Mark(3, 1, 3, 0)), polled(1.0, *records(0, 3)))
    batch = compute(commands)
    assert batch.deadly
    assert [record.offset for record in batch.records] == [0]
    state, _ = decide(state, ComputeReturned(1.1, 1, RESULT, 0.0), LIMITS)
    state, commands = decide(state, CommitReturned(1.2, None, 1.0), LIMITS)
    assert not compute(commands).deadly
    assert compute(commands).marks == {PLACE: Mark(1, 1, 3, 1)}


def test_a_batch_that_is_sealed_again_by_the_living_counts_once() -> None:
    """Broken: rebalances count as deaths, and harmless records are given up."""
    state, _ = after(*taken_over(Mark(1, 3, 3, 0)), polled(1.0, *records(0, 3)))
    both = frozenset({PLACE, TopicPartition("in", 1)})
    state, _ = decide(state, PollReturned(1.1, Polled((), rebalanced=True, assigned=both), Snapshot("s2")), LIMITS)
    state, _ = decide(state, RecoveryReturned(1.2, None, 0.0), LIMITS)
    _, commands = decide(state, polled(1.3, *records(0, 3)), LIMITS)
    assert compute(commands).marks == {PLACE: Mark(2, 3, 3, 0)}


class Machine:
    """Answers the commands at random and keeps the books that the invariants rest on."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.state = State()
        self.now = 0.0
        self.position = self.committed = 0
        self.epoch = 0
        self.computing: set[int] = set()
        self.doomed: set[int] = set()

    def event(self) -> Event:
        """Time passes, and something happens that can happen."""
        self.now += self.draw(st.sampled_from([0.0, 0.1, 0.6, 3.0, 40.0]))
        kinds = [
            "poll",
            "poll",
            "poll",
            "rebalance",
            "failed",
            "compute",
            "compute",
            "compute",
            "tick",
            "orders",
            "live",
        ]
        kind = self.draw(st.sampled_from(kinds))
        if kind == "compute" and self.computing:
            number = self.draw(st.sampled_from(sorted(self.computing)))
            self.computing.discard(number)
            outcome = self.draw(st.sampled_from([RESULT, RESULT, DependencyDown("pg"), ConfigurationError("no token")]))
            return ComputeReturned(self.now, number, outcome, self.draw(st.floats(0, 1)))
        if kind == "rebalance":
            self.epoch += 1
            return polled(self.now, snapshot=self.epoch, rebalanced=True)
        if kind == "failed":
            return PollFailed(self.now, BrokerUnavailable(), 0.5)
        if kind == "tick":
            return Tick(self.now)
        if kind == "orders":
            return OrdersChanged(self.now, self.draw(st.sampled_from([None, None, "by ann"])), 0)
        if kind == "live":
            return LiveLaneChanged(self.now, self.draw(st.booleans()))
        found = () if not self.state.pacing.fetching else records(self.position, self.draw(st.integers(0, 4)))
        self.position += len(found)
        return polled(self.now, *found, snapshot=self.epoch)

    def step(self, event: Event) -> None:
        """Decide, check, and answer what is answered at once."""
        self.state, commands = decide(self.state, event, LIMITS)
        for command in commands:
            following = self.execute(command)
            if following is not None:
                self.step(following)

    def execute(self, command: Command) -> Event | None:
        """Carry a command out."""
        match command:
            case Compute(batch):
                assert not self.computing, "two batches compute at once"
                assert batch.number not in self.doomed
                self.computing.add(batch.number)
            case Cancel(number):
                self.computing.discard(number)
                self.doomed.add(number)
            case Commit(batch, _):
                return self.commit(batch)
            case Recover(step):
                failed = self.draw(st.sampled_from([None, None, BrokerUnavailable()]))
                if failed is None and step is RecoveryStep.REWIND:
                    self.position = self.committed
                return RecoveryReturned(self.now, failed, 0.5)
            case _:
                return None
        return None

    def commit(self, batch: Batch) -> Event:
        """Check what is committed, then let the commit end one way or another."""
        assert batch.number not in self.doomed, "a doomed batch is committed"
        assert batch.snapshot == Snapshot(self.epoch), "a batch of an older membership is committed"
        assert batch.records[0].offset == self.committed, "the committed offset skips or goes back"
        offsets = [record.offset for record in batch.records]
        assert offsets == list(range(offsets[0], offsets[0] + len(offsets)))
        outcome = self.draw(st.sampled_from(["done", "done", "done", "aborted", "unknown-done", "unknown-not"]))
        if outcome in ("done", "unknown-done"):
            self.committed = offsets[-1] + 1
        error = {"done": None, "aborted": TransactionAborted()}.get(outcome, TransactionUncertain())
        return CommitReturned(self.now, error, 1.0)


@settings(max_examples=200, derandomize=True)
@given(st.data())
def test_no_order_of_events_breaks_the_invariants(data: st.DataObject) -> None:
    """Broken: some order of events skips, repeats or commits what is doomed."""
    machine = Machine(data.draw)
    for _ in range(data.draw(st.integers(1, 60))):
        machine.step(machine.event())
        assert machine.state.exit is None
