"""The state that decisions use, with one part for each concern."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.runtime.loop.batching import InProgress
from headrace.runtime.loop.breaker import Breaker
from headrace.runtime.loop.lifecycle import Exit, Lifecycle
from headrace.runtime.loop.pacing import Pacing
from headrace.runtime.loop.parking import Parking
from headrace.runtime.loop.suspicion import Suspicion


@dataclass(frozen=True, slots=True)
class State:
    """A worker's state; only :func:`headrace.runtime.loop.decide.decide` creates a new one."""

    in_progress: InProgress = InProgress()  # noqa: RUF009  # frozen, as are all parts
    pacing: Pacing = Pacing()  # noqa: RUF009
    parking: Parking = Parking()  # noqa: RUF009
    suspicion: Suspicion = Suspicion()  # noqa: RUF009
    breaker: Breaker = Breaker()  # noqa: RUF009
    lifecycle: Lifecycle = Lifecycle()  # noqa: RUF009

    @property
    def exit(self) -> Exit | None:
        """Why the worker ends, or None while it works."""
        return self.lifecycle.exit
