"""The broker contract, implemented on Kafka with confluent-kafka.

``docs/adr/0001-kafka-client.md`` explains the choice of this client and each of its settings. This module calls Kafka;
:class:`headrace.kafka.partition_book.PartitionBook` keeps what the worker knows about its partitions.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NoReturn

import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer
from confluent_kafka import Message as KafkaMessage
from confluent_kafka import TopicPartition as KafkaPartition

from headrace.config import failpoints
from headrace.config.settings import KafkaSettings, WorkerSettings
from headrace.errors import InvalidRecord
from headrace.kafka import headers
from headrace.kafka.broker_contract import (
    Broker,
    BrokerUnavailable,
    Mark,
    Message,
    Polled,
    Record,
    TopicPartition,
    TransactionAborted,
    TransactionUncertain,
)
from headrace.kafka.client_answers import FENCED, fenced, generation_of, record_of, refusal, retrying
from headrace.kafka.client_config import consumer_config, library_log, producer_config
from headrace.kafka.partition_book import Committed, PartitionBook

log = structlog.get_logger(__name__)

_CALL_S = 15.0
"""Maximum seconds of one transactional call; the result of a longer commit is unknown."""


class KafkaBroker(Broker):
    """A consumer that reads only committed records, and a transactional producer with a stable ID."""

    def __init__(self, kafka: KafkaSettings, worker: WorkerSettings, *, group: str, transactional_id: str) -> None:
        self._kafka = kafka
        self._worker = worker
        self._transactional_id = transactional_id
        self._consumer = Consumer(consumer_config(kafka, worker, group, transactional_id), logger=library_log())
        self._producer: Producer | None = None
        self._book = PartitionBook()
        self._closing = False

    def subscribe(self, topics: Sequence[str]) -> None:
        """Fence any predecessor with the same transactional ID, then join the group."""
        deadline = time.monotonic() + 120
        while self._producer is None:
            try:
                self.renew_producer()
            except BrokerUnavailable as error:
                log.warning("kafka does not answer", error=str(error))
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)
        self._consumer.subscribe(
            list(topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke
        )

    def poll(self, max_records: int, timeout: float) -> Polled:
        """Wait for the first record, then add the records that are already fetched."""
        if self._book.unsettled:
            self.rewind()
        records: list[Record] = []
        for message in self._fetched(max_records, timeout):
            error = message.error()
            if error is None:
                records.append(record_of(message))
            elif error.code() == KafkaError._BAD_COMPRESSION:  # noqa: SLF001
                records += self._step_over(error, message, records)
            elif (refused := refusal(error, message)) is not None:
                self._book.put_off(refused)
        return self._book.outcome(records)

    def snapshot(self) -> Any:
        """Return the group's current metadata, or None without a membership.

        A transaction without the metadata of a membership would not be fenced: the coordinator treats it as one of a
        client that does not support memberships (KIP-447's compatibility with version 0 of TxnOffsetCommit).
        """
        metadata = self._consumer.consumer_group_metadata()
        return None if generation_of(metadata) < 0 else metadata

    def pause_fetching(self) -> None:
        """Pause every assigned partition."""
        self._book.paused = True
        if self._book.assigned:
            self._consumer.pause([KafkaPartition(*place) for place in self._book.assigned])

    def resume_fetching(self) -> None:
        """Resume every assigned partition."""
        self._book.paused = False
        if self._book.assigned:
            self._consumer.resume([KafkaPartition(*place) for place in self._book.assigned])

    def rewind(self) -> None:
        """Seek to the committed offsets; ask Kafka only for those that the book does not know for certain."""
        back = self._book.go_back()
        try:
            answers = self._ask_committed(back.to_ask) if back.to_ask else []
            for place, offset in back.known.items():
                self._consumer.seek(KafkaPartition(*place, OFFSET_BEGINNING if offset is None else offset))
            for position in answers:
                self._consumer.seek(position)
        except KafkaException as error:
            raise BrokerUnavailable(f"cannot seek to the committed offsets: {error}") from error
        unsettled = self._book.unsettled
        self._book.went_back(_committed_in(answers))
        if unsettled and not self._book.paused:
            self.resume_fetching()

    def commit(self, messages: Sequence[Message], offsets: Mapping[TopicPartition, int], snapshot: Any) -> None:
        """One transaction: messages, offsets, commit."""
        producer = self._producer
        assert producer is not None
        for message in messages:
            if not message.key:
                raise InvalidRecord("key", f"is empty in a record for {message.topic}")
        if snapshot is None:
            raise TransactionAborted("the worker was not a member of the consumer group when the batch was read")
        try:
            producer.begin_transaction()
            failpoints.reach("commit.begun")
            for message in messages:
                self._produce(producer, message)
            failpoints.reach("commit.produced")
            # Offsets without metadata: this removes the mark.
            positions = [KafkaPartition(place.topic, place.partition, offset) for place, offset in offsets.items()]
            producer.send_offsets_to_transaction(positions, snapshot, _CALL_S)
            failpoints.reach("commit.offsets")
            retrying(lambda: producer.commit_transaction(_CALL_S), 2 * _CALL_S)
            failpoints.reach("commit.committed")
        except KafkaException as error:
            self._raise_for(producer, error)
        self._book.committed(offsets)

    def mark(self, marks: Mapping[TopicPartition, Mark]) -> None:
        """Commit the already committed offsets again, with the marks as metadata; fenced by membership."""
        offsets = self._book.offsets_to_mark(marks)
        self._annotate(offsets, {place: marks[place].text() for place in offsets})
        self._book.marked({place: marks[place] for place in offsets})

    def _annotate(self, offsets: Mapping[TopicPartition, int], texts: Mapping[TopicPartition, str]) -> None:
        """Commit the offsets again, each with its text as metadata."""
        if not offsets:
            return
        try:
            self._consumer.commit(
                offsets=[KafkaPartition(*place, offset, texts[place]) for place, offset in offsets.items()],
                asynchronous=False,
            )
        except KafkaException as error:
            raise BrokerUnavailable(f"cannot mark the committed offsets: {error}") from error

    def _unmark(self, places: Collection[TopicPartition]) -> None:
        """Remove this worker's own marks, because it gives up the partitions without a crash."""
        offsets = self._book.take_marks(places)
        try:
            self._annotate(offsets, dict.fromkeys(offsets, ""))
        except BrokerUnavailable as error:
            log.info("mark not removed; it counts as an unfinished attempt", error=str(error))

    def renew_producer(self) -> None:
        """Close the producer, start another with the same ID and wait until it has fenced its predecessor."""
        if self._producer is not None:
            self._producer.purge()
            self._producer = None
        producer = Producer(producer_config(self._kafka, self._worker, self._transactional_id), logger=library_log())
        try:
            retrying(lambda: producer.init_transactions(_CALL_S), 2 * _CALL_S)
            failpoints.reach("producer.renewed")
        except KafkaException as error:
            raise BrokerUnavailable(f"cannot start the producer: {error}") from error
        self._producer = producer

    def close(self) -> None:
        """Leave the group; an open transaction of the producer was already aborted."""
        self._closing = True
        self._unmark(self._book.assigned)
        self._consumer.close()
        self._producer = None

    def _produce(self, producer: Producer, message: Message) -> None:
        while True:
            try:
                producer.produce(message.topic, message.value, message.key, headers=list(message.headers))
                return
            except BufferError:
                producer.poll(0.1)

    def _raise_for(self, producer: Producer, raised: KafkaException) -> NoReturn:
        """Raise the error for a failed transaction; unless it was aborted, the group's offsets may have moved."""
        error: KafkaError = raised.args[0]
        if not error.txn_requires_abort():
            self._book.uncertain()
            if error.code() in FENCED:
                raise fenced(error, self._transactional_id) from raised
            raise TransactionUncertain(
                f"it is unknown whether the transaction was committed: {error.str()}"
            ) from raised
        try:
            retrying(lambda: producer.abort_transaction(_CALL_S), 2 * _CALL_S)
        except KafkaException as second:
            self._book.uncertain()
            if second.args[0].code() in FENCED:
                raise fenced(second.args[0], self._transactional_id) from raised
            raise TransactionUncertain(f"the transaction could not be aborted: {second}") from raised
        raise TransactionAborted(f"the transaction was aborted: {error.str()}") from raised

    def _ask_committed(self, places: Sequence[TopicPartition]) -> list[KafkaPartition]:
        """Return where to continue: the stable committed offset, or the beginning of a partition without one."""
        positions = self._consumer.committed([KafkaPartition(*place) for place in places], _CALL_S)
        for position in positions:
            if position.error is not None:
                raise KafkaException(position.error)
            if position.offset < 0:
                position.offset = OFFSET_BEGINNING
        return list(positions)

    def _on_assign(self, consumer: Consumer, partitions: list[KafkaPartition]) -> None:
        places = [TopicPartition(partition.topic, partition.partition) for partition in partitions]
        if not places or self._closing:
            self._book.come(())
            return
        failpoints.reach("rebalance.assigned")
        self._book.come(places)
        try:
            positions = retrying(lambda: self._ask_committed(places), 2 * _CALL_S)
            consumer.incremental_assign(positions)
            self._book.placed(_committed_in(positions))
        except KafkaException as error:
            log.warning("cannot read committed offsets", error=str(error))
            consumer.incremental_assign([KafkaPartition(*place, OFFSET_BEGINNING) for place in places])
        if all(self._book.fetches(place) for place in places):
            # librdkafka keeps a pause across a revocation: a partition revoked while paused is paused when it returns.
            consumer.resume(partitions)
        else:
            consumer.pause(partitions)

    def _on_revoke(self, consumer: Consumer, partitions: list[KafkaPartition]) -> None:
        failpoints.reach("rebalance.revoked")
        places = {TopicPartition(partition.topic, partition.partition) for partition in partitions}
        if not self._closing:
            self._unmark(places)
        self._book.leave(places)
        if partitions:
            consumer.incremental_unassign(partitions)

    def _step_over(self, error: KafkaError, message: KafkaMessage, found: Sequence[Record]) -> list[Record]:
        """Skip a record that cannot be decompressed, and return a replacement that says so.

        The client would fetch forever a few kilobytes that decompress to more than its limit, and they would block the
        records of all other partitions. The error names the first offset of the batch, not the requested one.
        """
        place = TopicPartition(message.topic() or "", message.partition() or 0)
        if any(headers.unreadable(record) and record.place == place for record in found):
            return []  # the same error again, from before the last skip
        offset = self._book.next_unreadable(place, message.offset() or 0)
        if offset is None:
            return []  # a rebalance in this poll revoked the partition
        try:
            self._consumer.seek(KafkaPartition(*place, offset + 1))
        except KafkaException:
            return []  # its fetching is just starting: the error will come again
        self._book.stepped_over(place, offset)
        return [Record(*place, offset, None, None, ((headers.UNREADABLE, error.str().encode()),), 0)]

    def _fetched(self, max_records: int, timeout: float) -> list[KafkaMessage]:
        messages: list[KafkaMessage] = []
        try:
            first = self._consumer.poll(timeout)
            if first is not None:
                messages.append(first)
                if max_records > 1:
                    messages += self._consumer.consume(max_records - 1, 0)
        except KafkaException as error:
            self._book.put_off(BrokerUnavailable(f"cannot read from Kafka: {error}"))
        return messages


def _committed_in(positions: Iterable[KafkaPartition]) -> dict[TopicPartition, Committed]:
    """Return the committed offsets and marks in the client's positions."""
    return {
        TopicPartition(at.topic, at.partition): Committed(None if at.offset < 0 else at.offset, Mark.of(at.metadata))
        for at in positions
    }
