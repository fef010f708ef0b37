"""Writes records and the actions on them in one transaction, by one writer at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException, Producer

from headrace.config.settings import KafkaSettings
from headrace.errors import DependencyDown, HeadraceError
from headrace.kafka.client_answers import FENCED, retrying
from headrace.topology.topics import CARRIER_ALLOWANCE_BYTES

_CALL_S = 15.0
_TRANSACTION_MS = 60_000
_BATCH_RECORDS = 500
_BATCH_BYTES = 16 * 1024 * 1024
_REMEDY = "Run the command again when the system answers: nothing is done twice."
Item = TypeVar("Item")
Produce = Callable[..., None]
"""Takes a topic without prefix, and the keyword arguments of :meth:`confluent_kafka.Producer.produce`."""


class TooLarge(HeadraceError):
    """A record is larger than the producer's limit, and was not sent."""

    code = "record-too-large"
    default_remedy = (
        "Set HEADRACE_KAFKA_MAX_MESSAGE_BYTES to a higher value for this command. Kafka compares the compressed size "
        "with the topic's limit, which may be lower."
    )


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Name the record in the :class:`TooLarge` that its block raises."""
    try:
        yield
    except TooLarge as error:
        error.where = where
        raise


class Transactions:
    """A producer that fences all other writers of the same name and ends their open transactions.

    Anything read after its creation therefore includes everything that an earlier writer committed. Raises
    :class:`DependencyDown` if Kafka does not start a transaction.
    """

    def __init__(self, kafka: KafkaSettings, name: str) -> None:
        self._kafka = kafka
        self._largest = kafka.max_message_bytes + CARRIER_ALLOWANCE_BYTES
        full = f"{kafka.topic_prefix}{name}"
        self._producer = Producer(
            {
                **kafka.client(),
                "client.id": full,
                "transactional.id": full,
                "transaction.timeout.ms": _TRANSACTION_MS,
                "partitioner": "murmur2_random",
                "compression.type": "zstd",
                "message.max.bytes": self._largest,
                "log_level": 0,
            }
        )
        try:
            retrying(lambda: self._producer.init_transactions(_CALL_S), 2 * _CALL_S)
        except KafkaException as error:
            raise DependencyDown("kafka", f"cannot begin a transaction: {error.args[0].str()}") from error

    @contextmanager
    def one(self) -> Iterator[Produce]:
        """Yield a function that writes to a transaction; commit it at the end, or abort it after an error.

        The transaction begins only here, because an open one blocks the readers of its topics. Raises
        :class:`KafkaException`, after which the commit's outcome may be unknown, :class:`TooLarge`, and
        :class:`DependencyDown` if a topic accepts no records.
        """
        self._producer.begin_transaction()
        try:
            yield self._produce
            retrying(lambda: self._producer.commit_transaction(_CALL_S), 2 * _CALL_S)
        except BaseException:
            with suppress(KafkaException):  # if it cannot be aborted, the next command's producer ends it
                self._producer.abort_transaction(_CALL_S)
            raise

    def _produce(self, topic: str, **message: Any) -> None:
        deadline = time.monotonic() + _CALL_S
        while True:
            try:
                self._producer.produce(self._kafka.topic(topic), **message)
                return
            except BufferError:
                if time.monotonic() > deadline:
                    raise DependencyDown("kafka", f"the topic {topic} does not accept records") from None
                self._producer.poll(0.1)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE:
                    raise
                size = len(message.get("key") or b"") + len(message.get("value") or b"")
                raise TooLarge(
                    f"a record for the topic {topic} has {size:,} bytes of key and value; with its headers, "
                    f"{self._largest:,} bytes are allowed"
                ) from error


def in_batches(
    transactions: Transactions,
    read: Callable[[Callable[[Item], None]], None],
    write: Callable[[Produce, Item], None],
    size: Callable[[Item], int],
    done: Callable[[Sequence[Item]], None],
) -> None:
    """Write the items that ``read`` passes on, in transactions of limited count and ``size`` (bytes).

    Calls ``done`` after each commit. Raises what reading, writing and :meth:`Transactions.one` raise; items that were
    passed to ``done`` before are committed.
    """
    batch: list[Item] = []
    held = 0

    def finish() -> None:
        nonlocal held
        if batch:
            with transactions.one() as produce:
                for item in batch:
                    write(produce, item)
            done(batch)
            batch.clear()
            held = 0

    def take(item: Item) -> None:
        nonlocal held
        batch.append(item)
        held += size(item)
        if len(batch) >= _BATCH_RECORDS or held >= _BATCH_BYTES:
            finish()

    read(take)
    finish()


def interrupted(
    raised: KafkaException | DependencyDown, so_far: str, acting: str, refusal: Callable[..., Exception]
) -> Exception:
    """Return an error that includes the progress; ``refusal`` creates the error for a command that was taken over.

    ``acting`` names the records that commands of this kind act on.
    """
    so_far = f"{so_far} before, and possibly the last batch"
    if isinstance(raised, DependencyDown):
        return DependencyDown(raised.dependency, f"{raised.message}; {so_far}", remedy=_REMEDY)
    if fenced(raised):
        return refusal(
            f"another command that acts on {acting} took over; {so_far}",
            remedy="Wait until it ends, then run this command again: nothing is done twice.",
        )
    return DependencyDown("kafka", f"{raised.args[0].str()}; {so_far}", remedy=_REMEDY)


def fenced(error: KafkaException) -> bool:
    """Whether another writer with the same name took over."""
    return error.args[0].code() in FENCED
