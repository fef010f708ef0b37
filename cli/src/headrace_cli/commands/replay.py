"""``replay start|list|status|resume|pause|cancel``: a stage's records once more, beside the live stream."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Any, TypeAlias

import typer
from typer.core import TyperGroup

from headrace_cli import options
from headrace_cli.command import command, commands_of
from headrace_cli.context import InLog
from headrace_cli.times import moment
from headrace_cli.views import replay as replay_view
from headrace_operations.generations.listing import require_generation
from headrace_operations.replay import runs
from headrace_operations.replay import start as operations
from headrace_operations.replay.start import OUTSTANDING, ReplayRequest

RunId: TypeAlias = Annotated[str, typer.Argument(metavar="RUN", help="The replay's id, as `replay list` shows it.")]
Why: TypeAlias = Annotated[str, typer.Option("--why", envvar="HEADRACE_WHY", help="The reason, kept with the order.")]
Outstanding: TypeAlias = Annotated[
    int,
    typer.Option(
        "--outstanding", envvar="HEADRACE_REPLAY_OUTSTANDING", min=1,
        help="Most records that may wait in the side lanes: what a pause or a cancel cannot call back.",
    ),
]  # fmt: skip


class StartsByDefault(TyperGroup):
    """Takes ``replay --stage S`` for ``replay start --stage S``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the word in where options come first."""
        if args and args[0].startswith("--") and args[0] not in ctx.help_option_names:
            args = ["start", *args]
        return super().parse_args(ctx, args)


commands = commands_of("replay", "Replays: a stage reads its records again.", cls=StartsByDefault)


@command(commands, "start", "Have a stage read records again, beside the live ones.")
def start(
    stage: Annotated[str, typer.Option("--stage", envvar="HEADRACE_STAGE", help="The stage that reads again.")],
    from_offset: Annotated[
        list[str] | None,
        typer.Option(
            "--from-offset",
            envvar="HEADRACE_REPLAY_FROM_OFFSET",
            metavar="TOPIC:PARTITION:OFFSET",
            help="From this offset of the stage's source topic on; may be repeated, no other partition takes part.",
            show_default=False,
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            envvar="HEADRACE_REPLAY_SINCE",
            show_default=False,
            help="Only what was written since then: 2026-11-21T10:00 (UTC unless it says otherwise), or 90m, 12h, 7d.",
        ),
    ] = None,
    document: Annotated[
        str | None,
        typer.Option("--document", envvar="HEADRACE_DOCUMENT", help="Only this document.", show_default=False),
    ] = None,
    tenant: Annotated[
        str | None, typer.Option("--tenant", envvar="HEADRACE_TENANT", help="Only this tenant.", show_default=False)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", envvar="HEADRACE_REPLAY_ALL", help="All that there is.")] = False,
    into: Annotated[
        str | None,
        typer.Option(
            "--into",
            envvar="HEADRACE_REPLAY_INTO",
            show_default=False,
            help="For the embedder and the indexer: the generation of the index that is filled; without it, "
            "HEADRACE_KAFKA_GENERATION.",
        ),
    ] = None,
    rate: Annotated[
        int | None,
        typer.Option(
            "--rate", envvar="HEADRACE_REPLAY_RATE", min=1, help="At most so many records a second.", show_default=False
        ),
    ] = None,
    outstanding: Outstanding = OUTSTANDING,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", envvar="HEADRACE_DRY_RUN", help="Say what would be sent, send nothing.")
    ] = False,
    *,
    operator: InLog,
    as_json: options.Json = False,
) -> None:
    """Have a stage read records again that it has read before, up to the log's end now, beside the live ones.

    A document is looked for in the one partition of its key, a tenant in all of them: a filtered scan of the stage's
    source topic. Ctrl-C leaves the replay where it is; `replay resume` goes on.
    """
    cluster = operator.cluster()
    if into is not None:
        operations.require_filled(stage)
        asyncio.run(require_generation(operator.store(), into, "--into"))
    cluster = cluster.of(into)
    when = moment(since, "--since", datetime.now(UTC))
    request = ReplayRequest(stage, everything, from_offset or (), when, document, tenant, rate)
    planned = operations.plan(cluster, request)
    replay_view.say_cut_off(planned)
    if dry_run or tenant is not None:
        counted = operator.with_readable_store(cluster)
        found = asyncio.run(operations.estimate(counted, planned.run, exactly=dry_run))
    if dry_run:
        replay_view.say_estimate(planned, found, as_json=as_json)
        return
    copier = operations.begin(cluster, planned, outstanding)
    replay_view.say_begun(planned.run.run_id)
    replay_view.carry_out(copier, planned.run.run_id, as_json=as_json)


@command(commands, "list", "Show the replays.")
def show_all(*, operator: InLog, as_json: options.Json = False) -> None:
    """Show every replay, the newest last."""
    cluster = operator.cluster()
    replay_view.show_runs(list(runs.read_runs(cluster.kafka, cluster.codec).values()), as_json=as_json)


@command(commands, "status", "Show how far a replay is.")
def status(run_id: RunId, *, operator: InLog, as_json: options.Json = False) -> None:
    """Show how far a replay is, as it noted last."""
    cluster = operator.cluster()
    replay_view.say_run(runs.read_run(cluster.kafka, cluster.codec, run_id), as_json=as_json)


@command(commands, "resume", "Go on with a replay that was paused, interrupted or died.")
def resume(
    run_id: RunId,
    outstanding: Outstanding = OUTSTANDING,
    why: Why = "",
    *,
    operator: InLog,
    as_json: options.Json = False,
) -> None:
    """Go on with a replay: lift its pause, and carry it out from where it is; no record is sent twice.

    A command that still carries it out elsewhere is taken over.
    """
    copier = operations.take_up(operator.cluster(), run_id, why, outstanding)
    replay_view.carry_out(copier, run_id, as_json=as_json)


@command(commands, "pause", "Have a replay send nothing more for now.")
def pause(run_id: RunId, why: Why = "", *, operator: InLog, as_json: options.Json = False) -> None:
    """Have a replay send nothing more until it is resumed; what waits in the side lanes is still done."""
    replay_view.say_paused(operations.pause(operator.cluster(), run_id, why), as_json=as_json)


@command(commands, "cancel", "End a replay where it is.")
def cancel(run_id: RunId, why: Why = "", *, operator: InLog, as_json: options.Json = False) -> None:
    """End a replay where it is; what waits in the side lanes is still done, the rest is never sent."""
    replay_view.say_run(operations.cancel(operator.cluster(), run_id, why), as_json=as_json)
