"""Starts, pauses, resumes and cancels replays."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from headrace.config.settings import KafkaSettings
from headrace.embeddings.preparation import Preparation
from headrace.errors import ConfigurationError
from headrace.orders.control import Action, Scope
from headrace.payloads import ReplayRun
from headrace.store.generations import get_generation
from headrace.store.pool import opened_pool
from headrace.topology import generation_names
from headrace.topology.stages import EMBEDDER, STAGES
from headrace_operations.choices import OUTSTANDING
from headrace_operations.cluster import Cluster
from headrace_operations.generations.listing import require_generation
from headrace_operations.replay import plan as planning
from headrace_operations.replay import runs
from headrace_operations.replay.copier import Copier
from headrace_operations.replay.plan import Estimate, Known, Planned, cached_in
from headrace_operations.replay.selection import Selection

if TYPE_CHECKING:
    from headrace.store.pool import Pool, StoreSettings

OBEYS_S = 3.0
"""Seconds after which a command that carries out a replay has certainly obeyed an order."""
_LOOK_S = 0.5
_PLACE = re.compile(r"(.+):(\d{1,9}):(\d{1,18})")


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """What to replay: ``everything``, from offsets (``TOPIC:PARTITION:OFFSET``), or by filters.

    ``rate`` is in records per second.
    """

    stage: str
    everything: bool = False
    places: Sequence[str] = ()
    since: datetime | None = None
    document: str | None = None
    tenant: str | None = None
    rate: int | None = None

    def selection(self, kafka: KafkaSettings) -> Selection:
        """Return the selection; raises :class:`ConfigurationError` for a topic that the stage does not read."""
        return Selection(
            self.stage, self.everything, self._offsets(kafka.generation), self.since, self.tenant, self.document
        )

    def _offsets(self, generation: str) -> Mapping[int, int]:
        found: dict[int, int] = {}
        for text in self.places:
            place = _PLACE.fullmatch(text)
            if place is None:
                raise ConfigurationError(
                    f"invalid offset {text!r}", where="--from-offset", remedy="Use TOPIC:PARTITION:OFFSET."
                )
            source = STAGES[self.stage].source if self.stage in STAGES else None
            if source is not None and place[1] not in (source, generation_names.in_generation(source, generation)):
                raise ConfigurationError(
                    f"{self.stage} does not read the topic {place[1]!r}", where="--from-offset",
                    remedy=f"Use its source topic {generation_names.in_generation(source, generation)}.",
                )  # fmt: skip
            found[int(place[2])] = int(place[3])
        return found


def require_filled(stage: str) -> None:
    """Raise :class:`ConfigurationError` for a stage that all generations share, because it cannot fill one."""
    if stage not in generation_names.GENERATION_STAGES:
        raise ConfigurationError(
            f"stage {stage} cannot fill a generation, because all generations share it", where="--into",
            remedy=f"Use one of {', '.join(sorted(generation_names.GENERATION_STAGES))}. The embedder reads "
            "the compacted topic chunks, which has the newest version of every document.",
        )  # fmt: skip


def into(cluster: Cluster, store: StoreSettings | None, stage: str, generation: str | None) -> Cluster:
    """Return the cluster with the lanes of the generation that the stage will fill; None changes nothing.

    Raises :class:`ConfigurationError` for a stage that all generations share, and :class:`NoSuchGeneration` for an
    unknown generation, if a store is configured.
    """
    if generation is None:
        return cluster
    require_filled(stage)
    asyncio.run(require_generation(store, generation, "--into"))
    return cluster.of(generation)


def plan(cluster: Cluster, request: ReplayRequest) -> Planned:
    """Return the replay for the request, up to the current end of the log; sends nothing.

    Raises :class:`ConfigurationError`, :class:`RefusedReplay` and :class:`DependencyDown`.
    """
    selection = request.selection(cluster.kafka)
    return planning.plan(cluster.kafka, selection, rate=request.rate, asked_by=cluster.by, now=datetime.now(UTC))


async def estimate(cluster: Cluster, run: ReplayRun) -> Estimate:
    """Read what the replay would send, and count it, for a dry run.

    It asks the store, if one is configured, which of the embedder's texts already have a vector. Raises
    :class:`RefusedReplay` if no record matches.
    """
    if run.stage != EMBEDDER.name or cluster.store is None:
        return await planning.estimate(cluster.kafka, cluster.codec, run, None)
    async with opened_pool(cluster.store) as pool:
        found = await _known_in(pool, run.generation)
        return await planning.estimate(cluster.kafka, cluster.codec, run, *(found or (None,)))


async def _known_in(pool: Pool, generation: str) -> tuple[Known, Preparation] | None:
    """Return the lookup of texts that have a vector of the generation's model, and how it prepares texts.

    None if the generation does not exist.
    """
    async with pool.acquire() as connection:
        found = await get_generation(connection, generation)
    return None if found is None else (cached_in(pool, found.model), found.preparation)


def copier(cluster: Cluster, outstanding: int = OUTSTANDING) -> Copier:
    """Return a copier for replays in the generation, with at most ``outstanding`` records in the side lanes."""
    return Copier(cluster.kafka, cluster.codec, outstanding=outstanding)


def begin(cluster: Cluster, planned: Planned, outstanding: int = OUTSTANDING) -> Copier:
    """Record that the replay has begun, and return the copier that carries it out.

    Raises :class:`RefusedReplay` for a replay of one tenant or document without a record, and :class:`DependencyDown`.
    """
    planning.require_match(cluster.kafka, planned.run)
    found = copier(cluster, outstanding)
    found.begin(planned.run)
    return found


def take_up(cluster: Cluster, run_id: str, why: str, outstanding: int = OUTSTANDING) -> Copier:
    """End a replay's pause and return the copier for it; raises :class:`RefusedReplay` if the replay is finished."""
    run = runs.read_open(cluster.kafka, cluster.codec, run_id)
    cluster.give(Action.RESUME, Scope.RUN, run_id, why)
    return copier(cluster.of(run.generation), outstanding)


def pause(cluster: Cluster, run_id: str, why: str) -> ReplayRun:
    """Pause a replay until it is resumed; raises :class:`RefusedReplay` if it is finished."""
    run = runs.read_open(cluster.kafka, cluster.codec, run_id)
    cluster.give(Action.PAUSE, Scope.RUN, run_id, why)
    return run


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a cancel waits for the command that carries out the replay."""

    seconds: float = field(default_factory=lambda: OBEYS_S)
    now: Callable[[], float] = field(default=time.monotonic)
    sleep: Callable[[float], None] = field(default=time.sleep)


def cancel(cluster: Cluster, run_id: str, why: str, patience: Patience | None = None) -> ReplayRun:
    """Cancel a replay: the command that carries it out does so, or this one if there is none.

    Raises :class:`RefusedReplay` if the replay is finished.
    """
    run = runs.read_open(cluster.kafka, cluster.codec, run_id)
    cluster.give(Action.CANCEL, Scope.RUN, run_id, why)
    patience = patience or Patience()
    deadline = patience.now() + patience.seconds
    while run.state in runs.OPEN and patience.now() < deadline:
        patience.sleep(_LOOK_S)
        run = runs.read_run(cluster.kafka, cluster.codec, run_id)
    return copier(cluster).cancel(run_id) if run.state in runs.OPEN else run
