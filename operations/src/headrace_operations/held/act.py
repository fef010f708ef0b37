"""Releases, approves and rejects held records: writes the record and its action in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from headrace.codec.codec import Codec
from headrace.config.settings import KafkaSettings
from headrace.envelope import Context
from headrace.errors import PermanentError, UndecodableRecord
from headrace.kafka import headers
from headrace.kafka.broker_contract import Record
from headrace.orders.holds import PAUSE
from headrace.runtime.deadletters import Failure, dead_letter
from headrace.topology.stages import STAGES
from headrace.topology.topics import dead_letter_topic
from headrace_operations.actions import ActionRequest, Actions, Progress
from headrace_operations.held import model as held_model
from headrace_operations.held.log import FoundHeld, HeldLog
from headrace_operations.held.model import (
    APPROVED,
    HELD_RECORDS,
    RELEASED,
    HeldEntry,
    HeldId,
    HeldSelection,
    NoSuchHeldRecord,
)
from headrace_operations.transactions import Produce, naming

log = structlog.get_logger(__name__)

_CALL_S = 15.0


class Rejected(PermanentError):
    """A reviewer rejected the output."""

    code = "rejected"
    default_remedy = "Fix the cause (handlers, template or document). The next version gets a new review."


@dataclass(slots=True)
class Done:
    """The result of a request: records ``taken``, and IDs that already had the same action, with its description."""

    taken: list[HeldEntry] = field(default_factory=list)
    before: list[tuple[HeldId, str]] = field(default_factory=list)


class HeldActor:
    """Acts on held records. Only one command runs at a time: a second one fences the first.

    Every method raises :class:`DependencyDown` if Kafka does not answer. What was committed before stays, and the next
    command does not do it twice.
    """

    def __init__(
        self, kafka: KafkaSettings, codec: Codec, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._kafka = kafka
        self._codec = codec
        self._now = now
        self._log = HeldLog(kafka, codec)
        self._actions = Actions(kafka, codec, HELD_RECORDS)

    def release(self, scopes: frozenset[str], request: ActionRequest, progress: Progress = lambda _: None) -> Done:
        """Send the records held under these scopes (``tenant/acme``) through their stage again."""
        if not scopes:
            return Done()
        return self._carry_out(HeldSelection(kind=PAUSE, scopes=scopes), request, progress)

    def plan(self, ids: frozenset[HeldId], request: ActionRequest) -> Done:
        """Return the plan for a decision on these IDs; ``before`` has those that already had the same decision.

        Raises :class:`NoSuchHeldRecord` for an unknown ID, and :class:`RefusedHeldRecord` for a record that had another
        action or is held for another reason.
        """
        before = held_model.refuse_others(ids, self._log.actions(), request)
        rest = ids - {one for one, _ in before}
        found: list[FoundHeld] = []
        if rest:
            self._log.read(HeldSelection(ids=rest), {}, found.append)
        missing = sorted(rest - {one.entry.id for one in found})
        if missing:
            raise NoSuchHeldRecord(f"no held record with ID {', '.join(map(str, missing))}")
        held_model.refuse_misfits((one.entry for one in found), request)
        if request.action == APPROVED:
            for one in found:
                held_model.target_of(one.record, self._kafka)
        return Done([one.entry for one in found], before)

    def decide(self, ids: frozenset[HeldId], request: ActionRequest, progress: Progress = lambda _: None) -> Done:
        """Approve outputs that wait for a review, or reject them as dead letters, according to :meth:`plan`.

        It skips records that another command decided on in the meantime. Raises what :meth:`plan` does, before anything
        is written.
        """
        planned = self.plan(ids, request)
        if not planned.taken:
            return planned
        chosen = frozenset(entry.id for entry in planned.taken)
        return Done(self._carry_out(HeldSelection(ids=chosen), request, progress).taken, planned.before)

    def _carry_out(self, selection: HeldSelection, request: ActionRequest, progress: Progress) -> Done:
        """Act on the selected records; read the actions when no other writer is left, so nothing is done twice."""
        done = Done()

        def note(batch: Sequence[FoundHeld]) -> None:
            done.taken.extend(found.entry for found in batch)
            progress(len(batch))

        self._actions.carry_out(
            lambda take: self._log.read(selection, self._log.actions(), take),
            lambda produce, found: self._write(produce, found, request),
            lambda found: found.entry.size,
            note,
            lambda: f"{len(done.taken)} records were {request.action.lower()}",
        )
        self.trim(selection.stages())
        return done

    def _write(self, produce: Produce, found: FoundHeld, request: ActionRequest) -> None:
        now = self._now()
        with naming(str(found.entry.id)):
            self._send(produce, found.record, found.entry, request, now)
        self._actions.note(produce, found.entry.id, request, now)

    def _send(self, produce: Produce, record: Record, entry: HeldEntry, request: ActionRequest, now: datetime) -> None:
        if request.action == RELEASED:
            message = held_model.released(record, self._kafka, now_ms=int(now.timestamp() * 1000))
            produce(message.topic, value=message.value, key=message.key or None, headers=list(message.headers))
        elif request.action == APPROVED:
            produce(
                held_model.target_of(record, self._kafka), value=record.value, key=record.key,
                headers=list(held_model.approved_headers(record)),
            )  # fmt: skip
        else:
            self._reject(produce, entry.id.stage, record, request, now)

    def _reject(self, produce: Produce, stage: str, record: Record, request: ActionRequest, now: datetime) -> None:
        flow = STAGES[stage]
        error = Rejected(f"rejected by {request.acted_by}: {request.why}")
        message = dead_letter(
            record, Failure(error, None, self._context(record, flow.produces)), stage=flow.name,
            topic=dead_letter_topic(flow.name), worker=HELD_RECORDS.writer, first=headers.origin(record), attempt=1,
            now=now, codec=self._codec, max_message_bytes=self._kafka.max_message_bytes,
        )  # fmt: skip
        produce(message.topic, value=message.value, key=message.key, headers=list(message.headers))

    def _context(self, record: Record, produces: type) -> Context | None:
        try:
            return self._codec.envelope(record.value, produces)[0]
        except UndecodableRecord:
            return None  # reject it anyway; its key names tenant and document

    def trim(self, stages: Sequence[str]) -> int:
        """Delete the records before the first held record of each partition; return the number of offsets.

        It deletes only records with a committed action, so it never deletes a held record, whatever others do.
        """
        reach = {place: one for place, one in self._log.reach(stages).items() if one.open > one.start}
        if not reach:
            return 0
        admin = AdminClient({**self._kafka.client(), "log_level": 0})
        places = [TopicPartition(self._kafka.topic(topic), number, one.open) for (topic, number), one in reach.items()]
        try:
            for future in admin.delete_records(places, request_timeout=_CALL_S, operation_timeout=_CALL_S).values():
                future.result(_CALL_S)
        except (KafkaException, TimeoutError) as error:
            # The requested action is done; the next command deletes these records too.
            log.warning(
                "cannot delete released records from the held topics", error=str(error),
                remedy="Grant the operator the right to delete records.",
            )  # fmt: skip
            return 0
        return sum(one.open - one.start for one in reach.values())
