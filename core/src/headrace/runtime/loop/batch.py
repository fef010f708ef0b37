"""A sealed batch, and what the handlers make of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from headrace.kafka.broker_contract import Mark, Message, Record, Snapshot, TopicPartition


@dataclass(frozen=True, slots=True)
class Batch:
    """Records sealed together, with the membership that they were read under; ``attempt`` counts from 1."""

    number: int
    records: tuple[Record, ...]
    snapshot: Snapshot | None
    sealed_at: float
    attempt: int = 1
    marks: Mapping[TopicPartition, Mark] = field(default_factory=dict)
    """To be written before it is computed, for partitions in which nothing was committed yet."""
    deadly: bool = False
    """The one record in it ended the worker too often: it is given up, not computed."""


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The messages to write for a batch, dead letters among them, and counts for the metrics."""

    messages: Sequence[Message]
    dead_letters: int = 0
    retried: int = 0
    held: int = 0
    faults: int = 0
    """Dead letters for which the record itself is not to blame, as far as one can tell."""
    passed_over: int = 0
    """Records that tell of no document."""
