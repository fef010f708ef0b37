"""The run itself: records of the source topic into the stage's replay topic, each batch with how far it is.

A batch's records and the run's new state are one Kafka transaction, so a run that dies goes on where it was: no record
is sent twice and none is left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from headrace.codec.codec import Codec
from headrace.config.settings import KafkaSettings
from headrace.errors import DependencyDown
from headrace.kafka import headers
from headrace.kafka.broker_contract import Record
from headrace.orders.control import Action, OrderBook, Scope, follow
from headrace.payloads import ReplayPosition, ReplayRun
from headrace.topology.topics import replay_topic
from headrace_operations.log_scan import record_of
from headrace_operations.replay.lanes import LOOK_S, SideLanes, lanes
from headrace_operations.replay.runs import CANCELLED, DONE, OPEN, PAUSED, RUNNING, SENT, TOPIC, read_run
from headrace_operations.replay.selection import RefusedReplay, wanted
from headrace_operations.transactions import Transactions, fenced

_BATCH = 500
_SAVE_S = 2.0
"""How often a run notes how far it is where it sends nothing: that it lives, and whether another took it over."""
Progress = Callable[[ReplayRun, int], None]
"""Told of the run's state, and of how many records wait in the side lanes."""


class Copier:
    """Carries one run out, through the lanes of ``kafka``'s generation; a second copier of the run fences the first.

    Every method raises :class:`DependencyDown` where Kafka does not answer, and :class:`RefusedReplay` where another
    copier took the run over.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        codec: Codec,
        *,
        outstanding: int = 2000,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._kafka = kafka
        self._codec = codec
        self._now = now
        self._lanes = SideLanes(kafka, outstanding)
        self._book = OrderBook()
        self._saved = 0.0
        self._begun: tuple[Transactions, ReplayRun] | None = None
        """What :meth:`begin` opened, so that carrying out the same run need not open and read it again."""

    def begin(self, run: ReplayRun) -> None:
        """Note the run as begun, so that it can be taken up by its id."""
        transactions = self._opened(run.run_id)
        self._commit(transactions, run, [])
        self._begun = (transactions, run)

    def cancel(self, run_id: str) -> ReplayRun:
        """Take the run from whoever carries it out, end it, and return its last state."""
        try:
            transactions = self._opened(run_id)
            run = read_run(self._kafka, self._codec, run_id)
            return self._note(transactions, run, CANCELLED) if run.state in OPEN else run
        except KafkaException as error:
            raise self._failed(error, run_id) from error

    def carry_out(self, run_id: str, progress: Progress = lambda _run, _waiting: None) -> ReplayRun:
        """Send what the run has still to send, wait until the lanes are through with it, and return its last state."""
        follower = follow(self._kafka, self._codec, self._book)
        follower.start()
        try:
            transactions, run = self._taken_up(run_id)
            follower.wait_until_read()
            if run.state not in OPEN:
                return run
            run = self._send(transactions, run, progress)
            return self._await_lanes(transactions, run, progress) if run.state == SENT else run
        except KafkaException as error:
            if fenced(error) and (run := read_run(self._kafka, self._codec, run_id)).state == CANCELLED:
                return run
            raise self._failed(error, run_id) from error
        finally:
            follower.close()

    def _send(self, transactions: Transactions, run: ReplayRun, progress: Progress) -> ReplayRun:
        consumer = Consumer(self._reader())
        due = time.monotonic()
        try:
            places = [TopicPartition(self._kafka.topic(run.source), at.partition, at.next) for at in _unfinished(run)]
            consumer.assign(places)
            while _unfinished(run):
                run = self._alive(transactions, self._obey(transactions, run))
                progress(run, self._lanes.waiting)
                if run.state == CANCELLED:
                    return run
                if run.state == PAUSED or self._lanes.full(run.stage) or time.monotonic() < due:
                    time.sleep(LOOK_S if run.state == PAUSED else 0.05)
                    continue
                found, read = self._read(consumer, run)
                moved = replace(read, sent=run.sent + len(found), updated_at=self._now())
                if found:
                    self._commit(transactions, moved, found)
                if run.records_per_second:
                    due = max(due, time.monotonic()) + len(found) / run.records_per_second
                self._lanes.waiting += len(found)
                run = moved
            return self._note(transactions, run, SENT)
        finally:
            consumer.close()

    def _read(self, consumer: Consumer, run: ReplayRun) -> tuple[list[Record], ReplayRun]:
        """Read one batch; return what takes part, and the run with its new positions."""
        found: list[Record] = []
        at = {one.partition: one for one in run.positions}
        most = min(_BATCH, run.records_per_second or _BATCH, max(1, self._lanes.room))
        for message in consumer.consume(most, 0.2):
            number, offset = message.partition() or 0, message.offset() or 0
            error = message.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001
                if not error.retriable():
                    raise KafkaException(error)
                continue
            one = at[number]
            if error is None and one.next <= offset < one.end:
                record = record_of((message.topic() or "", number), message)
                if wanted(run.tenant, run.document_id, record.key):
                    found.append(record)
                offset += 1
            at[number] = replace(one, next=max(one.next, min(offset, one.end)))
        return found, replace(run, positions=tuple(at.values()))

    def _commit(self, transactions: Transactions, run: ReplayRun, found: Sequence[Record]) -> None:
        """Write the batch and the run's state, together or not at all."""
        with transactions.one() as produce:
            for record in found:
                first = headers.Origin(record.topic, record.partition, record.offset)
                said = list(headers.for_replay(record.headers, first, run.run_id))
                produce(replay_topic(run.stage), value=record.value, key=record.key or b"-", headers=said)
            produce(TOPIC, value=self._codec.encode_plain(run), key=run.run_id.encode())
        self._saved = time.monotonic()

    def _obey(self, transactions: Transactions, run: ReplayRun) -> ReplayRun:
        """Do what the newest order for the run says."""
        order = self._book.newest(Scope.RUN, run.run_id)
        asked = {Action.PAUSE: PAUSED, Action.RESUME: RUNNING, Action.CANCEL: CANCELLED}
        state = run.state if order is None else asked[Action(order.action)]
        return run if state == run.state else self._note(transactions, run, state)

    def _alive(self, transactions: Transactions, run: ReplayRun) -> ReplayRun:
        """Note the run as it is, where nothing was noted for a while; whoever was taken over hears of it here."""
        return self._note(transactions, run, run.state) if time.monotonic() - self._saved > _SAVE_S else run

    def _note(self, transactions: Transactions, run: ReplayRun, state: str) -> ReplayRun:
        run = replace(run, state=state, updated_at=self._now())
        self._commit(transactions, run, [])
        return run

    def _await_lanes(self, transactions: Transactions, run: ReplayRun, progress: Progress) -> ReplayRun:
        """Wait until each lane in turn has taken up all that lies before it."""
        for flow in lanes(run.stage):
            while self._lanes.left(flow, run.run_id):
                progress(run, self._lanes.waiting)
                run = self._alive(transactions, self._obey_cancel(transactions, run))
                if run.state == CANCELLED:
                    return run
                time.sleep(LOOK_S)
        run = self._note(transactions, run, DONE)
        progress(run, 0)
        return run

    def _obey_cancel(self, transactions: Transactions, run: ReplayRun) -> ReplayRun:
        order = self._book.newest(Scope.RUN, run.run_id)
        return self._note(transactions, run, CANCELLED) if order is not None and order.action == Action.CANCEL else run

    def _taken_up(self, run_id: str) -> tuple[Transactions, ReplayRun]:
        """Return the run's newest state with what writes the next one."""
        begun, self._begun = self._begun, None  # good for one time only: from then on the topic knows more
        if begun is not None and begun[1].run_id == run_id:
            return begun
        transactions = self._opened(run_id)  # ends what a predecessor left open, so the state read next is the last
        return transactions, read_run(self._kafka, self._codec, run_id)

    def _opened(self, run_id: str) -> Transactions:
        """Fence whoever else carries the run out, and end what they left open."""
        return Transactions(self._kafka, f"headrace-replay-{run_id}")

    def _reader(self) -> dict[str, str | int | bool]:
        return {
            **self._kafka.client(),
            "group.id": f"{self._kafka.topic_prefix}headrace-replay",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "queued.max.messages.kbytes": 16 * 1024,
            "fetch.message.max.bytes": self._kafka.max_message_bytes,
            "log_level": 0,
        }

    def _failed(self, raised: KafkaException, run_id: str) -> Exception:
        error = raised.args[0]
        if fenced(raised):
            return RefusedReplay(f"another command took the replay {run_id} over", remedy="Let that one go on.")
        if error.code() == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001
            return RefusedReplay(
                f"records of the replay {run_id} aged out before they were read: {error.str()}",
                remedy="Cancel it, and start one from what is left, or from an earlier stage: documents and "
                "chunks keep the newest version of every document.",
            )
        return DependencyDown(
            "kafka", f"{error.str()}; what was sent stays, and is noted",
            remedy=f"Run `headrace replay resume {run_id}` when Kafka answers: nothing is sent twice.",
        )  # fmt: skip


def _unfinished(run: ReplayRun) -> list[ReplayPosition]:
    return [at for at in run.positions if at.next < at.end]
