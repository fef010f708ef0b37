"""The outcome of each record of a batch: the message for its transaction, if any."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

import structlog

from headrace.codec.codec import Codec
from headrace.envelope import Context, Operation, StageRun
from headrace.errors import Deferred, HoldRecord, InvalidRecord, PermanentError, TemporaryError
from headrace.kafka import headers
from headrace.kafka.broker_contract import Message, Record
from headrace.kafka.constants import NO_KEY
from headrace.objects.claims import Claims, Parcel
from headrace.runtime.batch_records import Held, PassedOver, Result
from headrace.runtime.deadletters import ALLOWANCE_BYTES, Failure, bounded, dead_letter, record_size
from headrace.runtime.retry import RetryPolicy, retry_message
from headrace.topology.stages import StageFlow

log = structlog.get_logger(__name__)

_FRAMING_BYTES = 256
"""Upper bound of the bytes that Kafka adds to one record and its batch; a topic's limit includes them."""


@dataclass(frozen=True, slots=True)
class Wiring:
    """Names that the stage's messages contain, and the topics that they go to, with prefix."""

    flow: StageFlow
    target: str
    dead_letters: str
    retry: str
    replay: str
    replay_target: str
    """Where the output of a replayed record goes: the next stage's replay topic, or the target if no stage follows."""
    held: str
    worker: str
    max_message_bytes: int
    retries: RetryPolicy = field(default_factory=RetryPolicy)


class OutcomeKind(StrEnum):
    """How the stage finished with a record."""

    DONE = "done"
    RETRIED = "retried"
    DEFERRED = "deferred"
    """Gives way to other records; nothing failed."""
    HELD = "held"
    PASSED_OVER = "passed-over"
    DEAD = "dead"
    """Dead-lettered because the record is invalid."""
    FAULT = "fault"
    """Dead-lettered for a reason other than invalid input."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A record's outcome: its message, and the payload to store before the message is written, if any."""

    kind: OutcomeKind
    message: Message | None = None
    parcel: Parcel | None = None


class Outcomes:
    """Makes the outcomes of a stage's records."""

    def __init__(
        self,
        wiring: Wiring,
        codec: Codec,
        *,
        claims: Claims | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._wiring = wiring
        self._codec = codec
        self._claims = claims
        self._now = now
        self._jitter = jitter

    def came_back(self, record: Record) -> bool:
        """Whether the record's retry and replay headers come from Headrace; in the live lane, anyone can set them."""
        return record.topic in (self._wiring.retry, self._wiring.replay)

    def attempt(self, record: Record) -> int:
        """Return the number of this attempt, from 1."""
        return headers.attempt(record) if self.came_back(record) else 1

    def first(self, record: Record) -> headers.Origin:
        """Return where the stage first read the record."""
        here = headers.Origin(record.topic, record.partition, record.offset)
        return headers.origin(record) if self.came_back(record) else here

    def outcome(self, record: Record, result: Result, run: StageRun, *, review: bool) -> Outcome:
        """Return the record's outcome; with ``review``, its output is held for approval."""
        match result:
            case Context():
                return self._of_output(record, result, run, review=review)
            case Failure():
                return self._of_failure(record, result)
            case Held():
                return self._of_hold(record, result)
            case PassedOver():
                return Outcome(OutcomeKind.PASSED_OVER)

    def _of_output(self, record: Record, context: Context, run: StageRun, *, review: bool) -> Outcome:
        try:
            made, parcel = self._made(record, context, run)
        except PermanentError as error:
            return self._of_failure(record, Failure(error, None, context))
        if review and context.change.operation is not Operation.DELETE:
            return Outcome(OutcomeKind.HELD, self._to_review(record, context, made), parcel)
        return Outcome(OutcomeKind.DONE, made, parcel)

    def _of_failure(self, record: Record, failure: Failure) -> Outcome:
        error = failure.error
        if isinstance(error, HoldRecord):
            return self._of_hold(record, Held(error.scope, error.message, failure.context))
        again = self._again(record, failure)
        if again is not None:
            return Outcome(OutcomeKind.DEFERRED if isinstance(error, Deferred) else OutcomeKind.RETRIED, again)
        kind = OutcomeKind.DEAD if getattr(error, "senders_fault", False) else OutcomeKind.FAULT
        return Outcome(kind, self._dead_lettered(record, failure))

    def _of_hold(self, record: Record, held: Held) -> Outcome:
        """Hold the record; dead-letter it if no message can carry it."""
        if not self._too_large(record):
            return Outcome(OutcomeKind.HELD, self._held(record, held))
        error = InvalidRecord(
            "record", f"has {record_size(record)} bytes, too many to be held for {held.scope}; {self._limit}",
            remedy="Send a smaller record, or raise HEADRACE_KAFKA_MAX_MESSAGE_BYTES for all services and topics.",
        )  # fmt: skip
        return Outcome(OutcomeKind.DEAD, self._dead_lettered(record, Failure(error, None, held.context)))

    def _made(self, record: Record, context: Context, run: StageRun) -> tuple[Message, Parcel | None]:
        """Return the output message; raises :class:`PermanentError` if it cannot be written."""
        change = context.change
        value, parcel = self._encoded(context.with_run(run))
        target = self._wiring.target
        said = [
            (headers.REQUEST_ID, context.trace.request_id.encode()),
            (headers.OPERATION, change.operation.value.encode()),
            (headers.VERSION, str(change.version).encode()),
        ]
        replay_run = headers.text(record, headers.REPLAY) if self.came_back(record) else None
        if replay_run is not None:
            target = self._wiring.replay_target
            said.append((headers.REPLAY, replay_run.encode()))
        message = Message(target, change.key, value, tuple(said))
        self._check_size(message)
        return message, parcel

    def _encoded(self, context: Context) -> tuple[bytes, Parcel | None]:
        """Return the encoded record, with a reference instead of a payload that is too large."""
        produces, parcel = self._wiring.flow.produces, None
        value = self._codec.encode(context, produces)
        if self._claims is not None and len(value) > self._claims.limit_bytes and context.payload is not None:
            value, parcel = self._claims.check_in(context, produces)
        return value, parcel

    def _check_size(self, message: Message) -> None:
        """Raise :class:`InvalidRecord` if the output is too large for its topic; it may not be compressible."""
        size = _FRAMING_BYTES + record_size(message)
        if size <= self._wiring.max_message_bytes:
            return
        remedy = "Split the document, or raise HEADRACE_KAFKA_MAX_MESSAGE_BYTES for all services."
        if self._claims is None:
            remedy = "Set HEADRACE_OBJECTS_URL for all stages to store large payloads in an object store."
        raise InvalidRecord("payload", f"makes a record of {size} bytes; {self._limit}", remedy=remedy)

    def _held(self, record: Record, held: Held) -> Message:
        """Return the record with unchanged key and value as a message for the topic of held records."""
        said = headers.for_hold(
            self._carried(record).headers, self.first(record), kind="pause", scope=held.scope, why=bounded(held.why),
            now_ms=self._now_ms(),
        )  # fmt: skip
        return Message(self._wiring.held, record.key or NO_KEY, record.value, said)

    def _to_review(self, record: Record, context: Context, made: Message) -> Message:
        """Return the output as a message for the topic of held records; a header says where it goes after approval."""
        scope = f"pipeline/{context.trace.pipeline_id}"
        why = f"pipeline version {context.trace.pipeline_version} requires a review of stage {self._wiring.flow.name}"
        said = headers.for_hold(
            made.headers, self.first(record), kind="review", scope=scope, why=why, now_ms=self._now_ms(),
            target=made.topic,
        )  # fmt: skip
        return Message(self._wiring.held, made.key, made.value, said)

    def _again(self, record: Record, failure: Failure) -> Message | None:
        """Return the message that retries the record.

        None if a retry cannot help, the attempts are used up, or the record is too large for a message.
        """
        if self._too_large(record) or not isinstance(failure.error, TemporaryError):
            return None
        return retry_message(
            self._carried(record), failure.error, first=self.first(record), attempt=self.attempt(record),
            topic=self._wiring.retry, policy=self._wiring.retries, now_ms=self._now_ms(), jitter=self._jitter(),
        )  # fmt: skip

    def _carried(self, record: Record) -> Record:
        """Return the record without forged headers, which would be trusted when it is read again."""
        if self.came_back(record):
            return record
        return record._replace(headers=headers.without_return(record.headers))

    def _too_large(self, record: Record) -> bool:
        """Whether the record is too large for a message, as one may be that a client compressed."""
        return record_size(record) > self._wiring.max_message_bytes + ALLOWANCE_BYTES

    def _dead_lettered(self, record: Record, failure: Failure) -> Message:
        wiring = self._wiring
        log.warning(
            "record dead-lettered", topic=record.topic, partition=record.partition, offset=record.offset,
            request_id=failure.context.trace.request_id if failure.context else None,
            document_id=failure.context.change.document_id if failure.context else None,
            reason=getattr(failure.error, "code", "unforeseen"), error=type(failure.error).__name__,
        )  # fmt: skip
        return dead_letter(
            record, failure, stage=wiring.flow.name, topic=wiring.dead_letters, worker=wiring.worker,
            first=self.first(record), attempt=self.attempt(record), now=self._now(), codec=self._codec,
            max_message_bytes=wiring.max_message_bytes,
        )  # fmt: skip

    @property
    def _limit(self) -> str:
        return f"the limit is {self._wiring.max_message_bytes} (HEADRACE_KAFKA_MAX_MESSAGE_BYTES)"

    def _now_ms(self) -> int:
        return int(self._now().timestamp() * 1000)
