"""A lane's worker: waits for one event, asks :func:`headrace.runtime.decide.decide`, carries out the commands.

Broker, computer, clock and watchdog come in from outside. Everything here runs in one thread; handlers compute in
another (:mod:`headrace.runtime.compute`).
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Protocol

import structlog

from headrace.config import failpoints
from headrace.kafka.broker_contract import Broker, BrokerError, Record, TopicPartition
from headrace.runtime.decide import (
    Batch,
    Cancel,
    Command,
    Commit,
    CommitReturned,
    Compute,
    ComputeReturned,
    Event,
    GoOn,
    Hold,
    Limits,
    PollFailed,
    PollReturned,
    Recover,
    RecoveryReturned,
    Release,
    State,
    StopRequested,
    Tick,
    decide,
    next_wait,
)
from headrace.telemetry import metrics

log = structlog.get_logger(__name__)

LATELY_S = 1.0
"""So long after its last record a lane still counts as busy: the next one may be on its way."""
STOPPED_REMEDY = "Read the stage's newest dead letters, repair the cause, then `headrace resume --stage STAGE`."


class Computer(Protocol):
    """Computes batches beside the loop, one after the other, in the order that they were submitted."""

    def submit(self, batch: Batch) -> None:
        """Take the batch up; return at once."""

    def cancel(self, number: int) -> None:
        """Stop computing the batch, or never start it; its outcome no longer matters."""

    def wait(self, timeout: float) -> ComputeReturned | None:
        """Return the next outcome, or None after ``timeout`` seconds."""


class Orders(Protocol):
    """What operators want of this stage now."""

    def paused(self) -> str | None:
        """Return why no batch is to be started, or None."""

    def resumes(self) -> int:
        """Return how often the stage was told to go on; a rise lets it go on after it stopped itself."""


class NoOrders:
    """Nobody gives orders."""

    def paused(self) -> str | None:
        """Return None: go on."""
        return None

    def resumes(self) -> int:
        """Return 0."""
        return 0


class Worker:
    """Reads, batches, computes and commits for one stage, until it is stopped or cannot go on."""

    def __init__(
        self,
        *,
        stage: str,
        topics: Sequence[str],
        broker: Broker,
        computer: Computer,
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
        watch: Callable[[str], AbstractContextManager[None]] = lambda _: nullcontext(),
        jitter: Callable[[], float] = random.random,
        wall: Callable[[], float] = time.time,
        orders: Orders | None = None,
        live_busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self.state = State()
        self._stage = stage
        self._topics = topics
        self._broker = broker
        self._computer = computer
        self._limits = limits
        self._clock = clock
        self._watch = watch
        self._jitter = jitter
        self._wall = wall
        self._orders = orders or NoOrders()
        self._resumes = self._orders.resumes()
        self._live_busy = live_busy
        self.stop_requested = False
        self.started = False
        """Whether the worker has joined its group."""
        self._observed: tuple[str | None, bool, str | None] = (None, False, None)
        self._circuits: set[str] = set()
        self._busy_at = float("-inf")

    def run(self) -> int:
        """Work until told to stop; return the exit code (0 after a drain). The broker is closed in any case."""
        try:
            self._broker.subscribe(self._topics)
            self.started = True
            while self.state.exit_code is None:
                self.step()
            log.info("worker stops", stage=self._stage, code=self.state.exit_code, reason=self.state.exit_reason)
            return self.state.exit_code
        finally:
            with self._watch("close"):
                self._broker.close()

    def stop(self) -> None:
        """Ask for a graceful end; safe to call from a signal handler or another thread."""
        self.stop_requested = True

    def step(self) -> None:
        """Wait for one event and carry out everything that follows from it."""
        self._look_around()
        events = deque([self._next_event()])
        while events and self.state.exit_code is None:
            self.state, commands = decide(self.state, events.popleft(), self._limits)
            if self.state.buffer or self.state.computing is not None or self.state.computed is not None:
                self._busy_at = self._clock()
            self._observe()
            for command in commands:
                following = self._execute(command)
                if following is not None:
                    events.append(following)

    def busy(self) -> bool:
        """Whether records are under way or were within :data:`LATELY_S`; safe to call from another thread."""
        return self._clock() - self._busy_at < LATELY_S

    def _look_around(self) -> None:
        """Take over what the decision rests on and no event tells: operators' orders, the other lane's work."""
        paused, live_busy = self._orders.paused(), self._live_busy()
        if (paused, live_busy) != (self.state.paused, self.state.live_busy):
            if paused != self.state.paused:
                log.info("stage paused" if paused else "stage resumed", stage=self._stage, reason=paused)
            self.state = replace(self.state, paused=paused, live_busy=live_busy)

    def _next_event(self) -> Event:
        if (resumes := self._orders.resumes()) != self._resumes:
            self._resumes = resumes
            return GoOn(self._clock())
        if self.stop_requested and self.state.draining_until is None:
            return StopRequested(self._clock())
        wait = next_wait(self.state, self._clock(), self._limits)
        timeout = wait.timeout
        if self.state.computing is not None:
            # The outcome is what counts now: it ends the wait at once, and records can queue meanwhile.
            returned = self._computer.wait(timeout)
            if returned is not None:
                return returned
            timeout = 0.0
        if wait.max_records == 0:
            return Tick(self._clock())
        try:
            with self._watch("poll"):
                polled = self._broker.poll(wait.max_records, timeout)
                snapshot = self._broker.snapshot() if polled.records else self.state.snapshot
        except BrokerError as error:
            log.warning("poll failed", stage=self._stage, error=str(error))
            return PollFailed(self._clock(), error, self._jitter())
        if polled.rebalanced:
            metrics.REBALANCES.labels(self._stage).inc()
            log.info("partitions changed", stage=self._stage, assigned=sorted(map(str, polled.assigned)))
        now = self._clock()
        return PollReturned(now, polled, snapshot, self._wall() - now)

    def _execute(self, command: Command) -> Event | None:
        match command:
            case Compute(batch):
                self._mark(batch)
                failpoints.reach("batch.sealed")
                self._computer.submit(batch)
            case Cancel(number):
                self._computer.cancel(number)
                metrics.BATCHES_DOOMED.labels(self._stage).inc()
            case Hold():
                self._broker.hold()
            case Release():
                self._broker.release()
            case Commit():
                return self._commit(command)
            case Recover(step):
                return self._recover(step)
        return None

    def _mark(self, batch: Batch) -> None:
        """Note that the batch is begun, where nothing has shown yet that this worker survives its records."""
        if not batch.marks or batch.deadly:
            return
        try:
            with self._watch("mark"):
                self._broker.mark(batch.marks)
        except BrokerError as error:
            # Without its mark a death in this batch does not count; one of the next will.
            log.warning("mark not written", stage=self._stage, error=str(error))

    def _commit(self, command: Commit) -> Event:
        failpoints.reach("batch.computed")
        started = self._clock()
        error: BrokerError | None = None
        try:
            with self._watch("commit"):
                self._broker.commit(
                    command.result.messages, offsets_after(command.batch.records), command.batch.snapshot
                )
        except BrokerError as raised:
            error = raised
            metrics.COMMITS_FAILED.labels(self._stage, raised.__class__.__name__).inc()
            log.warning(
                "batch not committed",
                stage=self._stage,
                records=len(command.batch.records),
                error=str(raised),
            )
        else:
            metrics.RECORDS_DONE.labels(self._stage).inc(len(command.batch.records))
            metrics.DEAD_LETTERS.labels(self._stage).inc(command.result.dead_letters)
            metrics.RETRIES.labels(self._stage).inc(command.result.retried)
            metrics.PASSED_OVER.labels(self._stage).inc(command.result.passed_over)
            metrics.HELD.labels(self._stage).inc(command.result.held)
            metrics.COMMIT_SECONDS.labels(self._stage).observe(self._clock() - started)
            metrics.BATCH_RECORDS.labels(self._stage).observe(len(command.batch.records))
        return CommitReturned(self._clock(), command.batch.number, error)

    def _recover(self, step: str) -> Event:
        error: BrokerError | None = None
        try:
            with self._watch(step):
                if step == "renew":
                    self._broker.renew_producer()
                else:
                    self._broker.rewind()
        except BrokerError as raised:
            error = raised
            log.warning("recovery failed", stage=self._stage, step=step, error=str(raised))
        return RecoveryReturned(self._clock(), step, error, self._jitter())

    def _observe(self) -> None:
        """Tell metrics and the log when the stage starts or ends to wait, or stops itself."""
        waiting, stopped = self.state.waiting, self.state.stopped
        trying = waiting is not None and waiting.until == float("inf")
        seen = (waiting.reason if waiting else None, trying, stopped)
        if seen == self._observed:
            return
        before, self._observed = self._observed, seen
        metrics.WAITING.labels(self._stage).set(waiting is not None)
        metrics.STOPPED.labels(self._stage).set(stopped is not None)
        self._show_circuit(waiting.dependency if waiting else None, trying=trying)
        if (seen[0], stopped) == (before[0], before[2]):
            return
        if stopped is not None:
            log.error("stage stopped itself", stage=self._stage, reason=stopped, remedy=STOPPED_REMEDY)
        elif waiting is not None:
            log.warning("stage waits", stage=self._stage, dependency=waiting.dependency, reason=waiting.reason)
        else:
            log.info("stage goes on", stage=self._stage)

    def _show_circuit(self, broken: str | None, *, trying: bool) -> None:
        """Show each dependency's circuit: 0 closed, 1 half open (one batch tries), 2 open."""
        if broken is not None:
            self._circuits.add(broken)
        for dependency in self._circuits:
            position = 0 if dependency != broken else 1 if trying else 2
            metrics.CIRCUIT.labels(self._stage, dependency).set(position)


def offsets_after(records: Sequence[Record]) -> dict[TopicPartition, int]:
    """Return the next offset to read by partition; records of a partition stand in order."""
    return {TopicPartition(record.topic, record.partition): record.offset + 1 for record in records}
