"""Carries out a replay: copies records of the source topic to the stage's replay topic.

Each batch and the replay's new state are one Kafka transaction, so an interrupted replay continues where it stopped: it
sends no record twice and skips none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from confluent_kafka import KafkaException

from headrace.codec.codec import Codec
from headrace.config.settings import KafkaSettings
from headrace.errors import DependencyDown
from headrace.kafka import headers
from headrace.kafka.broker_contract import OffsetsLost, Record, TopicPartition
from headrace.kafka.constants import NO_KEY
from headrace.kafka.ranges import RangeReader
from headrace.orders.control import Action, OrderBook, Scope, follow
from headrace.payloads import ReplayPosition, ReplayRun
from headrace.topology.topics import replay_topic
from headrace_operations.replay.lanes import LOOK_S, SideLanes, lanes
from headrace_operations.replay.runs import CANCELLED, DONE, OPEN, PAUSED, RUNNING, SENT, TOPIC, read_run, spans
from headrace_operations.replay.selection import RefusedReplay, wanted
from headrace_operations.transactions import TooLarge, Transactions, fenced, naming

_BATCH = 500
_SAVE_S = 2.0
"""How often a replay writes its state while it sends nothing, to show that it is alive and to notice a takeover."""
Progress = Callable[[ReplayRun, int], None]
"""Called with the replay's state and the number of records waiting in the side lanes."""


class Copier:
    """Carries out a replay through the lanes of ``kafka``'s generation; a second copier fences the first.

    Every method raises :class:`DependencyDown` if Kafka does not answer, and :class:`RefusedReplay` if another copier
    took over the replay.
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
        """The state that :meth:`begin` opened, so that carrying out the same replay need not open and read it again."""

    def begin(self, run: ReplayRun) -> None:
        """Record that the replay has begun, so that it can be resumed by its ID."""
        try:
            transactions = self._opened(run.run_id)
            self._commit(transactions, run, [])
        except KafkaException as error:
            if fenced(error):
                raise self._failed(error, run.run_id) from error
            raise DependencyDown(
                "kafka", f"cannot record the replay {run.run_id}: {error.args[0].str()}",
                remedy="When Kafka answers, look for it with `headrace replay list`: resume it if it is there, or "
                "start it again if it is not.",
            ) from error  # fmt: skip
        self._begun = (transactions, run)

    def cancel(self, run_id: str) -> ReplayRun:
        """Take the replay over from the command that carries it out, end it, and return its last state."""
        try:
            transactions = self._opened(run_id)
            run = read_run(self._kafka, self._codec, run_id)
            return self._note(transactions, run, CANCELLED) if run.state in OPEN else run
        except KafkaException as error:
            raise self._failed(error, run_id) from error

    def carry_out(self, run_id: str, progress: Progress = lambda _run, _waiting: None) -> ReplayRun:
        """Send the remaining records, wait until the lanes have processed them, and return the replay's last state."""
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
        except TooLarge as error:
            raise RefusedReplay(
                f"the replay {run_id} stopped before a record that is too large: {error.message}", where=error.where,
                remedy=f"{error.remedy} Then run `headrace replay resume {run_id}`. Or cancel the replay, and start "
                "another one after the record with --from-offset.",
            ) from error  # fmt: skip
        except OffsetsLost as error:
            raise RefusedReplay(
                f"records of the replay {run_id} expired before they were read: {error.message}",
                remedy="Cancel it, then start a new replay from the remaining records or from an earlier stage: the "
                "topics documents and chunks keep the newest version of every document.",
            ) from error
        except DependencyDown as error:
            if error.dependency != "kafka":
                raise
            raise _interrupted(error.message, run_id) from error
        finally:
            follower.close()

    def _send(self, transactions: Transactions, run: ReplayRun, progress: Progress) -> ReplayRun:
        due = time.monotonic()
        with RangeReader(self._kafka, "replay", lost="error") as reader:
            reader.open(spans(run))
            while reader.unread:
                run = self._alive(transactions, self._obey(transactions, run))
                progress(run, self._lanes.waiting)
                if run.state == CANCELLED:
                    return run
                if run.state == PAUSED or self._lanes.full(run.stage) or time.monotonic() < due:
                    time.sleep(LOOK_S if run.state == PAUSED else 0.05)
                    continue
                found, read = self._read(reader, run)
                moved = replace(read, sent=run.sent + len(found), updated_at=self._now())
                if found:
                    self._commit(transactions, moved, found)
                if run.records_per_second:
                    due = max(due, time.monotonic()) + len(found) / run.records_per_second
                self._lanes.waiting += len(found)
                run = moved
            return self._note(transactions, run, SENT)

    def _read(self, reader: RangeReader, run: ReplayRun) -> tuple[list[Record], ReplayRun]:
        """Read one batch; return the selected records, and the replay with its new positions."""
        most = min(_BATCH, run.records_per_second or _BATCH, max(1, self._lanes.room))
        found = [one for one in reader.next(most, 0.2) if wanted(run.tenant, run.document_id, one.key)]
        return found, replace(run, positions=tuple(_moved(reader, run.source, at) for at in run.positions))

    def _commit(self, transactions: Transactions, run: ReplayRun, found: Sequence[Record]) -> None:
        """Write the batch and the replay's state in one transaction."""
        with transactions.one() as produce:
            for record in found:
                first = headers.Origin(self._kafka.topic(record.topic), record.partition, record.offset)
                said = list(headers.for_replay(record.headers, first, run.run_id))
                with naming(f"{record.topic}/{record.partition}/{record.offset}"):
                    produce(replay_topic(run.stage), value=record.value, key=record.key or NO_KEY, headers=said)
            produce(TOPIC, value=self._codec.encode_plain(run), key=run.run_id.encode())
        self._saved = time.monotonic()

    def _obey(self, transactions: Transactions, run: ReplayRun) -> ReplayRun:
        """Obey the newest order for the replay."""
        order = self._book.newest(Scope.RUN, run.run_id)
        asked = {Action.PAUSE: PAUSED, Action.RESUME: RUNNING, Action.CANCEL: CANCELLED}
        state = run.state if order is None else asked[Action(order.action)]
        return run if state == run.state else self._note(transactions, run, state)

    def _alive(self, transactions: Transactions, run: ReplayRun) -> ReplayRun:
        """Record the unchanged state if it was not recorded for a while; an error here reveals a takeover."""
        return self._note(transactions, run, run.state) if time.monotonic() - self._saved > _SAVE_S else run

    def _note(self, transactions: Transactions, run: ReplayRun, state: str) -> ReplayRun:
        run = replace(run, state=state, updated_at=self._now())
        self._commit(transactions, run, [])
        return run

    def _await_lanes(self, transactions: Transactions, run: ReplayRun, progress: Progress) -> ReplayRun:
        """Wait until each lane in turn has processed all records of the replay."""
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
        """Return the replay's newest state, and the transactions to write the next one."""
        begun, self._begun = self._begun, None  # valid only once: after that, the topic has a newer state
        if begun is not None and begun[1].run_id == run_id:
            return begun
        # This ends an open transaction of a predecessor, so the state read next is the last one.
        transactions = self._opened(run_id)
        return transactions, read_run(self._kafka, self._codec, run_id)

    def _opened(self, run_id: str) -> Transactions:
        """Fence other copiers of the replay, and end their open transactions."""
        return Transactions(self._kafka, f"headrace-replay-{run_id}")

    def _failed(self, raised: KafkaException, run_id: str) -> Exception:
        error = raised.args[0]
        if fenced(raised):
            return RefusedReplay(f"another command took over the replay {run_id}", remedy="Let that command finish.")
        return _interrupted(error.str(), run_id)


def _interrupted(why: str, run_id: str) -> DependencyDown:
    return DependencyDown(
        "kafka", f"{why}; records sent so far are committed",
        remedy=f"Run `headrace replay resume {run_id}` when Kafka answers: no record is sent twice.",
    )  # fmt: skip


def _moved(reader: RangeReader, source: str, at: ReplayPosition) -> ReplayPosition:
    """Return how far the reader is in the partition."""
    following = reader.at(TopicPartition(source, at.partition))
    return replace(at, next=max(at.next, at.end if following is None else following))
