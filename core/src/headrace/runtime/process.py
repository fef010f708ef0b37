"""From sealed records to messages: decode, run the pipeline's handlers, encode; a record that fails fails alone."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Protocol

from headrace.codec.codec import Codec, no_store
from headrace.envelope import Context, Operation, StageRun, check_transition
from headrace.errors import (
    ConfigurationError,
    DeadlyRecord,
    DependencyDown,
    HeadraceError,
    NoChange,
    PermanentError,
    UndecodableRecord,
)
from headrace.handler import READ_AGAIN, BatchHandler, Handler
from headrace.kafka import headers
from headrace.kafka.broker_contract import Message, Record
from headrace.objects.claims import Claim, Claims, Parcel, portions
from headrace.runtime.deadletters import Failure
from headrace.runtime.loop.batch import Batch, BatchResult
from headrace.runtime.outbox import Fate, Held, Outbox, PassedOver, Result, Settled, Wiring
from headrace.telemetry import metrics

_PASS_THROUGH = (DependencyDown, ConfigurationError)
"""What no record is to blame for: the runtime waits and computes the batch again."""


class Chains(Protocol):
    """Which handlers run for a pipeline's version in this stage."""

    async def chain(self, pipeline_id: str, version: int) -> Sequence[Handler]:
        """Return the started handlers in order.

        Raises :class:`headrace.errors.PermanentError` for a pipeline that does not exist or does not run here, and
        :class:`DependencyDown` where a handler could not start for now.
        """

    def reviewed(self, pipeline_id: str, version: int) -> bool:
        """Whether a person approves what this stage makes in the pipeline; asked after :meth:`chain`."""


class Holds(Protocol):
    """Which records wait for a person before this stage touches them."""

    def held(self, context: Context) -> tuple[str, str] | None:
        """Return the scope with its target (``tenant/acme``) and the reason, or None: the record goes on."""


class NoHolds:
    """No record waits for a person."""

    def held(self, _context: Context) -> tuple[str, str] | None:
        """Return None: every record goes on."""
        return None


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
        holds: Holds | None = None,
        claims: Claims | None = None,
    ) -> None:
        self._stage = wiring.flow.name
        self._worker = wiring.worker
        self._chains = chains
        self._consumes = wiring.flow.consumes
        self._codec = codec
        self._decode = decode
        self._claims = claims
        self._now = now
        self._holds = holds or NoHolds()
        self._outbox = Outbox(wiring, codec, claims=claims, now=now, jitter=jitter)

    async def process(self, batch: Batch) -> BatchResult:
        """Return the batch's messages, one for each record that tells of a document.

        Raises :class:`DependencyDown` or :class:`ConfigurationError` where the batch must be computed again later.
        """
        started = time.perf_counter()
        READ_AGAIN.set(any(self._outbox.came_back(record) for record in batch.records))
        taken = [self._taken(record, batch) for record in batch.records]
        messages: list[Message] = []
        fates: Counter[Fate] = Counter()
        for part in self._portions(taken):
            parcels: list[Parcel] = []
            for settled in await self._settled(batch, batch.records[part], taken[part]):
                fates[settled.fate] += 1
                if settled.message is not None:
                    messages.append(settled.message)
                if settled.parcel is not None:
                    parcels.append(settled.parcel)
            if self._claims is not None:
                await self._claims.store(parcels)
                metrics.OBJECTS_STORED.labels(self._stage).inc(len(parcels))
        metrics.COMPUTE_SECONDS.labels(self._stage).observe(time.perf_counter() - started)
        dead, fault = fates[Fate.DEAD], fates[Fate.FAULT]
        retried, held, passed_over = fates[Fate.RETRIED], fates[Fate.HELD], fates[Fate.PASSED_OVER]
        return BatchResult(messages, dead + fault, retried, held, fault, passed_over)

    def _portions(self, taken: Sequence[Result | Claim]) -> list[slice]:
        """Return what is taken up at a time, so that payloads from the object store fit into memory."""
        sizes = [one.reference.size if isinstance(one, Claim) else 0 for one in taken]
        return portions(sizes, self._claims.batch_bytes) if self._claims is not None else [slice(0, len(sizes))]

    async def _settled(self, batch: Batch, records: Sequence[Record], taken: Sequence[Result | Claim]) -> list[Settled]:
        """Return what becomes of these records of the batch."""
        started, started_at = time.perf_counter(), self._now()
        results = await self._fetched(taken)
        runs = await self._run_chains(results)
        duration = int((time.perf_counter() - started) * 1e6)
        settled = []
        for record, result, handlers in zip(records, results, runs, strict=True):
            run = StageRun(
                self._stage, handlers, self._worker, record.topic, record.partition, record.offset,
                self._outbox.attempt(record) + batch.attempt - 1, started_at, duration,
            )  # fmt: skip
            settled.append(self._outbox.settle(record, result, run, review=self._reviewed(result)))
        return settled

    async def _fetched(self, taken: Sequence[Result | Claim]) -> list[Result]:
        """Return the results with each claim's payload in place, or why it cannot be had."""
        claims = [one for one in taken if isinstance(one, Claim)]
        if not claims:
            return [one for one in taken if not isinstance(one, Claim)]
        found: Sequence[Context | BaseException]
        if self._claims is None:
            found = [no_store(claim.reference) for claim in claims]
        else:
            found = await self._claims.check_out(claims, self._consumes)
            metrics.OBJECTS_FETCHED.labels(self._stage).inc(len(claims))
        outcomes = iter(
            outcome if isinstance(outcome, Context) else Failure(outcome, None, claim.context)
            for claim, outcome in zip(claims, found, strict=True)
        )
        return [next(outcomes) if isinstance(one, Claim) else one for one in taken]

    def _reviewed(self, result: Result) -> bool:
        if not isinstance(result, Context):
            return False
        return self._chains.reviewed(result.trace.pipeline_id, result.trace.pipeline_version)

    def _taken(self, record: Record, batch: Batch) -> Result | Claim:
        """Return the record's context, where its payload lies, why it cannot be had, or why it waits."""
        decoded = self._decoded(record, batch)
        context = decoded.context if isinstance(decoded, Claim) else decoded
        if not isinstance(context, Context):
            return decoded
        held = self._holds.held(context)
        return decoded if held is None else Held(*held)

    def _decoded(self, record: Record, batch: Batch) -> Context | Claim | Failure | PassedOver:
        if batch.deadly:
            return Failure(DeadlyRecord())
        if (why := headers.unreadable(record)) is not None:
            return Failure(UndecodableRecord(f"Kafka's client cannot read the record: {why}"))
        if self._outbox.came_back(record):
            first = headers.origin(record)
            record = record._replace(topic=first.topic, partition=first.partition, offset=first.offset)
        try:
            if self._decode is not None:
                return self._decode(record)
            context, reference = self._codec.envelope(record.value, self._consumes)
            return context if reference is None else Claim(context, reference)
        except _PASS_THROUGH:
            raise
        except NoChange:
            return PassedOver()
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
        for (index, context), outcome in zip(todo, outcomes, strict=True):
            if isinstance(outcome, Context):
                try:
                    check_transition(context, outcome, self._stage)
                    results[index] = outcome
                except PermanentError as error:
                    results[index] = Failure(error, handler.identity, context)
            else:
                results[index] = Failure(_error_in(outcome, handler), handler.identity, context)


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
