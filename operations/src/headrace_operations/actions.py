"""What operators do with records that left the flow: one order, actor and log for dead letters and held records.

Each kind keeps a topic and a schema of its own; the eight fields of both are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Protocol, TypeVar
from uuid import uuid4

from confluent_kafka import KafkaException

from headrace.codec.codec import Codec
from headrace.config.settings import KafkaSettings
from headrace.errors import DependencyDown
from headrace.payloads import DeadLetterAction, HeldAction
from headrace.topology.generation_names import id_in_generation
from headrace_operations.log_scan import LogScan
from headrace_operations.transactions import Produce, Transactions, in_batches, interrupted

Action = TypeVar("Action", DeadLetterAction, HeldAction)
Item = TypeVar("Item")
Progress = Callable[[int], None]
"""Told how many more records are done."""


class RecordId(Protocol):
    """Where a record lies: in the topic of its kind for the stage."""

    @property
    def stage(self) -> str:
        """The stage that it left."""

    @property
    def partition(self) -> int:
        """The partition of that topic."""

    @property
    def offset(self) -> int:
        """The offset in it."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be done, by whom and why; ``batch`` is its identity, ``again`` takes in what was acted upon before."""

    action: str
    batch: str
    acted_by: str
    why: str = ""
    again: bool = False


def new_order(action: str, *, by: str, why: str, again: bool = False) -> Order:
    """Return an order with an identity of its own."""
    return Order(action, uuid4().hex, by, why, again)


@dataclass(frozen=True, slots=True)
class Kind(Generic[Action]):
    """What actions are about.

    ``writer`` names the one writer at a time, ``topic`` holds the actions, ``called`` is what people call the records,
    and ``refusal`` is raised where another command took over.
    """

    writer: str
    topic: str
    action: type[Action]
    called: str
    refusal: Callable[..., Exception]


class Actions(Generic[Action]):
    """Reads and writes the actions of a kind.

    Every method raises :class:`DependencyDown` where Kafka or the registry does not answer.
    """

    def __init__(self, kafka: KafkaSettings, codec: Codec, kind: Kind[Action]) -> None:
        self._kafka = kafka
        self._codec = codec
        self._kind: Kind[Action] = kind

    def newest(self, scan: LogScan) -> dict[str, Action]:
        """Return the newest action of each record that has one, by id."""
        return scan.actions(self._kind.topic, self._kind.action)

    def carry_out(
        self,
        read: Callable[[Callable[[Item], None]], None],
        write: Callable[[Produce, Item], None],
        size: Callable[[Item], int],
        done: Callable[[Sequence[Item]], None],
        so_far: Callable[[], str],
    ) -> None:
        """Write what ``read`` hands over, in transactions; each that is committed is told to ``done``.

        One order at a time: this fences whoever else carries one out, and reads only once no other writer is left.
        What was committed before an outage stays and is noted; the error tells ``so_far``.
        """
        transactions = Transactions(self._kafka, self._kind.writer)
        try:
            in_batches(transactions, read, write, size, done)
        except (KafkaException, DependencyDown) as error:
            raise interrupted(error, so_far(), self._kind.called, self._kind.refusal) from error

    def note(self, produce: Produce, identity: RecordId, order: Order, now: datetime) -> None:
        """Write in the same transaction what was done with the record."""
        action = self._kind.action(
            order.action, identity.stage, identity.partition, identity.offset, order.batch, order.acted_by, now,
            order.why,
        )  # fmt: skip
        key = id_in_generation(str(identity), self._kafka.generation)
        produce(self._kind.topic, value=self._codec.encode_plain(action), key=key, partition=0)
