"""What the decision tells the worker to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from headrace.runtime.loop.batch import Batch, BatchResult


@dataclass(frozen=True, slots=True)
class Compute:
    """Pass the batch to the handlers."""

    batch: Batch


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop computing the batch. Its outcome still arrives; the decision ignores it by its number."""

    number: int


@dataclass(frozen=True, slots=True)
class Commit:
    """Write the result and the batch's offsets in one transaction."""

    batch: Batch
    result: BatchResult


class RecoveryStep(StrEnum):
    """One step of the return to the committed offsets."""

    RENEW = "renew"
    """Replace the producer, whose last transaction may still be open."""
    REWIND = "rewind"
    """Continue reading at the committed offsets."""


@dataclass(frozen=True, slots=True)
class Recover:
    """Execute the recovery step."""

    step: RecoveryStep


@dataclass(frozen=True, slots=True)
class PauseFetching:
    """Stop fetching records; polls continue, because they keep the group membership."""


@dataclass(frozen=True, slots=True)
class ResumeFetching:
    """Read records again."""


Command = Compute | Cancel | Commit | Recover | PauseFetching | ResumeFetching
