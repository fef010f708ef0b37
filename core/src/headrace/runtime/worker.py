"""A lane's worker: waits for an event, calls :func:`headrace.runtime.loop.decide.decide`, executes the commands.

Broker, computer, clock and watchdog are injected. Everything here runs in one thread; handlers run in another
(:mod:`headrace.runtime.compute`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from headrace.config import failpoints
from headrace.kafka.broker_contract import Broker, BrokerError, Record, TopicPartition
from headrace.runtime.contract import Computer, Lane, NoOrders, Orders, Time, Watch, never_busy, unwatched
from headrace.runtime.loop.batch import Batch
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
    Event,
    LiveLaneChanged,
    OrdersChanged,
    PollFailed,
    PollReturned,
    RecoveryReturned,
    StopRequested,
    Tick,
)
from headrace.runtime.loop.lifecycle import Lifecycle
from headrace.runtime.loop.state import State
from headrace.runtime.loop.waiting import next_wait
from headrace.runtime.observer import Observer

LATELY_S = 1.0
"""Seconds for which a lane still counts as busy after its last record: the next record may be about to arrive."""


class Worker:
    """Reads, batches, computes and commits for one lane until it is stopped or cannot continue."""

    def __init__(
        self,
        lane: Lane,
        broker: Broker,
        computer: Computer,
        *,
        orders: Orders | None = None,
        live_busy: Callable[[], bool] = never_busy,
        watch: Watch = unwatched,
        time: Time | None = None,
    ) -> None:
        self._lane = lane
        self._broker = broker
        self._computer = computer
        self._orders = orders or NoOrders()
        self._live_busy = live_busy
        self._watch = watch
        self._time = time or Time()
        self._observer = Observer(lane)
        self.state = State(lifecycle=Lifecycle(resumes=self._orders.resumes()))
        self.stop_requested = False
        self.started = False
        """Whether the worker has joined its group."""
        self._busy_at = float("-inf")

    def run(self) -> int:
        """Work until stopped; return the exit code (0 after a drain). Always closes the broker."""
        try:
            self._broker.subscribe(self._lane.topics)
            self.started = True
            while self.state.exit is None:
                self.step()
            self._observer.ends(self.state.exit)
            return self.state.exit.code
        finally:
            with self._watch("close"):
                self._broker.close()

    def step(self) -> None:
        """Wait for one event and execute the resulting commands."""
        events = deque([self._next_event()])
        while events and self.state.exit is None:
            self.state, commands = decide(self.state, events.popleft(), self._lane.limits)
            if self.state.in_progress.buffer or not self.state.in_progress.idle:
                self._busy_at = self._time.clock()
            self._observer.decided(self.state)
            for command in commands:
                following = self._execute(command)
                if following is not None:
                    events.append(following)

    def stop(self) -> None:
        """Request a graceful stop; safe to call from a signal handler or another thread."""
        self.stop_requested = True

    def busy(self) -> bool:
        """Whether records are in progress, or were within :data:`LATELY_S`; safe to call from another thread."""
        return self._time.clock() - self._busy_at < LATELY_S

    def _next_event(self) -> Event:
        return self._news() or self._outcome_or_poll()

    def _news(self) -> Event | None:
        """Return what operators, the other lane or the supervisor changed since the last step."""
        known = self.state.lifecycle
        paused, resumes = self._orders.paused(), self._orders.resumes()
        if (paused, resumes) != (known.paused, known.resumes):
            event = OrdersChanged(self._time.clock(), paused, resumes)
            self._observer.orders_changed(event)
            return event
        if (busy := self._live_busy()) != self.state.pacing.live_busy:
            return LiveLaneChanged(self._time.clock(), busy)
        if self.stop_requested and not known.draining:
            return StopRequested(self._time.clock())
        return None

    def _outcome_or_poll(self) -> Event:
        """Wait for the outcome of the running batch, then poll without waiting. If no batch runs, the poll waits.

        This is how one batch's commit and the next one's records overlap: the outcome ends the wait at once, so its
        transaction begins at once, and records queue in the client meanwhile.
        """
        wait = next_wait(self.state, self._time.clock(), self._lane.limits)
        timeout = wait.timeout
        if self.state.in_progress.computing is not None:
            returned = self._computer.wait(timeout)
            if returned is not None:
                return returned
            timeout = 0.0
        return self._poll(wait.max_records, timeout) if wait.max_records else Tick(self._time.clock())

    def _poll(self, max_records: int, timeout: float) -> Event:
        try:
            with self._watch("poll"):
                polled = self._broker.poll(max_records, timeout)
                snapshot = self._broker.snapshot() if polled.records else self.state.in_progress.snapshot
        except BrokerError as error:
            self._observer.poll_failed(error)
            return PollFailed(self._time.clock(), error, self._time.jitter())
        if polled.rebalanced:
            self._observer.rebalanced(polled)
        now = self._time.clock()
        return PollReturned(now, polled, snapshot, self._time.wall() - now)

    def _execute(self, command: Command) -> Event | None:
        match command:
            case Compute(batch):
                self._mark(batch)
                failpoints.reach("batch.sealed")
                self._computer.submit(batch)
            case Cancel(number):
                self._computer.cancel(number)
                self._observer.cancelled()
            case PauseFetching():
                self._broker.pause_fetching()
            case ResumeFetching():
                self._broker.resume_fetching()
            case Commit():
                return self._commit(command)
            case Recover(step):
                return self._recover(step)
        return None

    def _mark(self, batch: Batch) -> None:
        """Mark the batch as begun in partitions where this worker has not committed anything yet."""
        if not batch.marks or batch.deadly:  # a deadly batch is not handled
            return
        try:
            with self._watch("mark"):
                self._broker.mark(batch.marks)
        except BrokerError as error:
            # Without its mark, a crash in this batch does not count; a later one will.
            self._observer.mark_failed(error)

    def _commit(self, command: Commit) -> Event:
        batch, result = command.batch, command.result
        failpoints.reach("batch.computed")
        started = self._time.clock()
        error: BrokerError | None = None
        try:
            with self._watch("commit"):
                self._broker.commit(result.messages, offsets_after(batch.records), batch.snapshot)
        except BrokerError as raised:
            error = raised
            self._observer.commit_failed(batch, raised)
        else:
            self._observer.committed(batch, result, self._time.clock() - started)
        return CommitReturned(self._time.clock(), error, self._time.jitter())

    def _recover(self, step: RecoveryStep) -> Event:
        error: BrokerError | None = None
        try:
            with self._watch(step):
                if step is RecoveryStep.RENEW:
                    self._broker.renew_producer()
                else:
                    self._broker.rewind()
        except BrokerError as raised:
            error = raised
            self._observer.recovery_failed(step, raised)
        return RecoveryReturned(self._time.clock(), error, self._time.jitter())


def offsets_after(records: Sequence[Record]) -> dict[TopicPartition, int]:
    """Return the next offset to read by partition; the records of a partition are in order."""
    return {TopicPartition(record.topic, record.partition): record.offset + 1 for record in records}
