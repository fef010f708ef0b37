"""A stage as a process: settings in, worker out; SIGTERM drains, a dead side task ends it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import structlog
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from pydantic import ValidationError

from headrace import logs, registry
from headrace.avro.codec import Codec
from headrace.avro.registry import Registry
from headrace.broker.contract import Record
from headrace.broker.kafka import KafkaBroker
from headrace.chains import PipelineChains
from headrace.envelope import Context
from headrace.errors import ConfigurationError, DependencyDown
from headrace.http_status import StatusServer
from headrace.pipelines_log import LatestPipeline, PipelineCatalogue, PipelineFollower
from headrace.runtime.compute import ComputeThread
from headrace.runtime.decide import Limits
from headrace.runtime.process import StageProcessor, Wiring
from headrace.runtime.watchdog import Watchdog
from headrace.runtime.worker import Worker
from headrace.settings import (
    EXIT_CONFIGURATION,
    KafkaSettings,
    RegistrySettings,
    ServiceSettings,
    WorkerSettings,
    wrong_settings,
)
from headrace.stage import StageFlow
from headrace.topics import dead_letter_topic

log = structlog.get_logger(__name__)

Decode = Callable[[Record], Context]
MakeDecoder = Callable[[Codec, LatestPipeline], Decode]
SideTask = tuple[str, Callable[[], Coroutine[Any, Any, None]]]
"""A name and what makes the coroutine; it runs on the loop on which the handlers run, as long as the service."""

EXIT_SIDE_TASK = 73
_PING_S = 2.0


def run_stage(flow: StageFlow, *, decoder: MakeDecoder | None = None, side_tasks: Sequence[SideTask] = ()) -> int:
    """Run the stage's worker until SIGTERM or SIGINT; return the exit code.

    Side tasks start at once, so that a model loads while Kafka is still starting; the worker waits for Kafka.
    """
    try:
        service, kafka, settings = ServiceSettings(), KafkaSettings(), WorkerSettings()
        handlers = registry.installed(flow.name)
        codec = Codec(Registry(RegistrySettings().url))
        catalogue = PipelineCatalogue()
        follower = PipelineFollower(kafka, codec, catalogue)
        decode = decoder(codec, follower.latest) if decoder else None
    except (ValidationError, ConfigurationError) as error:
        what = wrong_settings(error) if isinstance(error, ValidationError) else error
        print(f"{flow.name} cannot start: {what}", file=sys.stderr)
        return EXIT_CONFIGURATION
    name = f"{flow.name}-{settings.slot}"
    logs.configure(service.log_level, service.log_format, stage=flow.name, worker=name)
    chains = PipelineChains(flow.name, catalogue, handlers, follower.refresh)
    processor = StageProcessor(wiring(flow, kafka, service, name), codec, chains, decode=decode)
    computer = ComputeThread(processor.process)
    watchdog = Watchdog(settings.call_bound_s)
    source = kafka.topic(flow.source.format(generation=service.generation))
    worker = Worker(
        stage=flow.name,
        topics=[source],
        broker=KafkaBroker(
            kafka, settings, group=group_id(flow, kafka), transactional_id=f"{kafka.topic_prefix}headrace-{name}"
        ),
        computer=computer,
        limits=limits(flow, settings),
        watch=watchdog.watch,
    )
    status = StatusServer(service.http_host, service.http_port, readiness(flow.name, worker, kafka, source))
    _stop_on_signals(worker)
    status.start()
    watchdog.start()
    follower.start()
    for task_name, make in side_tasks:
        computer.spawn(task_name, make(), _end_process)
    try:
        if not _pipelines_read(follower, worker):
            return 0
        log.info("service starts", port=status.port, handlers=handlers.names(flow.name))
        return worker.run()
    finally:
        computer.call(chains.close())
        computer.close()
        follower.close()
        watchdog.close()
        status.close()


def _pipelines_read(follower: PipelineFollower, worker: Worker) -> bool:
    """Wait until the pipelines topic was read once; return False where the service was told to stop meanwhile."""
    while not worker.stop_requested:
        try:
            follower.wait_until_read(1.0)
        except DependencyDown as error:
            log.warning("service waits", error=str(error))
        else:
            return True
    return False


def group_id(flow: StageFlow, kafka: KafkaSettings) -> str:
    """Return the stage's consumer group."""
    return f"{kafka.topic_prefix}headrace-{flow.name}"


def wiring(flow: StageFlow, kafka: KafkaSettings, service: ServiceSettings, worker: str) -> Wiring:
    """Return the names that the stage's messages carry and go to."""
    return Wiring(
        flow=flow,
        target=kafka.topic(flow.target.format(generation=service.generation)),
        dead_letters=kafka.topic(dead_letter_topic(flow.name)),
        worker=worker,
        max_message_bytes=kafka.max_message_bytes,
    )


def limits(flow: StageFlow, settings: WorkerSettings) -> Limits:
    """Return the runtime's bounds."""
    return Limits(
        batch_records=settings.batch_records or flow.batch_records,
        batch_bytes=settings.batch_bytes,
        linger_s=settings.linger_ms / 1000,
        backoff_s=settings.backoff_s,
        backoff_max_s=settings.backoff_max_s,
        drain_s=settings.drain_s,
    )


def readiness(
    stage: str, worker: Worker, kafka: KafkaSettings, source: str
) -> Callable[[], tuple[bool, dict[str, Any]]]:
    """Return the function behind ``/readyz``: not ready while the stage waits, drains, or Kafka does not answer.

    ``source`` is the topic that Kafka is asked for, as the worker reads it.
    """
    admin = AdminClient(kafka.client())
    last: list[tuple[float, str | None]] = [(0.0, "not asked yet")]

    def kafka_error() -> str | None:
        if time.monotonic() - last[0][0] > _PING_S:
            try:
                admin.list_topics(topic=source, timeout=_PING_S)
                last[0] = (time.monotonic(), None)
            except KafkaException as error:
                last[0] = (time.monotonic(), str(error.args[0].str()))
        return last[0][1]

    def read() -> tuple[bool, dict[str, Any]]:
        state = worker.state
        if not worker.started:
            waiting = {"dependency": "kafka", "reason": "starting"}
            return False, {"stage": stage, "waiting": waiting, "draining": False}
        details: dict[str, Any] = {"stage": stage, "waiting": None, "draining": state.draining_until is not None}
        if state.waiting is not None:
            details["waiting"] = {"dependency": state.waiting.dependency, "reason": state.waiting.reason}
        elif (failure := kafka_error()) is not None:
            details["waiting"] = {"dependency": "kafka", "reason": failure}
        ready = details["waiting"] is None and not details["draining"] and state.exit_code is None
        return ready, details

    return read


def _stop_on_signals(worker: Worker) -> None:
    def stop(number: int, _frame: object) -> None:
        log.info("signal received, draining", signal=signal.Signals(number).name)
        worker.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)


def _end_process(name: str, failure: BaseException | None) -> None:
    """End the process when a side task ended by itself; during a drain the loop cancels it, which is no failure."""
    if isinstance(failure, asyncio.CancelledError):
        return
    log.critical("side task ended", task=name, error=repr(failure))
    os._exit(EXIT_SIDE_TASK)
