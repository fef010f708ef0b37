"""What the decision tells the worker to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from headrace.runtime.loop.batch import Batch, BatchResult


@dataclass(frozen=True, slots=True)
class Compute:
    """Hand the batch to the handlers."""

    batch: Batch


@dataclass(frozen=True, slots=True)
class Cancel:
    """The batch is doomed: stop computing it, drop its result."""

    number: int


@dataclass(frozen=True, slots=True)
class Commit:
    """Write the result and the batch's offsets in one transaction."""

    batch: Batch
    result: BatchResult


class RecoveryStep(StrEnum):
    """One call on the way back to the committed offsets."""

    RENEW = "renew"
    """Replace the producer, whose last transaction may still be open."""
    REWIND = "rewind"
    """Read on from the committed offsets."""


@dataclass(frozen=True, slots=True)
class Recover:
    """Do the step."""

    step: RecoveryStep


@dataclass(frozen=True, slots=True)
class PauseFetching:
    """Read no more records; polls go on, for they keep up the membership."""


@dataclass(frozen=True, slots=True)
class ResumeFetching:
    """Read records again."""


Command = Compute | Cancel | Commit | Recover | PauseFetching | ResumeFetching
