"""Metrics and log messages of a lane's worker."""

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
    """Observes one worker without influencing it."""

    def __init__(self, lane: Lane) -> None:
        self._labels = (lane.stage, lane.name)
        self._log = log.bind(stage=lane.stage, lane=lane.name)
        self._circuit: Circuit = Closed()
        self._stopped: str | None = None
        self._paused: str | None = None
        self._dependencies: set[str] = set()

    def decided(self, state: State) -> None:
        """Report when the stage starts or ends waiting, or stops itself."""
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
        """Report a pause and its end."""
        if event.paused != self._paused:
            self._paused = event.paused
            self._log.info("stage paused" if event.paused else "stage resumed", reason=event.paused)

    def rebalanced(self, polled: Polled) -> None:
        """Count a change of the worker's partitions."""
        metrics.REBALANCES.labels(*self._labels).inc()
        self._log.info("partitions changed", assigned=sorted(map(str, polled.assigned)))

    def poll_failed(self, error: BrokerError) -> None:
        """Report a failed poll."""
        self._log.warning("poll failed", error=str(error))

    def cancelled(self) -> None:
        """Count a batch that was dropped while it was computed."""
        metrics.BATCHES_DOOMED.labels(*self._labels).inc()

    def mark_failed(self, error: BrokerError) -> None:
        """Report a mark that could not be written."""
        self._log.warning("mark not written", error=str(error))

    def committed(self, batch: Batch, result: BatchResult, seconds: float) -> None:
        """Count the records of a committed transaction."""
        metrics.RECORDS_DONE.labels(*self._labels).inc(len(batch.records))
        metrics.DEAD_LETTERS.labels(*self._labels).inc(result.dead_letters)
        metrics.RETRIES.labels(*self._labels).inc(result.retried)
        metrics.PASSED_OVER.labels(*self._labels).inc(result.passed_over)
        metrics.HELD.labels(*self._labels).inc(result.held)
        metrics.COMMIT_SECONDS.labels(*self._labels).observe(seconds)
        metrics.BATCH_RECORDS.labels(*self._labels).observe(len(batch.records))

    def commit_failed(self, batch: Batch, error: BrokerError) -> None:
        """Count a transaction that failed or whose result is unknown."""
        metrics.COMMITS_FAILED.labels(*self._labels, error.__class__.__name__).inc()
        self._log.warning("batch not committed", records=len(batch.records), error=str(error))

    def recovery_failed(self, step: RecoveryStep, error: BrokerError) -> None:
        """Report a failed recovery step, which is retried."""
        self._log.warning("recovery failed", step=step.value, error=str(error))

    def ends(self, last: Exit) -> None:
        """Report why the worker ends."""
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
