"""Fills a new generation from the log: a replay of the topic ``chunks`` beside the live stream, with a rate limit."""

from __future__ import annotations

from dataclasses import dataclass, replace

from headrace.kafka.ranges import LogReader
from headrace.migrate import create_topics
from headrace.payloads import ReplayRun
from headrace.store.generations import create_generation
from headrace.store.reindex import Life, lives, set_embedder, set_fill
from headrace.store.rows import Generation
from headrace.topology.stages import EMBEDDER
from headrace_operations.choices import OUTSTANDING
from headrace_operations.cluster import Cluster
from headrace_operations.errors import Refused
from headrace_operations.generations.rights import owner
from headrace_operations.reindex.workers import Groups
from headrace_operations.replay import plan as planning
from headrace_operations.replay import runs
from headrace_operations.replay.copier import Copier
from headrace_operations.replay.plan import Estimate, cached_in
from headrace_operations.replay.start import ReplayRequest, plan


@dataclass(frozen=True, slots=True)
class Fill:
    """The replay that fills a generation, and what carries it out; both are None if there is nothing to do."""

    run: ReplayRun | None
    copier: Copier | None


async def create(cluster: Cluster, wanted: Generation, replication_factor: int = 1) -> Generation:
    """Create the generation's tables and topics, and let its live lane begin now; idempotent.

    The index of its vectors comes after the fill. Raises what
    :func:`headrace.store.generations.create_generation` does, :class:`Refused` for a login without the right, and
    :class:`DependencyDown`.
    """
    async with owner(cluster.known_store()) as connection:
        made = await create_generation(connection, wanted, indexed=False)
        if wanted.embedder_url is not None:
            await set_embedder(connection, made.name, wanted.embedder_url)
    create_topics(cluster.kafka.of(made.name), replication_factor)
    Groups(cluster.kafka.of(made.name)).begin_at_end()
    return replace(made, embedder_url=wanted.embedder_url or made.embedder_url)


async def life_of(cluster: Cluster, generation: str) -> Life:
    """Return the life of a generation that exists; raises :class:`Refused` for an unknown one."""
    async with owner(cluster.known_store()) as connection:
        found = {one.name: one for one in await lives(connection)}
    if generation not in found:
        raise Refused(
            f"unknown generation {generation!r}",
            where="--generation",
            remedy=f"Existing: {', '.join(found) or 'none'}.",
        )
    return found[generation]


def fill_run(cluster: Cluster, life: Life) -> ReplayRun | None:
    """Return the replay that fills or filled the generation; None if none has begun."""
    if life.fill is None:
        return None
    return runs.read_runs(cluster.kafka, cluster.codec).get(life.fill)


def is_empty(cluster: Cluster) -> bool:
    """Whether the topic ``chunks`` has no records, so that there is nothing to fill a generation from."""
    log = LogReader(cluster.kafka, "reindex")
    return not any(span.size for span in log.bounds(log.partitions([EMBEDDER.source], needed=True)).values())


async def fill(cluster: Cluster, generation: str, rate: int | None, *, again: bool = False) -> Fill:
    """Begin the replay that fills the generation, or take up the one that was interrupted.

    ``rate`` is in documents per second; None keeps that of the interrupted one. With ``again``, a finished replay is
    followed by another one.
    """
    own = cluster.of(generation)
    found = fill_run(own, await life_of(own, generation))
    copier = Copier(own.kafka, own.codec, outstanding=OUTSTANDING)
    if found is not None and found.state in runs.OPEN:
        if rate is not None and rate != found.records_per_second:
            found = replace(found, records_per_second=rate)
            copier.begin(found)
        return Fill(found, copier)
    if is_empty(own) or (found is not None and found.state == runs.DONE and not again):
        return Fill(found, None)
    run = plan(own, ReplayRequest(EMBEDDER.name, everything=True, rate=rate)).run
    async with owner(own.known_store()) as connection:
        if not await set_fill(connection, generation, run.run_id):
            raise Refused(f"generation {generation} is no longer being built")
    copier.begin(run)
    return Fill(run, copier)


async def estimate(cluster: Cluster, wanted: Generation) -> Estimate | None:
    """Read what a fill would send, and count the texts that the model would embed; None if there is nothing.

    The generation need not exist.
    """
    if is_empty(cluster):
        return None
    run = plan(cluster, ReplayRequest(EMBEDDER.name, everything=True)).run
    async with cluster.pool() as pool:
        known = cached_in(pool, wanted.model)
        return await planning.estimate(cluster.kafka, cluster.codec, run, known, wanted.preparation)
