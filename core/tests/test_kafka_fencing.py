"""A producer that another one took the place of must end its worker, at whichever call it hears of it."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from headrace.config.settings import KafkaSettings, WorkerSettings
from headrace.kafka.broker import KafkaBroker
from headrace.kafka.broker_contract import ProducerFenced, TransactionAborted, TransactionUncertain

pytestmark = pytest.mark.unit

FAILED = KafkaError(KafkaError._TIMED_OUT, "20 messages timed out", txn_requires_abort=True)
FENCED = KafkaError(KafkaError._FENCED, "there is a newer producer", fatal=True)
LOST = KafkaError(KafkaError._ALL_BROKERS_DOWN, "nobody answers")


class Producer:
    """Fails to abort with what it was given, or aborts."""

    def __init__(self, error: KafkaError | None) -> None:
        self.error = error

    def abort_transaction(self, _timeout: float) -> None:
        if self.error is not None:
            raise KafkaException(self.error)


@pytest.mark.parametrize(
    ("raised", "at_abort", "expected"),
    [
        (FENCED, None, ProducerFenced),
        (FAILED, FENCED, ProducerFenced),
        (FAILED, LOST, TransactionUncertain),
        (FAILED, None, TransactionAborted),
    ],
)
def test_a_fenced_producer_says_so_whichever_call_hears_of_it(
    raised: KafkaError, at_abort: KafkaError | None, expected: type[Exception]
) -> None:
    """If it failed, a zombie would renew its producer and so fence the living worker that took its place."""
    broker = KafkaBroker(
        KafkaSettings(bootstrap="127.0.0.1:1"), WorkerSettings(slot="0"), group="g", transactional_id="t"
    )
    producer: Any = Producer(at_abort)
    with pytest.raises(expected):
        broker._raise_for(producer, KafkaException(raised))
