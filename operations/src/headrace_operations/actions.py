"""Operators' actions on records that left the flow, shared by dead letters and held records.

Each kind has its own topic and schema; both schemas have the same eight fields.
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
"""Called with the number of records that were done since the last call."""


class RecordId(Protocol):
    """The position of a record in the topic of its kind and stage."""

    @property
    def stage(self) -> str:
        """The stage that the record left."""

    @property
    def partition(self) -> int:
        """The partition of that topic."""

    @property
    def offset(self) -> int:
        """The offset in that partition."""


@dataclass(frozen=True, slots=True)
class ActionRequest:
    """A request for an action: what to do, who asks and why.

    ``batch`` is its ID; ``again`` includes records that already had an action.
    """

    action: str
    batch: str
    acted_by: str
    why: str = ""
    again: bool = False


def new_request(action: str, *, by: str, why: str, again: bool = False) -> ActionRequest:
    """Return a request with a new ID."""
    return ActionRequest(action, uuid4().hex, by, why, again)


@dataclass(frozen=True, slots=True)
class Kind(Generic[Action]):
    """A kind of record that actions are about.

    ``writer`` is the transactional ID of the only writer, ``topic`` has the actions, ``called`` is the records' name in
    messages, and ``refusal`` is raised if another command took over.
    """

    writer: str
    topic: str
    action: type[Action]
    called: str
    refusal: Callable[..., Exception]


class Actions(Generic[Action]):
    """Reads and writes the actions of a kind.

    Every method raises :class:`DependencyDown` if Kafka or the schema registry does not answer.
    """

    def __init__(self, kafka: KafkaSettings, codec: Codec, kind: Kind[Action]) -> None:
        self._kafka = kafka
        self._codec = codec
        self._kind: Kind[Action] = kind

    def newest(self, scan: LogScan) -> dict[str, Action]:
        """Return the newest action of each record that has one, by ID."""
        return scan.actions(self._kind.topic, self._kind.action)

    def carry_out(
        self,
        read: Callable[[Callable[[Item], None]], None],
        write: Callable[[Produce, Item], None],
        size: Callable[[Item], int],
        done: Callable[[Sequence[Item]], None],
        so_far: Callable[[], str],
    ) -> None:
        """Write the items that ``read`` passes on, in transactions; call ``done`` after each commit.

        Only one command runs at a time: this one fences all others, and reads only when no other writer is left. What
        was committed before an outage stays; the error includes ``so_far``.
        """
        transactions = Transactions(self._kafka, self._kind.writer)
        try:
            in_batches(transactions, read, write, size, done)
        except (KafkaException, DependencyDown) as error:
            raise interrupted(error, so_far(), self._kind.called, self._kind.refusal) from error

    def note(self, produce: Produce, identity: RecordId, request: ActionRequest, now: datetime) -> None:
        """Write the action on the record in the same transaction."""
        action = self._kind.action(
            request.action, identity.stage, identity.partition, identity.offset, request.batch, request.acted_by, now,
            request.why,
        )  # fmt: skip
        key = id_in_generation(str(identity), self._kafka.generation)
        produce(self._kind.topic, value=self._codec.encode_plain(action), key=key, partition=0)
