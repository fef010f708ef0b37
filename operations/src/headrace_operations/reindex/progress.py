"""How far a generation is: what it has, what fills it, its index, and who works for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from headrace.payloads import ReplayRun
from headrace.store.dense_index import DenseIndex, dense_indexes
from headrace.store.generations import list_generations
from headrace.store.reindex import Coverage, Life, coverage, lives
from headrace.store.rows import Generation
from headrace_operations.cluster import Cluster
from headrace_operations.generations.rights import owner
from headrace_operations.reindex.workers import Groups
from headrace_operations.replay import runs


@dataclass(frozen=True, slots=True)
class Filling:
    """The replay that fills a generation; ``per_second`` are documents sent, over all its time."""

    run_id: str
    state: str
    sent: int
    percent: int
    per_second: float
    limit: int | None
    remaining_s: float | None


@dataclass(frozen=True, slots=True)
class Progress:
    """The state of one generation. ``phase`` is what happens or is to be done next."""

    generation: Generation
    phase: str
    tenants: Sequence[Coverage]
    filling: Filling | None
    index: DenseIndex | None
    workers: dict[str, int]

    @property
    def documents(self) -> int:
        """Live documents of all tenants."""
        return sum(one.documents for one in self.tenants)

    @property
    def covered(self) -> int:
        """Those of them that the generation has in their current version."""
        return sum(one.covered for one in self.tenants)

    def document(self) -> dict[str, Any]:
        """Return it for ``--json``."""
        chunks = [(one.chunks, one.covered_chunks) for one in self.tenants]
        return {
            **asdict(self.generation), "generation": self.generation.name, "phase": self.phase,
            "documents": self.documents, "covered": self.covered, "missing": self.documents - self.covered,
            "chunks": sum(all_ for all_, _ in chunks), "covered_chunks": sum(own for _, own in chunks),
            "tenants": [asdict(one) for one in self.tenants],
            "filling": None if self.filling is None else asdict(self.filling),
            "index": None if self.index is None else asdict(self.index), "workers": self.workers,
        }  # fmt: skip


async def progress(cluster: Cluster, name: str | None = None) -> list[Progress]:
    """Return the progress of the named generation, or of all that exist, oldest first.

    Raises :class:`Refused` for a login without the right, and :class:`DependencyDown`.
    """
    async with owner(cluster.known_store()) as connection:
        known = [one for one in await list_generations(connection) if name in (None, one.name)]
        life = {one.name: one for one in await lives(connection)}
        covered = {one.name: await coverage(connection, one.name) for one in known}
        indexes = {one.name: await dense_indexes(connection, one) for one in known}
    replays = runs.read_runs(cluster.kafka, cluster.codec)
    return [
        _progress(one, life[one.name], covered[one.name], indexes[one.name], replays.get(life[one.name].fill or ""),
                  Groups(cluster.kafka.of(one.name)).members())
        for one in known
    ]  # fmt: skip


def _progress(
    one: Generation, life: Life, tenants: Sequence[Coverage], indexes: Sequence[DenseIndex], run: ReplayRun | None,
    workers: dict[str, int],
) -> Progress:  # fmt: skip
    index = next((found for found in indexes if found.valid), indexes[0] if indexes else None)
    filling = None if run is None else filled(run)
    return Progress(one, phase_of(one, life, filling, index, workers), tenants, filling, index, workers)


def filled(run: ReplayRun) -> Filling:
    """Return how far the replay is."""
    now = datetime.now(UTC) if run.state in runs.OPEN else run.updated_at
    seconds = max(0.001, (now - run.asked_at).total_seconds())
    left, total = runs.to_read(run), runs.in_all(run)
    rate = (total - left) / seconds
    remaining = None if run.state not in runs.OPEN or not rate else round(left / rate, 1)
    percent = 100 if not total else 100 * (total - left) // total
    return Filling(
        run.run_id, run.state, run.sent, percent, round(run.sent / seconds, 1), run.records_per_second, remaining
    )


def phase_of(
    one: Generation, life: Life, filling: Filling | None, index: DenseIndex | None, workers: dict[str, int]
) -> str:
    """Return what happens with the generation, or what is to be done next; pure."""
    if one.state != "building":
        return one.state
    if filling is None and life.fill is None:
        return "created"
    if filling is not None and filling.state in runs.OPEN:
        return "filling" if all(workers.values()) else "waiting for its embedder and indexer"
    if filling is not None and filling.state == runs.CANCELLED:
        return "cancelled"
    return "ready to verify and switch" if index is not None and index.valid else "waiting for its index"
