"""The broker contract on Kafka, by confluent-kafka.

Why this client, and each setting here: ``docs/adr/0001-kafka-client.md``.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import structlog
from confluent_kafka import (
    OFFSET_BEGINNING,
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
)
from confluent_kafka import (
    Message as KafkaMessage,
)
from confluent_kafka import TopicPartition as KafkaPartition

from headrace.config import failpoints
from headrace.config.settings import KafkaSettings, WorkerSettings
from headrace.errors import ConfigurationError, InvalidRecord
from headrace.kafka import headers
from headrace.kafka.broker_contract import (
    Broker,
    BrokerError,
    BrokerUnavailable,
    Headers,
    Mark,
    Message,
    OffsetsLost,
    Polled,
    ProducerFenced,
    Record,
    TopicPartition,
    TransactionAborted,
    TransactionUncertain,
)

log = structlog.get_logger(__name__)

_CALL_S = 15.0
"""Bound of one transactional call; a commit that takes longer is uncertain."""
_FENCED = {KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH}  # noqa: SLF001
_LOST = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}  # noqa: SLF001


class KafkaBroker(Broker):
    """A consumer that reads committed records only, and a transactional producer with a stable id."""

    def __init__(self, kafka: KafkaSettings, worker: WorkerSettings, *, group: str, transactional_id: str) -> None:
        self._kafka = kafka
        self._worker = worker
        self._transactional_id = transactional_id
        self._consumer = Consumer(consumer_config(kafka, worker, group, transactional_id), logger=_library_log())
        self._producer: Producer | None = None
        self._assigned: set[TopicPartition] = set()
        self._paused = False
        self._closing = False
        self._rebalanced = False
        self._deferred: BrokerError | None = None
        """Raised by the poll after the one that met it, since that one had records to deliver."""
        self._unsettled = False
        """Partitions were assigned whose committed offsets could not be read; they are paused until they can."""
        self._unread: set[TopicPartition] = set()
        """Partitions that stand where their assignment put them: at the committed offset."""
        self._certain = True
        """Whether every transaction's end is known, so that :attr:`_committed` is what the group has."""
        self._committed: dict[TopicPartition, int] = {}
        self._stepped: dict[TopicPartition, int] = {}
        """The offset after the last record that :meth:`_step_over` put in place of one that cannot be unpacked."""
        self._found_marks: dict[TopicPartition, Mark] = {}
        """Marks of partitions that came to this worker since the last poll told of them."""
        self._marked: dict[TopicPartition, Mark] = {}
        """Marks that this worker made and no commit has taken away."""

    def subscribe(self, topics: Sequence[str]) -> None:
        """Fence any predecessor with our transactional id, then join the group."""
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
        """Wait for the first record, then take along what has been fetched already."""
        self._settle()
        messages = self._fetched(max_records, timeout)
        rebalanced, self._rebalanced = self._rebalanced, False
        records = []
        for message in messages:
            error = message.error()
            if error is None:
                records.append(_record(message))
            elif error.code() == KafkaError._BAD_COMPRESSION:  # noqa: SLF001
                records += self._step_over(error, message, records)
            else:
                self._deferred = self._deferred or _refusal(error, message)
        if self._unread:
            self._unread.difference_update(record.place for record in records)
        deferred = self._deferred
        if rebalanced:
            self._deferred = deferred if isinstance(deferred, OffsetsLost) else None
            marks, self._found_marks = self._found_marks, {}
            return Polled((), True, frozenset(self._assigned), marks)
        if deferred is not None and not records:
            self._deferred = None
            raise deferred
        return Polled(records, False, frozenset(self._assigned))

    def snapshot(self) -> Any:
        """Return the group's metadata as of now, or None without a membership.

        A transaction with the metadata of no membership would not be fenced at all: the coordinator takes it for
        one of a client that knows no memberships (KIP-447's compatibility with version 0 of TxnOffsetCommit).
        """
        metadata = self._consumer.consumer_group_metadata()
        return None if _generation(metadata) < 0 else metadata

    def pause_fetching(self) -> None:
        """Pause every assigned partition."""
        self._paused = True
        if self._assigned:
            self._consumer.pause([KafkaPartition(*place) for place in self._assigned])

    def resume_fetching(self) -> None:
        """Resume every assigned partition."""
        self._paused = False
        if self._assigned:
            self._consumer.resume([KafkaPartition(*place) for place in self._assigned])

    def rewind(self) -> None:
        """Seek to the committed offsets, fetched anew only where an uncertain transaction may have moved them.

        A fetch would wait for a rebalance under way, and nobody else commits for partitions that are ours.
        A partition cannot be sought on while its fetching starts, and one from which nothing was read need not be.
        """
        places = [place for place in self._assigned if place not in self._unread]
        self._stepped.clear()
        try:
            if self._certain and not self._unsettled:
                positions = [KafkaPartition(*p, self._committed.get(p, OFFSET_BEGINNING)) for p in places]
            else:
                positions = self._positions(places) if places else []
            for partition in positions:
                self._consumer.seek(partition)
            self._certain = True
        except KafkaException as error:
            raise BrokerUnavailable(f"cannot go back to the committed offsets: {error}") from error
        if self._unsettled:
            self._unsettled = False
            if not self._paused:
                self.resume_fetching()

    def commit(self, messages: Sequence[Message], offsets: Mapping[TopicPartition, int], snapshot: Any) -> None:
        """One transaction: messages, offsets, commit."""
        producer = self._producer
        assert producer is not None
        for message in messages:
            if not message.key:
                raise InvalidRecord("key", f"is empty in a message to {message.topic}")
        if snapshot is None:
            raise TransactionAborted("the batch was sealed without a membership in the group")
        try:
            producer.begin_transaction()
            failpoints.reach("commit.begun")
            for message in messages:
                self._produce(producer, message)
            failpoints.reach("commit.produced")
            positions = [KafkaPartition(place.topic, place.partition, offset) for place, offset in offsets.items()]
            producer.send_offsets_to_transaction(positions, snapshot, _CALL_S)
            failpoints.reach("commit.offsets")
            _retrying(lambda: producer.commit_transaction(_CALL_S))
            failpoints.reach("commit.committed")
        except KafkaException as error:
            self._failed(producer, error)
        self._committed.update(offsets)
        for place in offsets:
            self._marked.pop(place, None)

    def mark(self, marks: Mapping[TopicPartition, Mark]) -> None:
        """Commit the offsets that are committed already, with the marks as their metadata; fenced by membership."""
        self._annotate({place: mark.text() for place, mark in marks.items()}, marks)
        self._marked.update(marks)

    def _annotate(self, texts: Mapping[TopicPartition, str], marks: Mapping[TopicPartition, Mark]) -> None:
        positions = [
            KafkaPartition(*place, self._committed.get(place, marks[place].offset), text)
            for place, text in texts.items()
        ]
        try:
            self._consumer.commit(offsets=positions, asynchronous=False)
        except KafkaException as error:
            raise BrokerUnavailable(f"marks cannot be written: {error}") from error

    def _unmark(self, places: Collection[TopicPartition]) -> None:
        """Take this worker's own marks away, for it gives the partitions up alive."""
        own = {place: self._marked.pop(place) for place in places if place in self._marked}
        if not own:
            return
        try:
            self._annotate(dict.fromkeys(own, ""), own)
        except BrokerUnavailable as error:
            log.info("a mark stays and counts as an unfinished beginning", error=str(error))

    def renew_producer(self) -> None:
        """Close the producer, start another with the same id and wait until it fenced its predecessor."""
        if self._producer is not None:
            self._producer.purge()
            self._producer = None
        producer = Producer(producer_config(self._kafka, self._worker, self._transactional_id), logger=_library_log())
        try:
            _retrying(lambda: producer.init_transactions(_CALL_S))
            failpoints.reach("producer.renewed")
        except KafkaException as error:
            raise BrokerUnavailable(f"the producer cannot start: {error}") from error
        self._producer = producer

    def close(self) -> None:
        """Leave the group; the producer's open transaction, if any, was aborted before."""
        self._closing = True
        self._unmark(set(self._marked))
        self._consumer.close()
        self._producer = None

    def _produce(self, producer: Producer, message: Message) -> None:
        while True:
            try:
                producer.produce(message.topic, message.value, message.key, headers=list(message.headers))
                return
            except BufferError:
                producer.poll(0.1)

    def _failed(self, producer: Producer, raised: KafkaException) -> None:
        error: KafkaError = raised.args[0]
        if error.code() in _FENCED and not error.txn_requires_abort():
            raise _fenced(error, self._transactional_id) from raised
        if not error.txn_requires_abort():
            self._certain = False
            raise TransactionUncertain(f"the transaction's end is unknown: {error.str()}") from raised
        try:
            _retrying(lambda: producer.abort_transaction(_CALL_S))
        except KafkaException as second:
            if second.args[0].code() in _FENCED:
                raise _fenced(second.args[0], self._transactional_id) from raised
            self._certain = False
            raise TransactionUncertain(f"the transaction could not be aborted: {second}") from raised
        raise TransactionAborted(f"the transaction was refused: {error.str()}") from raised

    def _positions(self, places: list[TopicPartition]) -> list[KafkaPartition]:
        """Return where to read on: the stable committed offset, or the beginning where there is none."""
        committed = self._consumer.committed([KafkaPartition(*place) for place in places], _CALL_S)
        for partition in committed:
            if partition.error is not None:
                raise KafkaException(partition.error)
            place = TopicPartition(partition.topic, partition.partition)
            if partition.offset < 0:
                partition.offset = OFFSET_BEGINNING
                self._committed.pop(place, None)
            else:
                self._committed[place] = partition.offset
        return list(committed)

    def _on_assign(self, consumer: Consumer, partitions: list[KafkaPartition]) -> None:
        self._rebalanced = True
        places = [TopicPartition(partition.topic, partition.partition) for partition in partitions]
        if not places or self._closing:
            return
        failpoints.reach("rebalance.assigned")
        self._assigned.update(places)
        try:
            positions = _retrying(lambda: self._positions(places))
            consumer.incremental_assign(positions)
            self._unread.update(places)
            found = ((TopicPartition(at.topic, at.partition), Mark.of(at.metadata)) for at in positions)
            self._found_marks.update({place: mark for place, mark in found if mark is not None})
        except KafkaException as error:
            log.warning("committed offsets cannot be read", error=str(error))
            self._unsettled = True
            consumer.incremental_assign([KafkaPartition(*place, OFFSET_BEGINNING) for place in places])
        if self._paused or self._unsettled:
            consumer.pause(partitions)
        else:
            # librdkafka remembers a pause beyond the revocation: one that left while it was paused comes back so.
            consumer.resume(partitions)

    def _on_revoke(self, consumer: Consumer, partitions: list[KafkaPartition]) -> None:
        failpoints.reach("rebalance.revoked")
        self._rebalanced = True
        places = {TopicPartition(partition.topic, partition.partition) for partition in partitions}
        if not self._closing:
            self._unmark(places)
        self._assigned -= places
        self._unread -= places
        for place in places:
            self._stepped.pop(place, None)
        if partitions:
            consumer.incremental_unassign(partitions)

    def _step_over(self, error: KafkaError, message: KafkaMessage, found: Sequence[Record]) -> list[Record]:
        """Read on behind a record that cannot be unpacked, and return one in its place that says so.

        A few kilobytes that unpack to more than the client takes would be fetched for ever, and keep the records of
        all other partitions behind them. The error names the first offset of the whole batch, whatever was asked for.
        """
        place = TopicPartition(message.topic() or "", message.partition() or 0)
        if any(headers.unreadable(record) and record.place == place for record in found):
            return []  # the same error once more, from before the last step
        offset = max(message.offset() or 0, self._committed.get(place, 0), self._stepped.get(place, 0))
        try:
            self._consumer.seek(KafkaPartition(*place, offset + 1))
        except KafkaException:
            return []  # its fetching starts just now: the error comes again
        self._stepped[place] = offset + 1
        return [Record(*place, offset, None, None, ((headers.UNREADABLE, error.str().encode()),), 0)]

    def _settle(self) -> None:
        """Seek to the committed offsets that could not be read when their partitions were assigned."""
        if self._unsettled:
            self.rewind()

    def _fetched(self, max_records: int, timeout: float) -> list[KafkaMessage]:
        messages: list[KafkaMessage] = []
        try:
            first = self._consumer.poll(timeout)
            if first is not None:
                messages.append(first)
                if max_records > 1:
                    messages += self._consumer.consume(max_records - 1, 0)
        except KafkaException as error:
            self._deferred = BrokerUnavailable(f"reading failed: {error}")
        return messages


def _fenced(error: KafkaError, transactional_id: str) -> ProducerFenced:
    return ProducerFenced(f"the producer was fenced: {error.str()}", where=transactional_id)


def _refusal(error: KafkaError, message: KafkaMessage) -> BrokerError | None:
    """Return what to raise for an error that came instead of a record, or None where it passes by itself."""
    if error.code() in _LOST:
        place = f"{message.topic()}[{message.partition()}]"
        return OffsetsLost(
            f"the committed offset {message.offset()} of {place} lies outside the log: {error.str()}",
            where=place,
        )
    if error.code() in {KafkaError.FENCED_INSTANCE_ID, KafkaError._FENCED}:  # noqa: SLF001
        return ProducerFenced(f"another worker took this one's place in the group: {error.str()}")
    if error.code() == KafkaError._MAX_POLL_EXCEEDED or error.retriable():  # noqa: SLF001
        log.warning("kafka reports", error=error.str())
        return None
    return BrokerUnavailable(f"reading failed: {error.str()}")


def _generation(metadata: bytes) -> int:
    """Return the generation in librdkafka's serialised group metadata; -1 is no membership.

    Source: ``rd_kafka_consumer_group_metadata_write`` (magic ``CGMDv2:``, then a 32-bit integer in native order).
    """
    magic = b"CGMDv2:"
    if not metadata.startswith(magic):
        raise ConfigurationError(
            f"librdkafka's group metadata has an unknown form: {metadata[:8]!r}",
            remedy="Install the version of confluent-kafka that the lock names.",
        )
    generation: int = struct.unpack_from("=i", metadata, len(magic))[0]
    return generation


def _retrying(call: Any) -> Any:
    """Call again while the client says that the same call may be repeated, up to a bound."""
    deadline = time.monotonic() + 2 * _CALL_S
    while True:
        try:
            return call()
        except KafkaException as error:
            if not error.args[0].retriable() or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _record(message: Any) -> Record:
    return Record(
        message.topic(), message.partition(), message.offset(), message.key(), message.value(),
        header_pairs(message), _timestamp(message),
    )  # fmt: skip


def header_pairs(message: Any) -> Headers:
    """Return the record's headers; where a name is not UTF-8, which the client cannot read, one that says so."""
    try:
        return tuple(message.headers() or ())
    except (SystemError, UnicodeDecodeError):
        return ((headers.UNREADABLE, b"the name of a header is not UTF-8"),)


def _timestamp(message: KafkaMessage) -> int:
    kind, milliseconds = message.timestamp()
    return 0 if kind == TIMESTAMP_NOT_AVAILABLE else int(milliseconds)


def consumer_config(kafka: KafkaSettings, worker: WorkerSettings, group: str, client: str) -> dict[str, Any]:
    """Return the settings of a stage's consumer."""
    return {
        **kafka.client(),
        **({"group.instance.id": client} if worker.static_membership else {}),
        "client.id": client,
        "group.id": group,
        "group.protocol": "classic",
        "partition.assignment.strategy": "cooperative-sticky",
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "session.timeout.ms": worker.session_timeout_ms,
        "heartbeat.interval.ms": min(500, worker.session_timeout_ms // 3),  # how fast a rebalance is heard of
        "max.poll.interval.ms": 300_000,
        "fetch.wait.max.ms": 500,
        "fetch.error.backoff.ms": 50,
        "fetch.message.max.bytes": kafka.max_message_bytes,
        "queued.max.messages.kbytes": 16 * 1024,
        "statistics.interval.ms": 0,
    }


def producer_config(kafka: KafkaSettings, worker: WorkerSettings, transactional_id: str) -> dict[str, Any]:
    """Return the settings of a stage's producer."""
    return {
        **kafka.client(),
        "client.id": transactional_id,
        "transactional.id": transactional_id,
        "transaction.timeout.ms": worker.transaction_timeout_ms,
        "partitioner": "murmur2_random",
        "compression.type": "zstd",
        "linger.ms": 1,
        "message.max.bytes": kafka.max_message_bytes + 1024 * 1024,
        "queue.buffering.max.kbytes": 256 * 1024,
    }


def _library_log() -> Any:
    import logging  # noqa: PLC0415

    return logging.getLogger("headrace.librdkafka")
