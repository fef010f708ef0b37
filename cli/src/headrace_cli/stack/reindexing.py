"""The steps of ``headrace reindex`` that know where services run: in the local stack, or somewhere else."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from pydantic import SecretStr

from headrace.retrieval.query_vectors import EmbedderAccess, EmbedderClient
from headrace.store.dense_index import Kind
from headrace.store.generations import list_generations
from headrace.store.reindex import lives
from headrace.store.rows import Generation
from headrace_cli import output, state
from headrace_cli.context import Operator
from headrace_cli.failures import CommandError, TimedOut
from headrace_cli.stack import services
from headrace_cli.stack.beside import LocalStack, Model
from headrace_cli.views import reindex as view
from headrace_operations.cluster import Cluster
from headrace_operations.generations.rights import owner
from headrace_operations.index.build import build
from headrace_operations.reindex import fill as filling
from headrace_operations.reindex.progress import progress
from headrace_operations.reindex.target import Target, Wanted, target
from headrace_operations.reindex.workers import Groups
from headrace_operations.replay.runs import CANCELLED

if TYPE_CHECKING:
    from headrace_operations.reindex.switch import Ping

T = TypeVar("T")
_LOOK_S = 1.0
_ANSWER_S = 30.0
_URL, _TOKEN = "HEADRACE_GATEWAY_EMBEDDER_URL", "HEADRACE_GATEWAY_EMBEDDER_TOKEN"


@dataclass(frozen=True, slots=True)
class Start:
    """The request of ``headrace reindex start``; ``rate`` in documents per second, ``wait_s`` in seconds."""

    name: str | None
    wanted: Wanted
    model: Model
    rate: int | None
    kind: Kind
    replication_factor: int
    wait_s: float
    refill: bool


def start(cluster: Cluster, local: LocalStack | None, request: Start, *, dry_run: bool, as_json: bool) -> None:
    """Build the generation, or continue; every step is skipped that is done.

    Raises what the steps do, and :class:`TimedOut` if no embedder and indexer are deployed in time.
    """
    settings = {} if local is None else request.model.settings(local.running, os.environ)
    found = asyncio.run(_target(cluster, request, settings))
    if dry_run:
        estimated = asyncio.run(filling.estimate(cluster, found.generation))
        view.show_plan(found, estimated, to_deploy(found.generation), local=local is not None, as_json=as_json)
        return
    wanted = found.generation
    if local is not None:
        wanted = replace(wanted, embedder_url=local.embedder_url(wanted.name))
    made = asyncio.run(filling.create(cluster, wanted, request.replication_factor))
    view.say_begun(made, exists=found.exists)
    if local is not None:
        local.start(made, settings, output.say)
    else:
        _await_workers(cluster.of(made.name), made, request.wait_s)
    run = asyncio.run(filling.fill(cluster, made.name, request.rate, again=request.refill))
    if run.copier is not None and run.run is not None:
        with view.filled(cluster, made.name) as told:
            done = run.copier.carry_out(run.run.run_id, told)
        if done.state == CANCELLED:
            raise CommandError(
                f"the replay {done.run_id} that fills {made.name} was cancelled",
                remedy=f"Run `headrace reindex start --generation {made.name}` to begin another one.",
            )
    with view.built(made.name) as shown:
        asyncio.run(build(cluster.known_store(), made.name, request.kind, anew=False, told=shown))
    view.show_progress(asyncio.run(progress(cluster, made.name)), as_json=as_json)
    output.say(f"next: headrace reindex verify {made.name}, then headrace reindex switch {made.name}")


async def _target(cluster: Cluster, request: Start, settings: dict[str, str]) -> Target:
    async with owner(cluster.known_store()) as connection:
        known = await list_generations(connection)
        taken = [one.name for one in await lives(connection)]
    wanted = request.wanted
    if settings and wanted.model is not None:  # the identity that the embedder gives this model
        provider = services.provider_of(settings[services.PROVIDER], settings)
        prompt = provider.preparation.passage_prompt if wanted.passage_prompt is None else wanted.passage_prompt
        wanted = replace(wanted, model=provider.model, dimensions=provider.dimensions, passage_prompt=prompt)
    return target(known, taken, request.name, wanted)


def to_deploy(generation: Generation) -> dict[str, dict[str, str]]:
    """Return the settings of the embedder and the indexer of a generation that differ from those of the others."""
    return {
        "embedder": {
            services.GENERATION: generation.name,
            "HEADRACE_EMBEDDER_MODEL": generation.model,
            "HEADRACE_EMBEDDER_DIMENSIONS": str(generation.dimensions),
            "HEADRACE_EMBEDDER_TEXT_TEMPLATE": generation.template,
            "HEADRACE_EMBEDDER_PASSAGE_PROMPT": generation.passage_prompt,
            "HEADRACE_EMBEDDER_OVER_LONG": str(generation.over_long),
        },
        "indexer": {services.GENERATION: generation.name},
    }


def _await_workers(cluster: Cluster, generation: Generation, seconds: float) -> None:
    """Say what to deploy, and wait until it is; raises :class:`TimedOut`."""
    groups = Groups(cluster.kafka)
    deadline = time.monotonic() + seconds
    said = False
    while missing := [stage for stage, count in groups.members().items() if not count]:
        if not said:
            view.say_deploy(generation, {stage: to_deploy(generation)[stage] for stage in missing})
            said = True
        if time.monotonic() > deadline:
            raise TimedOut(
                f"generation {generation.name} has no {' and no '.join(missing)} after {seconds:.0f} s",
                remedy="Deploy what the message names, then run the command again.",
            )
        time.sleep(_LOOK_S)


def embedder_access(operator: Operator, local: LocalStack | None, url: str | None) -> EmbedderAccess:
    """Return how to reach the embedders of generations that name no address."""
    token = os.environ.get(_TOKEN)
    if local is not None:
        credentials = state.read_credentials(operator.folder)
        token = credentials.embedder_token if credentials else token
        url = url or local.own_url()
    url = url or os.environ.get(_URL)
    known = url if url is not None else "http://127.0.0.1:8090"
    secret = SecretStr(token) if token else None
    return EmbedderAccess(known, secret, _ANSWER_S, "HEADRACE_GATEWAY_EMBEDDER_")


async def with_embedder(access: EmbedderAccess, act: Callable[[EmbedderClient], Awaitable[T]]) -> T:
    """Return what the action returns that asks embedders."""
    client = EmbedderClient(access)
    try:
        return await act(client)
    finally:
        await client.close()


def ping_of(embedder: EmbedderClient) -> Ping:
    """Return the check that a generation's embedder answers queries."""
    return embedder.ping


def stop_of(cluster: Cluster, local: LocalStack | None, name: str) -> Callable[[], None]:
    """Return what stops the generation's services: on the local stack, otherwise nothing."""

    async def active() -> str:
        async with owner(cluster.known_store()) as connection:
            return next(one.name for one in await list_generations(connection) if one.state == "active")

    if local is None:
        return lambda: None
    found = asyncio.run(active())
    return lambda: local.stop(name, found)
