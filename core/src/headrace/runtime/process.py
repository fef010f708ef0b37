"""From sealed records to messages: decode, run handlers, encode. A failure of one record affects no other."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Protocol

from headrace.codec.codec import Codec, no_store
from headrace.envelope import Context, Operation, Reference, StageRun, check_transition
from headrace.errors import (
    ConfigurationError,
    DeadlyRecord,
    DependencyDown,
    HeadraceError,
    NoChange,
    PermanentError,
    UndecodableRecord,
)
from headrace.handler import READ_AGAIN, BatchHandler, Handler, check_payload
from headrace.kafka import headers
from headrace.kafka.broker_contract import Message, Record
from headrace.objects.claims import Claim, Claims, Parcel, portions
from headrace.runtime.batch_records import BatchRecord, Held, PassedOver, RecordState
from headrace.runtime.loop.batch import Batch, BatchResult
from headrace.runtime.outcomes import Outcome, OutcomeKind, Outcomes, Wiring
from headrace.telemetry import metrics

_PASS_THROUGH = (DependencyDown, ConfigurationError)
"""Errors for which no record is at fault: the runtime waits and computes the batch again."""


class Chains(Protocol):
    """The handlers of each pipeline version in this stage."""

    async def chain(self, pipeline_id: str, version: int) -> Sequence[Handler]:
        """Return the started handlers in order.

        Raises :class:`headrace.errors.PermanentError` for a pipeline that does not exist or does not run here, and
        :class:`DependencyDown` if a handler could not start for now.
        """

    def reviewed(self, pipeline_id: str, version: int) -> bool:
        """Whether the pipeline requires a review of this stage's output; called after :meth:`chain`."""


class Holds(Protocol):
    """Which records are held before this stage processes them."""

    def held(self, context: Context) -> tuple[str, str] | None:
        """Return the scope with its target (``tenant/acme``) and the reason, or None to process the record."""


class NoHolds:
    """Holds no record."""

    def held(self, _context: Context) -> tuple[str, str] | None:
        """Return None: no record is held."""
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
        self._outcomes = Outcomes(wiring, codec, claims=claims, now=now, jitter=jitter)

    async def process(self, batch: Batch) -> BatchResult:
        """Return the batch's messages, one for each record that changes a document.

        Raises :class:`DependencyDown` or :class:`ConfigurationError` if the batch must be computed again later.
        """
        started = time.perf_counter()
        READ_AGAIN.set(any(self._outcomes.came_back(record) for record in batch.records))
        entries = [self._opened(record, deadly=batch.deadly) for record in batch.records]
        messages: list[Message] = []
        counts: Counter[OutcomeKind] = Counter()
        for part in self._portions(entries):
            parcels: list[Parcel] = []
            for outcome in await self._settled(entries[part], batch.attempt):
                counts[outcome.kind] += 1
                if outcome.message is not None:
                    messages.append(outcome.message)
                if outcome.parcel is not None:
                    parcels.append(outcome.parcel)
            if self._claims is not None:
                await self._claims.store(parcels)
                metrics.OBJECTS_STORED.labels(self._stage).inc(len(parcels))
        metrics.COMPUTE_SECONDS.labels(self._stage).observe(time.perf_counter() - started)
        return BatchResult(
            messages,
            dead_letters=counts[OutcomeKind.DEAD] + counts[OutcomeKind.FAULT],
            retried=counts[OutcomeKind.RETRIED],
            held=counts[OutcomeKind.HELD],
            faults=counts[OutcomeKind.FAULT],
            passed_over=counts[OutcomeKind.PASSED_OVER],
        )

    def _portions(self, entries: Sequence[BatchRecord]) -> list[slice]:
        """Divide the batch into portions whose payloads from the object store fit into memory."""
        if self._claims is None:
            return [slice(0, len(entries))]
        return portions([entry.reference.size if entry.reference else 0 for entry in entries], self._claims.batch_bytes)

    async def _settled(self, entries: Sequence[BatchRecord], attempt: int) -> list[Outcome]:
        """Process these records of the batch completely; ``attempt`` counts how often the batch is computed."""
        started, started_at = time.perf_counter(), self._now()
        await self._fetch(entries)
        await self._run_chains(entries)
        duration = int((time.perf_counter() - started) * 1e6)
        return [self._outcome(entry, attempt, started_at, duration) for entry in entries]

    def _outcome(self, entry: BatchRecord, attempt: int, started_at: datetime, duration: int) -> Outcome:
        record, review = entry.record, False
        if entry.state is RecordState.HANDLED:
            trace = entry.context.trace
            review = self._chains.reviewed(trace.pipeline_id, trace.pipeline_version)
        run = StageRun(
            self._stage, entry.handlers, self._worker, record.topic, record.partition, record.offset,
            self._outcomes.attempt(record) + attempt - 1, started_at, duration,
        )  # fmt: skip
        return self._outcomes.outcome(record, entry.settle(), run, review=review)

    def _opened(self, record: Record, *, deadly: bool) -> BatchRecord:
        """Return the record's entry: decoded, or already ended."""
        entry = BatchRecord(record)
        if deadly:
            entry.fail(DeadlyRecord())
            return entry
        try:
            context, reference = self._decoded(record)
        except _PASS_THROUGH:
            raise
        except NoChange:
            entry.end(PassedOver())
            return entry
        except Exception as error:  # noqa: BLE001  # kept with its stack in the dead letter
            entry.fail(error)
            return entry
        entry.decoded(context, reference)
        held = self._holds.held(context)
        if held is not None:
            entry.end(Held(*held, context))
        return entry

    def _decoded(self, record: Record) -> tuple[Context, Reference | None]:
        """Return the record's context, and the reference to its payload if that is in the object store."""
        if (why := headers.unreadable(record)) is not None:
            raise UndecodableRecord(f"the Kafka client cannot read the record: {why}")
        if self._outcomes.came_back(record):
            first = headers.origin(record)
            record = record._replace(topic=first.topic, partition=first.partition, offset=first.offset)
        if self._decode is not None:
            return self._decode(record), None
        return self._codec.envelope(record.value, self._consumes)

    async def _fetch(self, entries: Sequence[BatchRecord]) -> None:
        """Fetch the payload of every decoded record; a record fails if its payload is not available."""
        waiting: list[tuple[BatchRecord, Claim]] = []
        for entry in entries:
            if entry.state is not RecordState.DECODED:
                continue
            if entry.reference is None:
                entry.fetched(entry.context)
            elif self._claims is None:
                entry.fail(no_store(entry.reference))
            else:
                waiting.append((entry, Claim(entry.context, entry.reference)))
        if self._claims is None or not waiting:
            return
        found = await self._claims.check_out([claim for _, claim in waiting], self._consumes)
        metrics.OBJECTS_FETCHED.labels(self._stage).inc(len(waiting))
        for (entry, _), answer in zip(waiting, found, strict=True):
            if isinstance(answer, Context):
                entry.fetched(answer)
            else:
                entry.fail(answer)

    async def _run_chains(self, entries: Sequence[BatchRecord]) -> None:
        """Run the records of each pipeline version through its handlers together."""
        groups: dict[tuple[str, int], list[BatchRecord]] = {}
        for entry in entries:
            if entry.state is RecordState.FETCHED:
                trace = entry.context.trace
                groups.setdefault((trace.pipeline_id, trace.pipeline_version), []).append(entry)
        for (pipeline_id, version), group in groups.items():
            try:
                chain = await self._chains.chain(pipeline_id, version)
            except PermanentError as error:
                for entry in group:
                    entry.fail(error)
                continue
            for handler in chain:
                await self._run_handler(handler, group)
            identities = tuple(handler.identity for handler in chain)
            for entry in group:
                if entry.state is RecordState.FETCHED:
                    entry.handled(identities)

    async def _run_handler(self, handler: Handler, group: Sequence[BatchRecord]) -> None:
        """Run one handler over the records of the group that have not ended and that the handler accepts."""
        seen = [entry for entry in group if entry.state is RecordState.FETCHED and self._sees(handler, entry)]
        outcomes = await run_handler(handler, [entry.context for entry in seen])
        for entry, outcome in zip(seen, outcomes, strict=True):
            if not isinstance(outcome, Context):
                entry.fail(_error_in(outcome, handler), handler.identity)
                continue
            try:
                check_transition(entry.context, outcome, self._stage)
            except PermanentError as error:
                entry.fail(error, handler.identity)
            else:
                entry.changed(outcome)

    def _sees(self, handler: Handler, entry: BatchRecord) -> bool:
        """Whether to pass the record to the handler; a record that the handler finds invalid fails here."""
        if entry.context.change.operation is Operation.DELETE and not handler.sees_deletes:
            return False
        try:
            check_payload(handler, entry.context)
            handler.validate(entry.context)
        except _PASS_THROUGH:
            raise
        except Exception as error:  # noqa: BLE001  # kept with its stack in the dead letter
            entry.fail(error, handler.identity)
            return False
        return True


async def run_handler(handler: Handler, contexts: Sequence[Context]) -> Sequence[Context | BaseException]:
    """Return an outcome for each context, in order.

    A batch that fails as a whole is halved until the record at fault is alone.
    Raises :class:`DependencyDown` and :class:`ConfigurationError`, for which no record is at fault.
    """
    if not contexts:
        return []
    if not isinstance(handler, BatchHandler):
        return [await _run_one(handler, context) for context in contexts]
    try:
        outcomes = await handler.process_batch(contexts)
        if len(outcomes) != len(contexts):
            raise PermanentError(
                f"handler {handler.identity} returned {len(outcomes)} results for {len(contexts)} records"
            )
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
    """Return the error that a handler returned, or a new one if it returned neither a context nor an error."""
    if isinstance(outcome, BaseException):
        return outcome
    return PermanentError(
        f"handler {handler.identity} returned a {type(outcome).__name__}, not a Context",
        remedy="Fix the handler: it must return the context on every path.",
    )
