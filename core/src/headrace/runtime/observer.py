"""What a lane's worker tells metrics and the log."""

from __future__ import annotations

import structlog

from headrace.kafka.broker_contract import BrokerError, Polled
from headrace.runtime.contract import Lane
from headrace.runtime.loop.batch import Batch, BatchResult
from headrace.runtime.loop.breaker import Circuit, Closed, Open
from headrace.runtime.loop.commands import RecoveryStep
from headrace.runtime.loop.events import OrdersChanged
from headrace.runtime.loop.lifecycle import Exit
from headrace.runtime.loop.state import State
from headrace.telemetry import metrics

log = structlog.get_logger(__name__)

STOPPED_REMEDY = "Read the stage's newest dead letters, fix the cause, then run `headrace resume --stage STAGE`."


class Observer:
    """Watches one worker; it changes nothing that the worker does."""

    def __init__(self, lane: Lane) -> None:
        self._labels = (lane.stage, lane.name)
        self._log = log.bind(stage=lane.stage, lane=lane.name)
        self._circuit: Circuit = Closed()
        self._stopped: str | None = None
        self._paused: str | None = None
        self._dependencies: set[str] = set()

    def decided(self, state: State) -> None:
        """Tell when the stage starts or ends to wait, or stops itself."""
        circuit, stopped = state.breaker.circuit, state.lifecycle.stopped
        before = (self._circuit, self._stopped)
        if (circuit, stopped) == before:
            return
        self._circuit, self._stopped = circuit, stopped
        metrics.WAITING.labels(*self._labels).set(not isinstance(circuit, Closed))
        metrics.STOPPED.labels(*self._labels).set(stopped is not None)
        self._show(circuit)
        if (_reason(circuit), stopped) == (_reason(before[0]), before[1]):
            return
        if stopped is not None:
            self._log.error("stage stopped itself", reason=stopped, remedy=STOPPED_REMEDY)
        elif isinstance(circuit, Closed):
            self._log.info("stage continues")
        else:
            self._log.warning("stage waits", dependency=circuit.dependency, reason=circuit.reason)

    def orders_changed(self, event: OrdersChanged) -> None:
        """Tell of a pause and of its end."""
        if event.paused != self._paused:
            self._paused = event.paused
            self._log.info("stage paused" if event.paused else "stage resumed", reason=event.paused)

    def rebalanced(self, polled: Polled) -> None:
        """Count a change of the worker's partitions."""
        metrics.REBALANCES.labels(*self._labels).inc()
        self._log.info("partitions changed", assigned=sorted(map(str, polled.assigned)))

    def poll_failed(self, error: BrokerError) -> None:
        """Tell of a poll that raised."""
        self._log.warning("poll failed", error=str(error))

    def cancelled(self) -> None:
        """Count a batch that is dropped while it computes."""
        metrics.BATCHES_DOOMED.labels(*self._labels).inc()

    def mark_failed(self, error: BrokerError) -> None:
        """Tell of a mark that could not be written."""
        self._log.warning("mark not written", error=str(error))

    def committed(self, batch: Batch, result: BatchResult, seconds: float) -> None:
        """Count what the transaction made durable."""
        metrics.RECORDS_DONE.labels(*self._labels).inc(len(batch.records))
        metrics.DEAD_LETTERS.labels(*self._labels).inc(result.dead_letters)
        metrics.RETRIES.labels(*self._labels).inc(result.retried)
        metrics.PASSED_OVER.labels(*self._labels).inc(result.passed_over)
        metrics.HELD.labels(*self._labels).inc(result.held)
        metrics.COMMIT_SECONDS.labels(*self._labels).observe(seconds)
        metrics.BATCH_RECORDS.labels(*self._labels).observe(len(batch.records))

    def commit_failed(self, batch: Batch, error: BrokerError) -> None:
        """Count a transaction that was refused, or may have been."""
        metrics.COMMITS_FAILED.labels(*self._labels, error.__class__.__name__).inc()
        self._log.warning("batch not committed", records=len(batch.records), error=str(error))

    def recovery_failed(self, step: RecoveryStep, error: BrokerError) -> None:
        """Tell of a step of the recovery that is tried again."""
        self._log.warning("recovery failed", step=step.value, error=str(error))

    def ends(self, last: Exit) -> None:
        """Tell why the worker ends."""
        self._log.info("worker stops", code=last.code, reason=last.reason)

    def _show(self, circuit: Circuit) -> None:
        """Show each dependency's circuit: 0 closed, 1 half open (one batch tries), 2 open."""
        broken = None if isinstance(circuit, Closed) else circuit.dependency
        if broken is not None:
            self._dependencies.add(broken)
        for dependency in self._dependencies:
            position = 0 if dependency != broken else 2 if isinstance(circuit, Open) else 1
            metrics.CIRCUIT.labels(*self._labels, dependency).set(position)


def _reason(circuit: Circuit) -> str | None:
    return None if isinstance(circuit, Closed) else circuit.reason
