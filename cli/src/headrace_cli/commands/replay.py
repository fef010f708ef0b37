"""``replay start|list|status|resume|pause|cancel``: replays of a stage's records beside the live stream."""

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
from headrace_operations.choices import OUTSTANDING

RunId: TypeAlias = Annotated[str, typer.Argument(metavar="RUN", help="Replay ID, as `replay list` shows it.")]
Why: TypeAlias = Annotated[
    str, typer.Option("--why", envvar="HEADRACE_WHY", help="The reason, recorded with the order.")
]
Outstanding: TypeAlias = Annotated[
    int,
    typer.Option(
        "--outstanding", envvar="HEADRACE_REPLAY_OUTSTANDING", min=1,
        help="Maximum records waiting in the side lanes; pause and cancel cannot recall these.",
    ),
]  # fmt: skip


class StartsByDefault(TyperGroup):
    """Takes ``replay --stage S`` for ``replay start --stage S``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert ``start`` if the first argument is an option."""
        if args and args[0].startswith("--") and args[0] not in ctx.help_option_names:
            args = ["start", *args]
        return super().parse_args(ctx, args)


commands = commands_of("replay", "Start and control replays: a stage reads its records again.", cls=StartsByDefault)


@command(commands, "start", "Start a replay: a stage reads records again.")
def start(
    stage: Annotated[
        str, typer.Option("--stage", envvar="HEADRACE_STAGE", help="The stage that reads its records again.")
    ],
    from_offset: Annotated[
        list[str] | None,
        typer.Option(
            "--from-offset",
            envvar="HEADRACE_REPLAY_FROM_OFFSET",
            metavar="TOPIC:PARTITION:OFFSET",
            help="Records of the source topic from this offset on; may be repeated. Other partitions are not read.",
            show_default=False,
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            envvar="HEADRACE_REPLAY_SINCE",
            show_default=False,
            help="Only records written since: 2026-11-21T10:00 (UTC by default), or 90m, 12h, 7d ago.",
        ),
    ] = None,
    document: Annotated[
        str | None,
        typer.Option("--document", envvar="HEADRACE_DOCUMENT", help="Only this document.", show_default=False),
    ] = None,
    tenant: Annotated[
        str | None, typer.Option("--tenant", envvar="HEADRACE_TENANT", help="Only this tenant.", show_default=False)
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", envvar="HEADRACE_REPLAY_ALL", help="Replay the whole topic.")
    ] = False,
    into: Annotated[
        str | None,
        typer.Option(
            "--into",
            envvar="HEADRACE_REPLAY_INTO",
            show_default=False,
            help="For the embedder and the indexer: the generation of the index to fill. Default: "
            "HEADRACE_KAFKA_GENERATION.",
        ),
    ] = None,
    rate: Annotated[
        int | None,
        typer.Option(
            "--rate", envvar="HEADRACE_REPLAY_RATE", min=1, help="Maximum records per second.", show_default=False
        ),
    ] = None,
    outstanding: Outstanding = OUTSTANDING,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", envvar="HEADRACE_DRY_RUN", help="Show what would be sent without sending it.")
    ] = False,
    *,
    operator: InLog,
    as_json: options.Json = False,
) -> None:
    """Start a replay: a stage reads records again, up to the current end of the log, beside the live ones.

    The command scans the stage's source topic: one partition for a document, all partitions for a tenant. Ctrl-C
    interrupts the replay; `replay resume` continues it.
    """
    from headrace_cli.views import replay as replay_view
    from headrace_operations.replay import start as operations
    from headrace_operations.replay.start import ReplayRequest

    cluster = operations.into(operator.cluster(), operator.store(), stage, into)
    when = moment(since, "--since", datetime.now(UTC))
    request = ReplayRequest(stage, everything, from_offset or (), when, document, tenant, rate)
    planned = operations.plan(cluster, request)
    replay_view.say_cut_off(planned)
    if dry_run:
        found = asyncio.run(operations.estimate(operator.with_readable_store(cluster), planned.run))
        replay_view.say_estimate(planned, found, as_json=as_json)
        return
    copier = operations.begin(cluster, planned, outstanding)
    replay_view.say_begun(planned.run.run_id)
    replay_view.carry_out(copier, planned.run.run_id, as_json=as_json)


@command(commands, "list", "List the replays.")
def show_all(*, operator: InLog, as_json: options.Json = False) -> None:
    """List all replays, newest last."""
    from headrace_cli.views import replay as replay_view
    from headrace_operations.replay import runs

    cluster = operator.cluster()
    replay_view.show_runs(list(runs.read_runs(cluster.kafka, cluster.codec).values()), as_json=as_json)


@command(commands, "status", "Show the progress of a replay.")
def status(run_id: RunId, *, operator: InLog, as_json: options.Json = False) -> None:
    """Show the last recorded progress of a replay."""
    from headrace_cli.views import replay as replay_view
    from headrace_operations.replay import runs

    cluster = operator.cluster()
    replay_view.say_run(runs.read_run(cluster.kafka, cluster.codec, run_id), as_json=as_json)


@command(commands, "resume", "Resume a replay that was paused or interrupted.")
def resume(
    run_id: RunId,
    outstanding: Outstanding = OUTSTANDING,
    why: Why = "",
    *,
    operator: InLog,
    as_json: options.Json = False,
) -> None:
    """Resume a replay: end its pause and continue where it stopped. No record is sent twice.

    If another command is still running the replay, this command takes over.
    """
    from headrace_cli.views import replay as replay_view
    from headrace_operations.replay import start as operations

    copier = operations.take_up(operator.cluster(), run_id, why, outstanding)
    replay_view.carry_out(copier, run_id, as_json=as_json)


@command(commands, "pause", "Pause a replay.")
def pause(run_id: RunId, why: Why = "", *, operator: InLog, as_json: options.Json = False) -> None:
    """Pause a replay until you resume it. Records already in the side lanes are still processed."""
    from headrace_cli.views import replay as replay_view
    from headrace_operations.replay import start as operations

    replay_view.say_paused(operations.pause(operator.cluster(), run_id, why), as_json=as_json)


@command(commands, "cancel", "Cancel a replay.")
def cancel(run_id: RunId, why: Why = "", *, operator: InLog, as_json: options.Json = False) -> None:
    """Cancel a replay. Records already in the side lanes are still processed; the rest is never sent."""
    from headrace_cli.views import replay as replay_view
    from headrace_operations.replay import start as operations

    replay_view.say_run(operations.cancel(operator.cluster(), run_id, why), as_json=as_json)
