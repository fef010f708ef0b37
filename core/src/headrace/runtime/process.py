"""From sealed records to messages: decode, run the pipeline's handlers, encode; a record that fails fails alone."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Protocol

import structlog

from headrace import headers, metrics
from headrace.avro.codec import Codec
from headrace.broker.contract import Message, Record
from headrace.envelope import Context, Operation, StageRun, check_transition
from headrace.errors import (
    ConfigurationError,
    DeadlyRecord,
    DependencyDown,
    HeadraceError,
    InvalidRecord,
    PermanentError,
    TemporaryError,
    UndecodableRecord,
)
from headrace.handler import BatchHandler, Handler
from headrace.runtime.deadletters import ALLOWANCE_BYTES, Failure, dead_letter, record_size
from headrace.runtime.decide import Batch, BatchResult
from headrace.runtime.retry import RetryPolicy, retry_message
from headrace.stage import StageFlow

log = structlog.get_logger(__name__)

Result = Context | Failure
_PASS_THROUGH = (DependencyDown, ConfigurationError)
"""What no record is to blame for: the runtime waits and computes the batch again."""


class Chains(Protocol):
    """Which handlers run for a pipeline's version in this stage."""

    async def chain(self, pipeline_id: str, version: int) -> Sequence[Handler]:
        """Return the started handlers in order.

        Raises :class:`headrace.errors.PermanentError` for a pipeline that does not exist or does not run here, and
        :class:`DependencyDown` where a handler could not start for now.
        """


@dataclass(frozen=True, slots=True)
class Wiring:
    """Names that the stage's messages carry and go to; topics with their prefix."""

    flow: StageFlow
    target: str
    dead_letters: str
    retry: str
    replay: str
    replay_target: str
    """Where a replayed record goes on: the next stage's replay topic, or the target where no stage follows."""
    worker: str
    max_message_bytes: int
    retries: RetryPolicy = field(default_factory=RetryPolicy)


class StageProcessor:
    """Turns a sealed batch into the messages of its transaction."""

    def __init__(
        self,
        wiring: Wiring,
        codec: Codec,
        chains: Chains,
        *,
        decode: Callable[[Record], Context] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._wiring = wiring
        self._codec = codec
        self._chains = chains
        self._decode = decode or (lambda record: codec.decode(record.value, wiring.flow.consumes))
        self._now = now
        self._jitter = jitter

    async def process(self, batch: Batch) -> BatchResult:
        """Return the batch's messages, one for each record.

        Raises :class:`DependencyDown` or :class:`ConfigurationError` where the batch must be computed again later.
        """
        started = time.perf_counter()
        started_at = self._now()
        results: list[Result] = [self._decoded(record, batch) for record in batch.records]
        runs = await self._run_chains(results)
        duration = int((time.perf_counter() - started) * 1e6)
        messages: list[Message] = []
        retried = dead = faults = 0
        for record, result, handlers in zip(batch.records, results, runs, strict=True):
            made = self._encoded(result, self._run_of(batch, record, handlers, started_at, duration), record)
            if isinstance(made, Message):
                messages.append(made)
            elif (again := self._again(record, made)) is not None:
                messages.append(again)
                retried += 1
            else:
                messages.append(self._give_up(record, made))
                dead += 1
                faults += not isinstance(made.error, InvalidRecord)
        metrics.COMPUTE_SECONDS.labels(self._wiring.flow.name).observe(time.perf_counter() - started)
        return BatchResult(messages, dead, retried, faults)

    def _run_of(
        self, batch: Batch, record: Record, handlers: tuple[str, ...], started_at: datetime, duration: int
    ) -> StageRun:
        return StageRun(
            self._wiring.flow.name, handlers, self._wiring.worker, record.topic, record.partition, record.offset,
            self._attempt(record) + batch.attempt - 1, started_at, duration,
        )  # fmt: skip

    def _again(self, record: Record, failure: Failure) -> Message | None:
        """Return the message that has the record tried again.

        None where it cannot work, was tried enough, or is larger than any message, as a compressed one may be.
        """
        too_large = record_size(record) > self._wiring.max_message_bytes + ALLOWANCE_BYTES
        if too_large or not isinstance(failure.error, TemporaryError):
            return None
        return retry_message(
            record, failure.error, first=self._first(record), attempt=self._attempt(record),
            topic=self._wiring.retry, policy=self._wiring.retries, now_ms=int(self._now().timestamp() * 1000),
            jitter=self._jitter(),
        )  # fmt: skip

    def _came_back(self, record: Record) -> bool:
        """Whether the record's headers about retries and replays are ours: those of the live lane are anybody's."""
        return record.topic in (self._wiring.retry, self._wiring.replay)

    def _attempt(self, record: Record) -> int:
        return headers.attempt(record) if self._came_back(record) else 1

    def _first(self, record: Record) -> headers.Origin:
        here = headers.Origin(record.topic, record.partition, record.offset)
        return headers.origin(record) if self._came_back(record) else here

    def _replay(self, record: Record) -> str | None:
        return headers.text(record, headers.REPLAY) if self._came_back(record) else None

    def _decoded(self, record: Record, batch: Batch) -> Result:
        if batch.deadly:
            return Failure(DeadlyRecord())
        if (why := headers.unreadable(record)) is not None:
            return Failure(UndecodableRecord(f"Kafka's client cannot read the record: {why}"))
        if self._came_back(record):
            first = headers.origin(record)
            record = record._replace(topic=first.topic, partition=first.partition, offset=first.offset)
        try:
            return self._decode(record)
        except _PASS_THROUGH:
            raise
        except Exception as error:  # noqa: BLE001  # kept with its stack in the dead letter
            return Failure(error)

    async def _run_chains(self, results: list[Result]) -> list[tuple[str, ...]]:
        """Replace each context by what its pipeline makes of it; return the handlers that ran, by record."""
        ran: list[tuple[str, ...]] = [()] * len(results)
        groups: dict[tuple[str, int], list[int]] = {}
        for index, result in enumerate(results):
            if isinstance(result, Context):
                groups.setdefault((result.trace.pipeline_id, result.trace.pipeline_version), []).append(index)
        for (pipeline_id, version), indexes in groups.items():
            try:
                chain = await self._chains.chain(pipeline_id, version)
            except PermanentError as error:
                for index in indexes:
                    results[index] = Failure(error, None, _context(results[index]))
                continue
            identities = tuple(handler.identity for handler in chain)
            for handler in chain:
                await self._run_handler(handler, results, indexes)
            for index in indexes:
                ran[index] = identities
        return ran

    async def _run_handler(self, handler: Handler, results: list[Result], indexes: Sequence[int]) -> None:
        todo: list[tuple[int, Context]] = []
        for index in indexes:
            context = results[index]
            if not isinstance(context, Context):
                continue
            if context.change.operation is Operation.DELETE and not handler.sees_deletes:
                continue
            try:
                handler.validate(context)
                todo.append((index, context))
            except _PASS_THROUGH:
                raise
            except Exception as error:  # noqa: BLE001
                results[index] = Failure(error, handler.identity, context)
        outcomes = await run_handler(handler, [context for _, context in todo])
        stage = self._wiring.flow.name
        for (index, context), outcome in zip(todo, outcomes, strict=True):
            if isinstance(outcome, Context):
                try:
                    check_transition(context, outcome, stage)
                    results[index] = outcome
                except PermanentError as error:
                    results[index] = Failure(error, handler.identity, context)
            else:
                results[index] = Failure(_error_in(outcome, handler), handler.identity, context)

    def _encoded(self, result: Result, run: StageRun, record: Record) -> Message | Failure:
        if isinstance(result, Failure):
            return result
        context, change = result, result.change
        trace = replace(context.trace, history=(*context.trace.history, run))
        try:
            value = self._codec.encode(replace(context, trace=trace), self._wiring.flow.produces)
            size = len(value) + len(change.key)
            if size > self._wiring.max_message_bytes:
                raise InvalidRecord(
                    "payload", f"has {size} bytes with its key; the limit is {self._wiring.max_message_bytes}",
                    remedy="Split the document, or raise HEADRACE_KAFKA_MAX_MESSAGE_BYTES everywhere.",
                )  # fmt: skip
        except PermanentError as error:
            return Failure(error, None, context)
        said = (
            ("request-id", context.trace.request_id.encode()),
            ("operation", change.operation.value.encode()),
            ("version", str(change.version).encode()),
        )
        replay_run = self._replay(record)
        if replay_run is None:
            return Message(self._wiring.target, change.key, value, said)
        return Message(self._wiring.replay_target, change.key, value, (*said, (headers.REPLAY, replay_run.encode())))

    def _give_up(self, record: Record, failure: Failure) -> Message:
        wiring = self._wiring
        log.warning(
            "record given up", topic=record.topic, partition=record.partition, offset=record.offset,
            request_id=failure.context.trace.request_id if failure.context else None,
            document_id=failure.context.change.document_id if failure.context else None,
            reason=getattr(failure.error, "code", "unforeseen"), error=type(failure.error).__name__,
        )  # fmt: skip
        return dead_letter(
            record, failure, stage=wiring.flow.name, topic=wiring.dead_letters, worker=wiring.worker,
            first=self._first(record), attempt=self._attempt(record), now=self._now(), codec=self._codec,
            max_message_bytes=wiring.max_message_bytes,
        )  # fmt: skip


async def run_handler(handler: Handler, contexts: Sequence[Context]) -> Sequence[Context | BaseException]:
    """Return an outcome for each context, in order.

    A batch that fails as a whole is halved until the record at fault stands alone.
    Raises :class:`DependencyDown` and :class:`ConfigurationError`, for which no record is to blame.
    """
    if not contexts:
        return []
    if not isinstance(handler, BatchHandler):
        return [await _run_one(handler, context) for context in contexts]
    try:
        outcomes = await handler.process_batch(contexts)
        if len(outcomes) != len(contexts):
            raise PermanentError(f"handler {handler.identity} returned {len(outcomes)} results for {len(contexts)}")
    except _PASS_THROUGH:
        raise
    except Exception as error:  # noqa: BLE001
        if len(contexts) == 1:
            return [error]
        middle = len(contexts) // 2
        first = await run_handler(handler, contexts[:middle])
        return [*first, *await run_handler(handler, contexts[middle:])]
    for outcome in outcomes:
        if isinstance(outcome, _PASS_THROUGH):
            raise outcome
    return outcomes


async def _run_one(handler: Handler, context: Context) -> Context | HeadraceError | BaseException:
    try:
        return await handler.process(context)
    except _PASS_THROUGH:
        raise
    except Exception as error:  # noqa: BLE001
        return error


def _error_in(outcome: object, handler: Handler) -> BaseException:
    """Return the error that a handler gave, or the one of giving neither a context nor an error."""
    if isinstance(outcome, BaseException):
        return outcome
    return PermanentError(
        f"handler {handler.identity} returned a {type(outcome).__name__}, not a Context",
        remedy="Repair the handler: every path of it returns the context.",
    )


def _context(result: Result) -> Context | None:
    return result if isinstance(result, Context) else None
