"""Pausing and resuming stages, tenants, pipelines and replays; a dry run gives no order and releases nothing."""

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
from headrace_operations.held.release import release, release_order, waiting

READ_S = 2.0
"""Seconds after which every worker has surely read an order, which takes it one at most."""
_MOST_PASSES = 10
_HOLDING = (Scope.TENANT, Scope.PIPELINE)
"""Scopes whose pause sets records aside."""


class Target(NamedTuple):
    """What an order is about."""

    scope: Scope
    name: str


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """Which targets are to pause or go on, and why."""

    targets: Sequence[Target]
    reason: str = ""

    @property
    def scopes(self) -> list[str]:
        """The scopes under which a pause of the targets sets records aside."""
        return [f"{scope}/{name}" for scope, name in self.targets if scope in _HOLDING]


@dataclass(frozen=True, slots=True)
class Ordered:
    """The orders that were given, none by a dry run; ``released`` held records by scope, or that would be."""

    given: Sequence[Control] = ()
    released: Mapping[str, int] = field(default_factory=dict)


class NoSuchPipeline(NotThere):
    """No pipeline of this name was ever applied."""

    code = "no-such-pipeline"


@contextmanager
def _unseen() -> Iterator[Progress]:
    yield lambda _: None


@dataclass(frozen=True, slots=True)
class Steps:
    """Told how far a resume is: when its orders are ``given``, before each pause of ``seconds``, and each release."""

    given: Callable[[], None] = lambda: None
    waits: Callable[[float], None] = lambda _: None
    released: Callable[[], AbstractContextManager[Progress]] = _unseen
    sleep: Callable[[float], None] = time.sleep


def targets(
    stages: Sequence[str] = (), tenants: Sequence[str] = (), pipelines: Sequence[str] = (), run: str | None = None
) -> list[Target]:
    """Return what an order is about, each once; ``all`` are all stages.

    Raises :class:`ConfigurationError` for a stage that does not exist, and where nothing is named.
    """
    wanted = list(STAGES) if list(stages) == ["all"] else list(dict.fromkeys(stages))
    unknown = [name for name in wanted if name not in STAGES]
    if unknown:
        raise ConfigurationError(
            f"no stage {', '.join(unknown)}", where="--stage", remedy=f"There are: {', '.join(STAGES)}."
        )
    found = [Target(Scope.STAGE, name) for name in wanted]
    found += [Target(Scope.TENANT, name) for name in dict.fromkeys(tenants)]
    found += [Target(Scope.PIPELINE, name) for name in dict.fromkeys(pipelines)]
    found += [Target(Scope.RUN, run)] if run else []
    if not found:
        raise ConfigurationError(
            "nothing to order",
            remedy=f"Name a --stage ({', '.join(STAGES)}, or all), a --tenant, a --pipeline or a --run.",
        )
    return found


def pause(cluster: Cluster, request: OrderRequest, *, dry_run: bool = False) -> Ordered:
    """Have the targets start nothing more; raises :class:`NoSuchPipeline` before any order is given."""
    return Ordered() if dry_run else Ordered(_give(cluster, Action.PAUSE, request))


def resume(
    cluster: Cluster,
    request: OrderRequest,
    *,
    dry_run: bool = False,
    steps: Steps = Steps(),  # frozen
) -> Ordered:
    """Have the targets go on, and release what their pause set aside, in passes until one finds nothing.

    A batch that was under way may set some aside afterwards: resume again until none is released.
    Raises :class:`NoSuchPipeline` before any order is given.
    """
    given = [] if dry_run else _give(cluster, Action.RESUME, request)
    steps.given()
    if not request.scopes:
        return Ordered(given)
    counts = dict.fromkeys(request.scopes, 0)
    if dry_run:
        meant = HeldSelection(kind=PAUSE, scopes=frozenset(request.scopes))
        return Ordered(given, {**counts, **waiting(cluster, meant)})
    order = release_order(cluster, request.reason)
    with steps.released() as progress:
        for _ in range(_MOST_PASSES):
            steps.waits(READ_S)
            steps.sleep(READ_S)
            found = release(cluster, request.scopes, order, progress)
            counts = {scope: count + found[scope] for scope, count in counts.items()}
            if not any(found.values()):
                break
    return Ordered(given, counts)


def _give(cluster: Cluster, action: Action, request: OrderRequest) -> list[Control]:
    _require_pipelines(cluster, [name for scope, name in request.targets if scope is Scope.PIPELINE])
    return [cluster.give(action, scope, name, request.reason) for scope, name in request.targets]


def _require_pipelines(cluster: Cluster, names: Sequence[str]) -> None:
    if not names:
        return
    known = sorted({version.pipeline_id for version in cluster.pipelines().all()})
    unknown = [name for name in names if name not in known]
    if unknown:
        raise NoSuchPipeline(
            f"no pipeline {', '.join(unknown)}", where="--pipeline", remedy=f"There are: {', '.join(known) or 'none'}."
        )
