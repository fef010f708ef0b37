"""The worker: waits for one event, asks :func:`headrace.runtime.decide.decide`, carries out the commands.

Broker, computer, clock and watchdog come in from outside. Everything here runs in one thread; handlers compute in
another (:mod:`headrace.runtime.compute`).
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import structlog

from headrace import metrics
from headrace.broker.contract import Broker, BrokerError, Record, TopicPartition
from headrace.runtime.decide import (
    Batch,
    Cancel,
    Command,
    Commit,
    CommitReturned,
    Compute,
    ComputeReturned,
    Event,
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

log = structlog.get_logger(__name__)


class Computer(Protocol):
    """Computes batches beside the loop, one after the other, in the order that they were submitted."""

    def submit(self, batch: Batch) -> None:
        """Take the batch up; return at once."""

    def cancel(self, number: int) -> None:
        """Stop computing the batch, or never start it; its outcome no longer matters."""

    def wait(self, timeout: float) -> ComputeReturned | None:
        """Return the next outcome, or None after ``timeout`` seconds."""


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
        self.stop_requested = False
        self.started = False
        """Whether the worker has joined its group."""
        self._observed_waiting: str | None = None

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
        events = deque([self._next_event()])
        while events and self.state.exit_code is None:
            self.state, commands = decide(self.state, events.popleft(), self._limits)
            self._observe()
            for command in commands:
                following = self._execute(command)
                if following is not None:
                    events.append(following)

    def _next_event(self) -> Event:
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
        return PollReturned(self._clock(), polled, snapshot)

    def _execute(self, command: Command) -> Event | None:
        match command:
            case Compute(batch):
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

    def _commit(self, command: Commit) -> Event:
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
        waiting = self.state.waiting
        reason = waiting.reason if waiting else None
        if reason == self._observed_waiting:
            return
        self._observed_waiting = reason
        metrics.WAITING.labels(self._stage).set(0 if waiting is None else 1)
        if waiting is None:
            log.info("stage goes on", stage=self._stage)
        else:
            log.warning("stage waits", stage=self._stage, dependency=waiting.dependency, reason=waiting.reason)


def offsets_after(records: Sequence[Record]) -> dict[TopicPartition, int]:
    """Return the next offset to read by partition; records of a partition stand in order."""
    return {TopicPartition(record.topic, record.partition): record.offset + 1 for record in records}
