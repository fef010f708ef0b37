"""Finds missing vectors, and fills them in: redrives dead letters of the embedder, and replays tenants."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

from headrace.payloads import ReplayRun
from headrace.topology.stages import EMBEDDER
from headrace_operations.actions import Progress
from headrace_operations.audit.model import Report
from headrace_operations.audit.run import Scope, audit
from headrace_operations.cluster import Cluster
from headrace_operations.dead_letters.act import REDRIVEN
from headrace_operations.dead_letters.carry_out import Done, Request, plan_request
from headrace_operations.dead_letters.carry_out import carry_out as redrive
from headrace_operations.dead_letters.model import Entry, Selection
from headrace_operations.replay import start
from headrace_operations.replay.copier import Progress as ReplayProgress
from headrace_operations.replay.plan import Planned
from headrace_operations.replay.runs import CANCELLED
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


@contextmanager
def _unseen(_: object) -> Iterator[Callable[..., None]]:
    yield lambda *_: None


@dataclass(frozen=True, slots=True)
class Steps:
    """Callbacks for the progress: around the redrive of a number of dead letters and after it, then for each replay.

    ``planned`` and ``begun`` are called before and after a replay is recorded, ``replays`` around its copying, and
    ``replayed`` with its last state.
    """

    redrives: Callable[[int], AbstractContextManager[Progress]] = _unseen
    redriven: Callable[[Done], None] = lambda _: None
    planned: Callable[[Planned], None] = lambda _: None
    begun: Callable[[str], None] = lambda _: None
    replays: Callable[[str], AbstractContextManager[ReplayProgress]] = _unseen
    replayed: Callable[[ReplayRun], None] = lambda _: None


@dataclass(frozen=True, slots=True)
class Filled:
    """The replays in their last state, and the dead letters that could not be redriven, each with the reason.

    The tenants after a ``cancelled`` replay were not replayed.
    """

    replays: Sequence[ReplayRun]
    refused: Sequence[tuple[Entry, str]]

    @property
    def cancelled(self) -> bool:
        """Whether an order ended the last replay."""
        return bool(self.replays) and self.replays[-1].state == CANCELLED


def carry_out(cluster: Cluster, lacking: Lacking, steps: Steps = Steps()) -> Filled:  # frozen
    """Redrive the dead letters, then replay the tenants one after the other, until a replay is cancelled.

    A dead letter that cannot be redriven does not stop the rest. Raises :class:`RefusedReplay` for a tenant without
    records, and :class:`DependencyDown`; what was done before stays.
    """
    refused = lacking.refused
    if lacking.redrive is not None:
        planned = plan_request(cluster, lacking.redrive)
        with steps.redrives(len(planned.plan.taken)) as progress:
            done = redrive(cluster, planned, progress)
        steps.redriven(done)
        refused = planned.plan.refused
    filled = Filled((), refused)
    for request in lacking.replays:
        filled = replace(filled, replays=(*filled.replays, _replay(cluster, request, steps)))
        if filled.cancelled:
            break
    return filled


def _replay(cluster: Cluster, request: ReplayRequest, steps: Steps) -> ReplayRun:
    planned = start.plan(cluster, request)
    steps.planned(planned)
    copier = start.begin(cluster, planned)
    run_id = planned.run.run_id
    steps.begun(run_id)
    with steps.replays(run_id) as progress:
        run = copier.carry_out(run_id, progress)
    steps.replayed(run)
    return run


def lacking_vectors(report: Report) -> tuple[list[str], int]:
    """Return the tenants that a replay of the embedder repairs, and how many findings need more than a replay."""
    repaired = [one.tenant for one in report.findings if one.replay == EMBEDDER.name]
    return sorted(set(repaired)), len(report.findings) - len(repaired)
