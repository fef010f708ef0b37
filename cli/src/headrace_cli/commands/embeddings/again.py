"""``embeddings batch|incremental``: embedding again, by replay and redrive."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.topology.stages import EMBEDDER
from headrace_cli import options, output
from headrace_cli.commands.embeddings.options import DryRun, Into
from headrace_cli.context import InLog, InLogAndStore
from headrace_cli.exit_codes import ExitCode
from headrace_cli.views.tracking import tracked

if TYPE_CHECKING:
    from headrace_operations.cluster import Cluster
    from headrace_operations.dead_letters.carry_out import Request
    from headrace_operations.embeddings.incremental import Lacking
    from headrace_operations.replay.plan import Planned


def batch(
    into: Into = None,
    tenant: options.OnlyTenant = None,
    rate: Annotated[
        int | None,
        typer.Option(
            "--rate", envvar="HEADRACE_REPLAY_RATE", min=1, help="Maximum records per second.", show_default=False
        ),
    ] = None,
    dry_run: DryRun = False,
    *,
    operator: InLog,
    as_json: options.Json = False,
) -> None:
    """Replay all documents, or one tenant's, through the embedder, like `replay start --stage embedder --all`.

    Texts with cached vectors cost nothing. Run `embeddings reset` first to embed them again.
    """
    from headrace_cli.views import replay as replay_view
    from headrace_operations.generations.listing import require_generation
    from headrace_operations.replay import start as replays
    from headrace_operations.replay.start import ReplayRequest

    cluster = operator.cluster()
    if into is not None:
        asyncio.run(require_generation(operator.store(), into, "--into"))
    cluster = cluster.of(into)
    request = ReplayRequest(EMBEDDER.name, tenant is None, tenant=tenant, rate=rate)
    planned = replays.plan(cluster, request)
    replay_view.say_cut_off(planned)
    if dry_run or tenant is not None:
        counted = operator.with_readable_store(cluster)
        found = asyncio.run(replays.estimate(counted, planned.run, exactly=dry_run))
    if dry_run:
        replay_view.say_estimate(planned, found, as_json=as_json)
        return
    _carry_out(cluster, planned, as_json=as_json)


def incremental(
    into: Into = None,
    tenant: options.OnlyTenant = None,
    dry_run: DryRun = False,
    *,
    operator: InLogAndStore,
    as_json: options.Json = False,
) -> None:
    """Embed what is missing: redrive the embedder's open dead letters, and replay tenants that lack vectors.

    An audit finds the documents without vectors in the generation. A replay reads all documents of a tenant; those
    that already have vectors cost nothing.
    """
    from headrace_cli.views import replay as replay_view
    from headrace_cli.views.audit import told
    from headrace_operations.embeddings.incremental import find_lacking
    from headrace_operations.replay import start as replays

    cluster = operator.whole_cluster(into)
    lacking = asyncio.run(find_lacking(cluster, tenant, told()))
    _show(lacking, dry_run=dry_run, as_json=as_json)
    if dry_run:
        return
    if lacking.redrive is not None:
        _redrive(cluster, lacking.redrive, as_json=as_json)
    for request in lacking.replays:
        planned = replays.plan(cluster, request)
        replay_view.say_cut_off(planned)
        asyncio.run(replays.estimate(cluster, planned.run, exactly=False))  # refuses a tenant without records
        _carry_out(cluster, planned, as_json=as_json)


def _show(lacking: Lacking, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        output.emit({
            "generation": lacking.generation, "redrive": lacking.letters, "replay_tenants": lacking.tenants,
            "pending": lacking.pending, "to_repair": lacking.to_repair, "dry_run": dry_run,
        })  # fmt: skip
    else:
        verb = "would be" if dry_run else "are"
        typer.echo(
            f"{lacking.generation}: {lacking.letters} dead letters {verb} redriven, {len(lacking.tenants)} tenants "
            f"with documents without vectors {verb} replayed ({', '.join(lacking.tenants) or 'none'}); "
            f"{lacking.pending} in progress"
        )
    if lacking.to_repair:
        output.say(f"{lacking.to_repair} findings need more than a replay; `headrace audit` lists the repair for each")


def _redrive(cluster: Cluster, request: Request, *, as_json: bool) -> None:
    from headrace_cli.views import dlq as dlq_view
    from headrace_operations.dead_letters import carry_out as dead_letters

    planned = dead_letters.plan_request(cluster, request)
    with tracked("redriven", len(planned.plan.taken)) as progress:
        done = dead_letters.carry_out(cluster, planned, progress)
    dlq_view.done(done, as_json=as_json)
    if planned.plan.refused:
        raise typer.Exit(ExitCode.SOME_FAILED)


def _carry_out(cluster: Cluster, planned: Planned, *, as_json: bool) -> None:
    from headrace_cli.views import replay as replay_view
    from headrace_operations.replay import start as replays

    copier = replays.begin(cluster, planned)
    replay_view.say_begun(planned.run.run_id)
    replay_view.carry_out(copier, planned.run.run_id, as_json=as_json)
