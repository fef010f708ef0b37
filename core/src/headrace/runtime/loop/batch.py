"""A sealed batch and its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from headrace.kafka.broker_contract import Mark, Message, Record, Snapshot, TopicPartition


@dataclass(frozen=True, slots=True)
class Batch:
    """Records sealed together, with the group membership that they were read under; ``attempt`` counts from 1."""

    number: int
    records: tuple[Record, ...]
    snapshot: Snapshot | None
    started_at: float
    """When the computation of its current attempt began."""
    attempt: int = 1
    marks: Mapping[TopicPartition, Mark] = field(default_factory=dict)
    """Marks to write before computing, for partitions in which this worker has not committed anything yet."""
    deadly: bool = False
    """Its only record crashed the worker too often: it is dead-lettered, not computed."""


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The messages to write for a batch, dead letters among them, and counts for the metrics."""

    messages: Sequence[Message]
    dead_letters: int = 0
    retried: int = 0
    held: int = 0
    faults: int = 0
    """Dead letters for reasons other than invalid input."""
    passed_over: int = 0
    """Records that change no document."""
