"""The two workers of a stage's process: the live lane, and the side lane for retries and replays (ADR 8)."""

from __future__ import annotations

import threading
from dataclasses import replace

import structlog

from headrace.config.settings import KafkaSettings, WorkerSettings
from headrace.kafka.broker import KafkaBroker
from headrace.runtime.compute import ComputeThread, Process
from headrace.runtime.contract import Lane, Orders
from headrace.runtime.loop.lifecycle import EXIT_BUG, EXIT_DONE
from headrace.runtime.loop.limits import Limits
from headrace.runtime.watchdog import Watchdog
from headrace.runtime.worker import Worker
from headrace.topology.stages import StageFlow
from headrace.topology.topics import replay_topic, retry_topic

log = structlog.get_logger(__name__)


class Lanes:
    """Runs both lanes until they are stopped; if one cannot continue, the other is stopped too."""

    def __init__(
        self,
        flow: StageFlow,
        kafka: KafkaSettings,
        settings: WorkerSettings,
        source: str,
        compute: ComputeThread,
        process: Process,
        orders: Orders,
    ) -> None:
        name = f"{kafka.group(flow.name)}-{settings.slot}"
        retry, replay = kafka.topic(retry_topic(flow.name)), kafka.topic(replay_topic(flow.name))
        self._watchdogs = [Watchdog(settings.call_bound_s) for _ in range(2)]
        live, side = (watchdog.watch for watchdog in self._watchdogs)
        self.live = Worker(
            Lane(flow.name, [source], live_limits(flow, settings)),
            KafkaBroker(kafka, settings, group=kafka.group(flow.name), transactional_id=name),
            compute.computer(process),
            orders=orders,
            watch=live,
        )
        self.side = Worker(
            Lane(flow.name, [retry, replay], side_limits(flow, settings, retry, replay), "side"),
            KafkaBroker(kafka, settings, group=kafka.group(flow.name, side=True), transactional_id=f"{name}-side"),
            compute.computer(process),
            orders=orders,
            live_busy=self.live.busy,
            watch=side,
        )
        self._side_code = EXIT_DONE

    @property
    def stop_requested(self) -> bool:
        """Whether the lanes were told to stop."""
        return self.live.stop_requested

    def stop(self) -> None:
        """Request a graceful stop of both; safe to call from a signal handler."""
        self.live.stop()
        self.side.stop()

    def run(self) -> int:
        """Work until stopped; return the exit code, 0 after a drain of both lanes."""
        for watchdog in self._watchdogs:
            watchdog.start()
        thread = threading.Thread(target=self._run_side, name="side", daemon=True)
        thread.start()
        try:
            code = self.live.run()
        finally:
            self.side.stop()
            thread.join()
            for watchdog in self._watchdogs:
                watchdog.close()
        return code or self._side_code

    def _run_side(self) -> None:
        try:
            self._side_code = self.side.run()
        except Exception as error:  # the thread's last log message; the process ends with it
            log.exception("side lane ended", error=str(error))
            self._side_code = EXIT_BUG
        self.live.stop()


def live_limits(flow: StageFlow, settings: WorkerSettings) -> Limits:
    """Return the limits of the live lane."""
    return Limits(
        batch_records=settings.batch_records or flow.batch_records,
        batch_bytes=settings.batch_bytes,
        linger_s=settings.linger_ms / 1000,
        backoff_s=settings.backoff_s,
        backoff_max_s=settings.backoff_max_s,
        drain_s=settings.drain_s,
        deaths_alone=settings.deaths,
        dead_letter_window=settings.dead_letter_window,
        dead_letter_share=settings.dead_letter_share,
    )


def side_limits(flow: StageFlow, settings: WorkerSettings, retry: str, replay: str) -> Limits:
    """Return the limits of the side lane: small batches, because it shares handlers and CPU with the live lane."""
    live = live_limits(flow, settings)
    return replace(
        live,
        batch_records=min(live.batch_records, settings.side_batch_records),
        linger_s=0.0,
        retry_topic=retry,
        retry_longest_s=settings.retry_max_s,  # no delay is longer, not even one that another system asked for
        replay_topic=replay,
        replay_share=settings.replay_share,
    )
