"""Finds missing vectors: dead letters of the embedder to redrive, and tenants to replay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headrace.topology.stages import EMBEDDER
from headrace_operations.audit.model import Report
from headrace_operations.audit.run import Scope, audit
from headrace_operations.cluster import Cluster
from headrace_operations.dead_letters.act import REDRIVEN
from headrace_operations.dead_letters.carry_out import Request
from headrace_operations.dead_letters.model import Entry, Selection
from headrace_operations.replay.start import ReplayRequest

_WHY = "embeddings incremental"


@dataclass(frozen=True, slots=True)
class Lacking:
    """What a generation lacks: open dead letters to redrive, and tenants without all their vectors.

    ``pending`` documents are in flight; ``to_repair`` findings need more than a replay. ``refused`` are the open dead
    letters that cannot be redriven, each with the reason.
    """

    generation: str
    letters: int
    tenants: Sequence[str]
    pending: int
    to_repair: int
    tenant: str | None
    refused: Sequence[tuple[Entry, str]] = ()

    @property
    def redrive(self) -> Request | None:
        """The dead letters to redrive, or None if there are none."""
        selection = Selection(stage=EMBEDDER.name, tenant=self.tenant)
        return Request(REDRIVEN, selection, _WHY) if self.letters else None

    @property
    def replays(self) -> list[ReplayRequest]:
        """The replays that fill in the tenants' vectors in the generation."""
        return [ReplayRequest(EMBEDDER.name, tenant=name) for name in self.tenants]


async def find_lacking(cluster: Cluster, tenant: str | None, told: Callable[[str], None] = lambda _: None) -> Lacking:
    """Audit the generation of the cluster's lanes, and count what can be repaired; changes nothing.

    Raises :class:`DependencyDown`, and what the audit raises.
    """
    name = cluster.kafka.generation
    scope = Scope(tenant, generation=name)
    report = await audit(cluster.kafka, cluster.codec, cluster.known_store(), scope, told)
    lacking, others = lacking_vectors(report)
    letters = cluster.dead_letters().select(Selection(stage=EMBEDDER.name, tenant=tenant))
    refused = [(one, one.whole) for one in letters if one.whole is not None]
    again = len(letters) - len(refused)
    return Lacking(name, again, lacking, len(report.pending), others, tenant, refused)


def lacking_vectors(report: Report) -> tuple[list[str], int]:
    """Return the tenants that a replay of the embedder repairs, and how many findings need more than a replay."""
    repaired = [one.tenant for one in report.findings if one.replay == EMBEDDER.name]
    return sorted(set(repaired)), len(report.findings) - len(repaired)
