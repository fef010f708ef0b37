"""``embeddings batch|incremental``: embedding again, by replay and redrive."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.topology.stages import EMBEDDER
from headrace_cli import options, output
from headrace_cli.commands.embeddings.options import DryRun, Into
from headrace_cli.context import InLog, InLogAndStore
from headrace_cli.exit_codes import ExitCode
from headrace_cli.failures import SomeFailed
from headrace_cli.views.tracking import tracked

if TYPE_CHECKING:
    from headrace_operations.dead_letters.model import Entry
    from headrace_operations.embeddings.incremental import Lacking

_NAMED = 10
"""Number of dead letters that the error names."""


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
    from headrace_operations.replay import start as replays
    from headrace_operations.replay.start import ReplayRequest

    cluster = replays.into(operator.cluster(), operator.store(), EMBEDDER.name, into)
    request = ReplayRequest(EMBEDDER.name, tenant is None, tenant=tenant, rate=rate)
    planned = replays.plan(cluster, request)
    replay_view.say_cut_off(planned)
    if dry_run:
        found = asyncio.run(replays.estimate(operator.with_readable_store(cluster), planned.run))
        replay_view.say_estimate(planned, found, as_json=as_json)
        return
    copier = replays.begin(cluster, planned)
    replay_view.say_begun(planned.run.run_id)
    replay_view.carry_out(copier, planned.run.run_id, as_json=as_json)


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
    from headrace_cli.views import dlq as dlq_view
    from headrace_cli.views import replay as replay_view
    from headrace_cli.views.audit import told
    from headrace_operations.embeddings import incremental as operations

    cluster = operator.whole_cluster(into)
    lacking = asyncio.run(operations.find_lacking(cluster, tenant, told()))
    _show(lacking, dry_run=dry_run, as_json=as_json)
    if dry_run:
        return
    steps = operations.Steps(
        redrives=lambda count: tracked("redriven", count),
        redriven=lambda done: dlq_view.done(done, as_json=as_json),
        planned=replay_view.say_cut_off,
        begun=replay_view.say_begun,
        replays=replay_view.shown,
        replayed=lambda run: replay_view.say_run(run, as_json=as_json),
    )
    filled = operations.carry_out(cluster, lacking, steps)
    if filled.cancelled:
        raise typer.Exit(ExitCode.FAILED)
    if filled.refused:
        raise _not_redriven(filled.refused)


def _show(lacking: Lacking, *, dry_run: bool, as_json: bool) -> None:
    from headrace_cli.views import dlq as dlq_view

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
    if dry_run or lacking.redrive is None:
        dlq_view.left_out(lacking.refused)


def _not_redriven(refused: Sequence[tuple[Entry, str]]) -> SomeFailed:
    more = f" and {len(refused) - _NAMED} more" if len(refused) > _NAMED else ""
    return SomeFailed(
        f"dead letters that could not be redriven: {', '.join(str(entry.id) for entry, _ in refused[:_NAMED])}{more}",
        where="dlq",
        remedy="`headrace dlq show ID` shows the record. Let its source send the document again, or replay it; then "
        "run `headrace dlq discard ID`.",
    )
