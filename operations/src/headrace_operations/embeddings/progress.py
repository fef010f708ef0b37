"""The embedder's progress and rate, and the records held by a cap."""

from __future__ import annotations

import time
from collections.abc import Callable

from headrace.config.settings import KafkaSettings
from headrace.kafka import lag
from headrace.orders.holds import CAP
from headrace.topology.stages import EMBEDDER
from headrace_operations.held.log import HeldLog
from headrace_operations.held.model import HeldSelection


def measured(kafka: KafkaSettings, sample_s: float, sleep: Callable[[float], None]) -> tuple[lag.Progress, float]:
    """Return the progress of the generation's embedder, and its rate in records per second.

    The rate is measured over ``sample_s`` seconds; it is 0 if nothing is pending. Raises :class:`DependencyDown`.
    """
    reader = lag.LagReader(kafka)
    first = lag.progress(reader, EMBEDDER.name)
    if sample_s <= 0 or not first.pending:
        return first, 0.0
    begun = time.monotonic()
    sleep(sample_s)
    now = lag.progress(reader, EMBEDDER.name)
    done = (now.total - now.pending) - (first.total - first.pending)
    return now, max(0, done) / max(1e-9, time.monotonic() - begun)


def waiting_for_caps(log: HeldLog, tenant: str | None) -> dict[str, int]:
    """Return how many records of the generation are held by a cap, by scope (``cap/acme``)."""
    found: dict[str, int] = {}
    for entry in log.select(HeldSelection(stage=EMBEDDER.name, kind=CAP, tenant=tenant)):
        found[entry.scope] = found.get(entry.scope, 0) + 1
    return found
