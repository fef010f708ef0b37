"""Runs a stage as a process. SIGTERM drains it; a side task that ends by itself ends the process."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import structlog
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from pydantic import ValidationError

from headrace.codec.codec import Codec
from headrace.codec.schema_registry import Registry
from headrace.config.settings import (
    EXIT_CONFIGURATION,
    KafkaSettings,
    ObjectSettings,
    RegistrySettings,
    ServiceSettings,
    WorkerSettings,
    wrong_settings,
)
from headrace.envelope import Context
from headrace.errors import ConfigurationError, DependencyDown
from headrace.handler import Handler
from headrace.handlers import registry
from headrace.handlers.chains import PipelineChains
from headrace.handlers.pipelines_log import LatestPipeline, PipelineCatalogue, PipelineFollower
from headrace.kafka.broker_contract import Record
from headrace.kafka.follower import TopicFollower
from headrace.objects.claims import Claims
from headrace.orders import control
from headrace.orders.control import OrderBook, StageOrders
from headrace.runtime.compute import CLOSE_S, ComputeThread
from headrace.runtime.loop.breaker import Closed, HalfOpen
from headrace.runtime.loop.state import State
from headrace.runtime.outcomes import Wiring
from headrace.runtime.process import StageProcessor
from headrace.runtime.retry import RetryPolicy
from headrace.stage_process.lanes import Lanes
from headrace.stage_process.status_server import StatusServer
from headrace.telemetry import logs
from headrace.topology.stages import StageFlow, next_stage
from headrace.topology.topics import dead_letter_topic, held_topic, replay_topic, retry_topic

log = structlog.get_logger(__name__)

Decode = Callable[[Record], Context]
MakeDecoder = Callable[[Codec, LatestPipeline], Decode]
SideTask = tuple[str, Callable[[], Coroutine[Any, Any, None]]]
"""A name and a function that creates the coroutine. It runs on the handlers' loop for the life of the service."""

EXIT_SIDE_TASK = 73
_PING_S = 2.0


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a stage's process, for code that a service runs beside the lanes."""

    flow: StageFlow
    kafka: KafkaSettings
    settings: WorkerSettings
    codec: Codec
    compute: ComputeThread

    @property
    def worker(self) -> str:
        """The worker's name: stage and slot."""
        return f"{self.flow.name}-{self.settings.slot}"


BesideLanes = Callable[[Parts], AbstractContextManager[None]]
"""Runs something else while the lanes run, and ends it when they end."""


def run_stage(
    flow: StageFlow,
    *,
    decoder: MakeDecoder | None = None,
    first: type[Handler] | None = None,
    check: Callable[[], None] = lambda: None,
    side_tasks: Sequence[SideTask] = (),
    beside: BesideLanes = lambda _parts: nullcontext(),
) -> int:
    """Run the stage's worker until SIGTERM or SIGINT; return the exit code.

    ``first`` is a handler that runs before the handlers of every pipeline, for steps that no template may omit. It is
    created at once, so that wrong settings show at the start. ``check`` raises for settings of the stage that would
    stop it at the first record. Side tasks start at once, so that a model loads while Kafka is still starting;
    the worker waits for Kafka. ``beside`` runs while the lanes run.
    """
    try:
        check()
        loaded = _load(flow, decoder, first)
    except (ValidationError, ConfigurationError) as error:
        what = wrong_settings(error) if isinstance(error, ValidationError) else error
        print(f"{flow.name} cannot start: {what}", file=sys.stderr)
        return EXIT_CONFIGURATION
    service = loaded.service
    parts = Parts(flow, loaded.kafka, loaded.settings, loaded.codec, ComputeThread())
    logs.configure(service.log_level, service.log_format, stage=flow.name, worker=parts.worker)
    book = OrderBook()
    orders = control.follow(parts.kafka, parts.codec, book)
    lanes = _lanes(parts, loaded, StageOrders(book, flow.name))
    readiness = Readiness(flow.name, lanes, parts.kafka, parts.kafka.topic(flow.source))
    status = StatusServer(service.http_host, service.http_port, readiness)
    _stop_on_signals(lanes)
    with ExitStack() as closing:
        for close in (status.close, loaded.follower.close, orders.close, parts.compute.close):
            closing.callback(close)
        closing.callback(_close_handlers, parts.compute, loaded.chains)
        status.start()
        loaded.follower.start()
        orders.start()
        for name, make in side_tasks:
            parts.compute.spawn(name, make(), _end_process)
        if not _read_once([loaded.follower, orders], lanes):
            return 0
        log.info("service starts", port=status.port, handlers=loaded.handlers.names(flow.name))
        with beside(parts):
            return lanes.run()


def _close_handlers(compute: ComputeThread, chains: PipelineChains) -> None:
    """Cancel the batches that the drain left, then close the handlers, whose pools wait for their connections."""
    if not compute.cancel():
        log.warning("handlers not closed: a batch still runs", waited_s=CLOSE_S)
        return
    try:
        compute.call(chains.close(), CLOSE_S)
    except TimeoutError:
        log.warning("handlers not closed in time; their connections end with the process", waited_s=CLOSE_S)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What the settings and the installed handlers give; nothing of it runs yet."""

    service: ServiceSettings
    kafka: KafkaSettings
    settings: WorkerSettings
    codec: Codec
    claims: Claims | None
    handlers: registry.HandlerRegistry
    follower: PipelineFollower
    chains: PipelineChains
    decode: Decode | None


def _load(flow: StageFlow, decoder: MakeDecoder | None, first: type[Handler] | None) -> _Loaded:
    """Read all settings. Raises `ValidationError` or `ConfigurationError` where one is wrong."""
    service, kafka, settings = ServiceSettings(), KafkaSettings(), WorkerSettings()
    handlers = registry.installed(flow.name)
    codec = Codec(Registry(RegistrySettings().url))
    claims = claims_of(ObjectSettings(), kafka, codec)
    follower = PipelineFollower(kafka, codec, PipelineCatalogue())
    decode = decoder(codec, follower.latest) if decoder else None
    chains = PipelineChains(flow.name, follower.catalogue, handlers, follower.refresh, first=first() if first else None)
    return _Loaded(service, kafka, settings, codec, claims, handlers, follower, chains, decode)


def _lanes(parts: Parts, loaded: _Loaded, orders: StageOrders) -> Lanes:
    """Return the lanes with the stage's processor."""
    flow, kafka, settings = parts.flow, parts.kafka, parts.settings
    processor = StageProcessor(
        wiring(flow, kafka, settings, parts.worker), parts.codec, loaded.chains,
        decode=loaded.decode, holds=orders, claims=loaded.claims,
    )  # fmt: skip
    return Lanes(flow, kafka, settings, kafka.topic(flow.source), parts.compute, processor.process, orders)


def _read_once(followers: Sequence[TopicFollower[Any]], lanes: Lanes) -> bool:
    """Wait until each topic was read once; return False if the service was stopped before that."""
    for follower in followers:
        while True:
            if lanes.stop_requested:
                return False
            try:
                follower.wait_until_read(1.0)
                break
            except DependencyDown as error:
                log.warning("service waits", error=str(error))
    return True


def claims_of(settings: ObjectSettings, kafka: KafkaSettings, codec: Codec) -> Claims | None:
    """Return the claim check, or None if no object store is configured; raises :class:`ConfigurationError`."""
    if settings.url is None:
        return None
    from headrace.objects.store import store_of  # noqa: PLC0415  # the library behind it is large

    store = store_of(settings, kafka)
    return None if store is None else Claims(codec, store, settings)


def wiring(flow: StageFlow, kafka: KafkaSettings, settings: WorkerSettings, worker: str) -> Wiring:
    """Return the names and topics for the stage's records."""
    target = kafka.topic(flow.target)
    following = next_stage(flow)
    return Wiring(
        flow=flow,
        target=target,
        dead_letters=kafka.topic(dead_letter_topic(flow.name)),
        retry=kafka.topic(retry_topic(flow.name)),
        replay=kafka.topic(replay_topic(flow.name)),
        replay_target=kafka.topic(replay_topic(following.name)) if following else target,
        held=kafka.topic(held_topic(flow.name)),
        worker=worker,
        max_message_bytes=kafka.max_message_bytes,
        retries=RetryPolicy(settings.retry_attempts, settings.retry_first_s, settings.retry_max_s),
    )


class Readiness:
    """The answer of ``/readyz``: not ready while the stage waits or drains, or Kafka does not answer.

    It asks Kafka for the topic ``source``, which the worker reads, at most once every :data:`_PING_S` seconds.
    """

    def __init__(self, stage: str, lanes: Lanes, kafka: KafkaSettings, source: str) -> None:
        self._stage = stage
        self._lanes = lanes
        self._admin = AdminClient(kafka.client())
        self._source = source
        self._asked_at = float("-inf")
        self._kafka_error: str | None = None

    def __call__(self) -> tuple[bool, dict[str, Any]]:
        """Return whether the live lane works, and the details of both lanes."""
        state = self._lanes.live.state
        lifecycle = state.lifecycle
        waiting = self._waiting(state)
        ready = not (waiting or lifecycle.draining or lifecycle.stopped or lifecycle.exit)
        return ready, {
            "stage": self._stage, "waiting": waiting, "paused": lifecycle.paused, "stopped": lifecycle.stopped,
            "draining": lifecycle.draining, "side": waiting_of(self._lanes.side.state),
        }  # fmt: skip

    def _waiting(self, state: State) -> dict[str, str] | None:
        if not self._lanes.live.started:
            return {"dependency": "kafka", "reason": "starting"}
        if (waiting := waiting_of(state)) is not None:
            return waiting
        failure = self._ask_kafka()
        return None if failure is None else {"dependency": "kafka", "reason": failure}

    def _ask_kafka(self) -> str | None:
        if time.monotonic() - self._asked_at > _PING_S:
            try:
                self._admin.list_topics(topic=self._source, timeout=_PING_S)
                self._kafka_error = None
            except KafkaException as error:
                self._kafka_error = str(error.args[0].str())
            self._asked_at = time.monotonic()
        return self._kafka_error


def waiting_of(state: State) -> dict[str, str] | None:
    """Return the dependency that the lane waits for, the reason and the circuit's position; None if it works."""
    circuit = state.breaker.circuit
    if isinstance(circuit, Closed):
        return None
    position = "half open" if isinstance(circuit, HalfOpen) else "open"
    return {"dependency": circuit.dependency, "reason": circuit.reason, "circuit": position}


def _stop_on_signals(lanes: Lanes) -> None:
    def stop(number: int, _frame: object) -> None:
        log.info("signal received, draining", signal=signal.Signals(number).name)
        lanes.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)


def _end_process(name: str, failure: BaseException | None) -> None:
    """End the process when a side task ends by itself. During a drain the loop cancels it, which is not a failure."""
    if isinstance(failure, asyncio.CancelledError):
        return
    log.critical("side task ended", task=name, error=repr(failure))
    os._exit(EXIT_SIDE_TASK)
