"""From sealed records to messages: decode, run the pipeline's handlers, encode; a record that fails fails alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

import structlog

from headrace import metrics
from headrace.avro.codec import Codec
from headrace.broker.contract import Message, Record
from headrace.envelope import Context, Operation, StageRun, check_transition
from headrace.errors import (
    ConfigurationError,
    DependencyDown,
    HeadraceError,
    InvalidRecord,
    PermanentError,
    TemporaryError,
)
from headrace.handler import BatchHandler, Handler
from headrace.runtime.deadletters import Failure, dead_letter
from headrace.runtime.decide import Batch, BatchResult
from headrace.stage import StageFlow

log = structlog.get_logger(__name__)

Result = Context | Failure
_PASS_THROUGH = (DependencyDown, TemporaryError)
"""What concerns the whole batch: the runtime waits and computes it again."""


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
    worker: str
    max_message_bytes: int


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
    ) -> None:
        self._wiring = wiring
        self._codec = codec
        self._chains = chains
        self._decode = decode or (lambda record: codec.decode(record.value, wiring.flow.consumes))
        self._now = now

    async def process(self, batch: Batch) -> BatchResult:
        """Return the batch's messages, one or none for each record.

        Raises :class:`DependencyDown` or :class:`TemporaryError` where the batch must be computed again later.
        """
        started = time.perf_counter()
        started_at = self._now()
        results: list[Result] = [self._decoded(record) for record in batch.records]
        runs = await self._run_chains(results)
        duration = int((time.perf_counter() - started) * 1e6)
        messages: list[Message] = []
        dead = 0
        made: Message | Failure
        for record, result, handlers in zip(batch.records, results, runs, strict=True):
            if isinstance(result, Context):
                run = StageRun(
                    self._wiring.flow.name, handlers, self._wiring.worker, record.topic, record.partition,
                    record.offset, batch.attempt, started_at, duration,
                )  # fmt: skip
                made = self._encoded(result, run)
            else:
                made = result
            if isinstance(made, Failure):
                messages.append(self._give_up(record, made, batch.attempt))
                dead += 1
            else:
                messages.append(made)
        metrics.COMPUTE_SECONDS.labels(self._wiring.flow.name).observe(time.perf_counter() - started)
        return BatchResult(messages, dead)

    def _decoded(self, record: Record) -> Result:
        try:
            return self._decode(record)
        except (*_PASS_THROUGH, ConfigurationError):
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

    def _encoded(self, context: Context, run: StageRun) -> Message | Failure:
        change = context.change
        trace = replace(context.trace, history=(*context.trace.history, run))
        try:
            value = self._codec.encode(replace(context, trace=trace), self._wiring.flow.produces)
            if len(value) > self._wiring.max_message_bytes:
                raise InvalidRecord(
                    "payload", f"has {len(value)} bytes; the limit is {self._wiring.max_message_bytes}",
                    remedy="Split the document, or raise HEADRACE_KAFKA_MAX_MESSAGE_BYTES everywhere.",
                )  # fmt: skip
        except PermanentError as error:
            return Failure(error, None, context)
        headers = (
            ("request-id", context.trace.request_id.encode()),
            ("operation", change.operation.value.encode()),
            ("version", str(change.version).encode()),
        )
        return Message(self._wiring.target, change.key, value, headers)

    def _give_up(self, record: Record, failure: Failure, attempt: int) -> Message:
        wiring = self._wiring
        log.warning(
            "record given up", topic=record.topic, partition=record.partition, offset=record.offset,
            request_id=failure.context.trace.request_id if failure.context else None,
            document_id=failure.context.change.document_id if failure.context else None,
            reason=getattr(failure.error, "code", "unforeseen"), error=type(failure.error).__name__,
        )  # fmt: skip
        return dead_letter(
            record, failure, stage=wiring.flow.name, topic=wiring.dead_letters, worker=wiring.worker,
            attempt=attempt, now=self._now(), codec=self._codec,
        )  # fmt: skip


async def run_handler(handler: Handler, contexts: Sequence[Context]) -> Sequence[Context | BaseException]:
    """Return an outcome for each context, in order.

    A batch that fails as a whole is halved until the record at fault stands alone.
    Raises :class:`DependencyDown` and :class:`TemporaryError`, which concern the whole batch.
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
