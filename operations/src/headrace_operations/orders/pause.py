"""Pauses and resumes stages, tenants, pipelines and replays; a dry run publishes no order and releases nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from headrace.errors import ConfigurationError
from headrace.orders.control import Action, Scope
from headrace.orders.holds import PAUSE
from headrace.payloads import Control
from headrace.topology.stages import STAGES
from headrace_operations.actions import Progress
from headrace_operations.cluster import Cluster
from headrace_operations.errors import NotThere
from headrace_operations.held.model import HeldSelection
from headrace_operations.held.release import release, release_request, waiting
from headrace_operations.replay.runs import read_open

READ_S = 2.0
"""Seconds after which every worker has read an order; it takes one second at most."""
_MOST_PASSES = 10
_HOLDING = (Scope.TENANT, Scope.PIPELINE)
"""Scopes whose pause holds records."""


class Target(NamedTuple):
    """The target of an order."""

    scope: Scope
    name: str


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """The targets to pause or resume, and the reason."""

    targets: Sequence[Target]
    reason: str = ""

    @property
    def scopes(self) -> list[str]:
        """The scopes under which a pause of the targets holds records."""
        return [f"{scope}/{name}" for scope, name in self.targets if scope in _HOLDING]


@dataclass(frozen=True, slots=True)
class Ordered:
    """The published orders (none in a dry run), and the held records ``released``, or to release, by scope."""

    given: Sequence[Control] = ()
    released: Mapping[str, int] = field(default_factory=dict)


class NoSuchPipeline(NotThere):
    """No pipeline with this name was ever applied."""

    code = "no-such-pipeline"


@contextmanager
def _unseen() -> Iterator[Progress]:
    yield lambda _: None


@dataclass(frozen=True, slots=True)
class Steps:
    """Callbacks for the progress of a resume: after its orders are ``given``, before each wait, and at each release."""

    given: Callable[[], None] = lambda: None
    waits: Callable[[float], None] = lambda _: None
    released: Callable[[], AbstractContextManager[Progress]] = _unseen
    sleep: Callable[[float], None] = time.sleep


def targets(
    stages: Sequence[str] = (), tenants: Sequence[str] = (), pipelines: Sequence[str] = (), run: str | None = None
) -> list[Target]:
    """Return the targets of an order, each once; ``all`` means all stages.

    Raises :class:`ConfigurationError` for an unknown stage, and if there is no target.
    """
    wanted = list(STAGES) if list(stages) == ["all"] else list(dict.fromkeys(stages))
    unknown = [name for name in wanted if name not in STAGES]
    if unknown:
        raise ConfigurationError(
            f"unknown stage {', '.join(unknown)}", where="--stage", remedy=f"Use one of: {', '.join(STAGES)}."
        )
    found = [Target(Scope.STAGE, name) for name in wanted]
    found += [Target(Scope.TENANT, name) for name in dict.fromkeys(tenants)]
    found += [Target(Scope.PIPELINE, name) for name in dict.fromkeys(pipelines)]
    found += [Target(Scope.RUN, run)] if run else []
    if not found:
        raise ConfigurationError(
            "no target selected",
            remedy=f"Pass --stage ({', '.join(STAGES)}, or all), --tenant, --pipeline or --run.",
        )
    return found


def pause(cluster: Cluster, request: OrderRequest, *, dry_run: bool = False) -> Ordered:
    """Pause the targets.

    Raises :class:`NoSuchPipeline` and :class:`RefusedReplay` before publishing any order, and in a dry run too.
    """
    return Ordered(_give(cluster, Action.PAUSE, request, dry_run=dry_run))


def resume(
    cluster: Cluster,
    request: OrderRequest,
    *,
    dry_run: bool = False,
    steps: Steps = Steps(),  # frozen
) -> Ordered:
    """Resume the targets, and release the records that their pause held, in passes until one finds none.

    A batch that was in progress may hold records afterwards: resume again until none is released.
    Raises :class:`NoSuchPipeline` and :class:`RefusedReplay` before publishing any order, and in a dry run too.
    """
    given = _give(cluster, Action.RESUME, request, dry_run=dry_run)
    steps.given()
    if not request.scopes:
        return Ordered(given)
    counts = dict.fromkeys(request.scopes, 0)
    if dry_run:
        meant = HeldSelection(kind=PAUSE, scopes=frozenset(request.scopes))
        return Ordered(given, {**counts, **waiting(cluster, meant)})
    asked = release_request(cluster, request.reason)
    with steps.released() as progress:
        for _ in range(_MOST_PASSES):
            steps.waits(READ_S)
            steps.sleep(READ_S)
            found = release(cluster, request.scopes, asked, progress)
            counts = {scope: count + found[scope] for scope, count in counts.items()}
            if not any(found.values()):
                break
    return Ordered(given, counts)


def _give(cluster: Cluster, action: Action, request: OrderRequest, *, dry_run: bool) -> Sequence[Control]:
    _require_pipelines(cluster, [name for scope, name in request.targets if scope is Scope.PIPELINE])
    for scope, name in request.targets:
        if scope is Scope.RUN:
            read_open(cluster.kafka, cluster.codec, name)
    if dry_run:
        return ()
    return [cluster.give(action, scope, name, request.reason) for scope, name in request.targets]


def _require_pipelines(cluster: Cluster, names: Sequence[str]) -> None:
    if not names:
        return
    known = sorted({version.pipeline_id for version in cluster.pipelines().all()})
    unknown = [name for name in names if name not in known]
    if unknown:
        raise NoSuchPipeline(
            f"unknown pipeline {', '.join(unknown)}",
            where="--pipeline",
            remedy=f"Existing pipelines: {', '.join(known) or 'none'}.",
        )
