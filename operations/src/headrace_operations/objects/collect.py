"""Deletes objects that no record refers to: a plan, which is the dry run, and its execution."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from headrace.config.settings import KafkaSettings
from headrace.objects.store import ObjectStore
from headrace_operations.objects.garbage import Amount, Collector, Garbage, Progress


@dataclass(frozen=True, slots=True)
class GcRequest:
    """Which objects may be deleted: those written on days that ended before that time."""

    before: datetime


@dataclass(frozen=True, slots=True)
class GcPlan:
    """What would be deleted; nothing was deleted yet."""

    request: GcRequest
    garbage: Garbage
    found: Amount
    """The amount of garbage when the plan was made; newer records may refer to some of it by now."""
    collector: Collector


def plan_gc(
    store: ObjectStore, kafka: KafkaSettings, request: GcRequest, progress: Progress = lambda _: None
) -> GcPlan:
    """Read every topic that can carry a reference, and return the plan: the dry run, and the input of :func:`collect`.

    ``progress`` counts records. Raises :class:`ConfigurationError` for a time that is too recent and for the store of
    another deployment, and :class:`headrace.errors.DependencyDown`.
    """
    collector = Collector(store, kafka)
    garbage = collector.find(request.before, datetime.now(UTC), progress)
    return GcPlan(request, garbage, garbage.found, collector)


def collect(planned: GcPlan, progress: Progress = lambda _: None) -> Amount:
    """Delete what was planned, except objects that newer records refer to; return what was deleted.

    ``progress`` counts objects. Raises :class:`headrace.errors.DependencyDown`.
    """
    return planned.collector.delete(planned.garbage, progress)
