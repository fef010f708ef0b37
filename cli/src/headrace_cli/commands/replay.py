"""``replay start|list|status|resume|pause|cancel``: a stage's records once more, beside the live stream."""

from __future__ import annotations

import asyncio
import getpass
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
from typer.core import TyperGroup

from headrace import control, names
from headrace.avro.codec import Codec
from headrace.preparation import Preparation
from headrace.records import ReplayRun
from headrace.settings import KafkaSettings
from headrace.stage import EMBEDDER, STAGES
from headrace.store.generations import get_generation
from headrace_cli import options, output
from headrace_cli.command import command, commands_of
from headrace_cli.context import clients, opened_store, require_generation, store_settings
from headrace_cli.exit_codes import ExitCode
from headrace_cli.failures import UsageError
from headrace_cli.times import moment
from headrace_cli.views.replay import as_document, percent, say_estimate, say_run, shown
from headrace_operations.replay.copier import Copier
from headrace_operations.replay.plan import Estimate, Known, cached_in, estimate, plan
from headrace_operations.replay.runs import OPEN, lanes_of, read_open, read_run, read_runs
from headrace_operations.replay.selection import Selection

if TYPE_CHECKING:
    from headrace.store.pool import Pool

RunId: TypeAlias = Annotated[str, typer.Argument(metavar="RUN", help="The replay's id, as `replay list` shows it.")]
Why: TypeAlias = Annotated[str, typer.Option("--why", envvar="HEADRACE_WHY", help="The reason, kept with the order.")]
Outstanding: TypeAlias = Annotated[
    int,
    typer.Option(
        "--outstanding", envvar="HEADRACE_REPLAY_OUTSTANDING", min=1,
        help="Most records that may wait in the side lanes: what a pause or a cancel cannot call back.",
    ),
]  # fmt: skip
_OBEYS_S = 3.0
"""Seconds after which whoever carries a replay out has surely obeyed."""
_PLACE = re.compile(r"(.+):(\d{1,9}):(\d{1,18})")


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
    outstanding: Outstanding = 2000,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", envvar="HEADRACE_DRY_RUN", help="Say what would be sent, send nothing.")
    ] = False,
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    registry: options.RegistryUrl = None,
    as_json: options.Json = False,
) -> None:
    """Have a stage read records again that it has read before, up to the log's end now, beside the live ones.

    A document is looked for in the one partition of its key, a tenant in all of them: a filtered scan of the stage's
    source topic. Ctrl-C leaves the replay where it is; `replay resume` goes on.
    """
    settings, codec = clients(state_dir, kafka, registry)
    settings = _into(settings, into, stage, state_dir)
    selection = selection_of(settings, stage, from_offset, since, document, tenant, everything=everything)
    planned = plan(settings, selection, rate=rate, asked_by=getpass.getuser(), now=datetime.now(UTC))
    run = planned.run
    for number, offset in planned.cut_off.items():
        output.say(f"{run.source}[{number}] begins at offset {offset}: what was before aged out and takes no part; "
                   "the compacted topics documents and chunks keep the newest version of every document")  # fmt: skip
    if dry_run or tenant is not None:
        found = _estimate(settings, codec, run, state_dir, exactly=dry_run)
    if dry_run:
        say_estimate(planned, found, as_json=as_json)
        return
    copier = Copier(settings, codec, outstanding=outstanding)
    copier.begin(run)
    output.say(f"replay {run.run_id} begins; from elsewhere: headrace replay status|pause|cancel {run.run_id}")
    _carry_out(copier, run.run_id, as_json=as_json)


@command(commands, "resume", "Go on with a replay that was paused, interrupted or died.")
def resume(
    run_id: RunId,
    outstanding: Outstanding = 2000,
    why: Why = "",
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    registry: options.RegistryUrl = None,
    as_json: options.Json = False,
) -> None:
    """Go on with a replay: lift its pause, and carry it out from where it is; no record is sent twice.

    A command that still carries it out elsewhere is taken over.
    """
    settings, codec = clients(state_dir, kafka, registry)
    settings = lanes_of(settings, read_open(settings, codec, run_id))
    _order(settings, codec, "RESUME", run_id, why)
    _carry_out(Copier(settings, codec, outstanding=outstanding), run_id, as_json=as_json)


@command(commands, "pause", "Have a replay send nothing more for now.")
def pause(
    run_id: RunId,
    why: Why = "",
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    registry: options.RegistryUrl = None,
    as_json: options.Json = False,
) -> None:
    """Have a replay send nothing more until it is resumed; what waits in the side lanes is still done."""
    settings, codec = clients(state_dir, kafka, registry)
    run = read_open(settings, codec, run_id)
    _order(settings, codec, "PAUSE", run_id, why)
    if as_json:
        output.emit(as_document(run))
    else:
        typer.echo(f"replay {run_id}: told to pause")


@command(commands, "cancel", "End a replay where it is.")
def cancel(
    run_id: RunId,
    why: Why = "",
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    registry: options.RegistryUrl = None,
    as_json: options.Json = False,
) -> None:
    """End a replay where it is; what waits in the side lanes is still done, the rest is never sent."""
    settings, codec = clients(state_dir, kafka, registry)
    run = read_open(settings, codec, run_id)
    _order(settings, codec, "CANCEL", run_id, why)
    deadline = time.monotonic() + _OBEYS_S
    while run.state in OPEN and time.monotonic() < deadline:
        time.sleep(0.5)
        run = read_run(settings, codec, run_id)
    if run.state in OPEN:  # nobody carries it out who would obey
        run = Copier(settings, codec).cancel(run_id)
    say_run(run, as_json=as_json)


@command(commands, "list", "Show the replays.")
def show_all(
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    registry: options.RegistryUrl = None,
    as_json: options.Json = False,
) -> None:
    """Show every replay, the newest last."""
    runs = list(read_runs(*clients(state_dir, kafka, registry)).values())
    if as_json:
        output.emit([as_document(run) for run in runs])
        return
    columns = ("Replay", "Stage", "Into", "Selection", "State", "Read", "Sent", "By", "Asked at")
    rows = [
        (run.run_id, run.stage, run.generation if run.stage in names.STAGES else "", run.selection, run.state,
         f"{percent(run)} %", run.sent, run.asked_by, f"{run.asked_at:%Y-%m-%d %H:%M:%S}")
        for run in runs
    ]  # fmt: skip
    output.console().print(output.table(columns, rows, right=("Read", "Sent")) if rows else "There was no replay yet.")


@command(commands, "status", "Show how far a replay is.")
def status(
    run_id: RunId,
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    registry: options.RegistryUrl = None,
    as_json: options.Json = False,
) -> None:
    """Show how far a replay is, as it noted last."""
    say_run(read_run(*clients(state_dir, kafka, registry), run_id), as_json=as_json)


def selection_of(
    settings: KafkaSettings, stage: str, offsets: list[str] | None, since: str | None, document: str | None,
    tenant: str | None, *, everything: bool,
) -> Any:  # fmt: skip
    """Return the selection that the options say; raises :class:`UsageError` for a place or time that is none."""
    places: dict[int, int] = {}
    for text in offsets or []:
        found = _PLACE.fullmatch(text)
        if found is None:
            raise UsageError(f"{text!r} is no place", where="--from-offset", remedy="Write TOPIC:PARTITION:OFFSET.")
        source = STAGES[stage].source if stage in STAGES else None
        if source is not None and found[1] not in (source, names.in_generation(source, settings.generation)):
            raise UsageError(
                f"{found[1]!r} is not what {stage} reads", where="--from-offset",
                remedy=f"It reads {names.in_generation(source, settings.generation)}.",
            )  # fmt: skip
        places[int(found[2])] = int(found[3])
    when = moment(since, "--since", datetime.now(UTC))
    return Selection(stage, everything, places, when, tenant, document)


def _into(settings: KafkaSettings, into: str | None, stage: str, state_dir: Path | None) -> KafkaSettings:
    """Return how to reach the lanes of the generation that is to be filled; refuses one that cannot be."""
    if into is None:
        return settings
    if stage not in names.STAGES:
        raise UsageError(
            f"{stage} serves every generation", where="--into",
            remedy=f"Replay one of {', '.join(sorted(names.STAGES))}: the compacted topic chunks, which the embedder reads, "
            "keeps the newest version of every document.",
        )  # fmt: skip
    require_generation(into, "--into", state_dir)
    return settings.of(into)


def _estimate(
    settings: KafkaSettings, codec: Codec, run: ReplayRun, state_dir: Path | None, *, exactly: bool
) -> Estimate:

    async def count() -> Estimate:
        if run.stage != EMBEDDER.name or not exactly:
            return await estimate(settings, codec, run, None)
        async with opened_store(store_settings(state_dir)) as pool:
            found = None if pool is None else await _known_in(pool, run.generation)
            return await estimate(settings, codec, run, *(found or (None,)))

    return asyncio.run(count())


async def _known_in(pool: Pool, generation: str) -> tuple[Known, Preparation] | None:
    """Return the question which texts have a vector of the generation's model, and how it prepares them.

    None without such a generation.
    """
    async with pool.acquire() as connection:
        found = await get_generation(connection, generation)
    return None if found is None else (cached_in(pool, found.model), found.preparation)


def _carry_out(copier: Any, run_id: str, *, as_json: bool) -> None:
    with shown(run_id) as progress:
        run = copier.carry_out(run_id, progress)
    say_run(run, as_json=as_json)
    if run.state == "CANCELLED":
        raise typer.Exit(ExitCode.FAILED)


def _order(settings: KafkaSettings, codec: Codec, action: str, run_id: str, why: str) -> None:
    control.give(
        settings, codec, action=control.Action(action), scope=control.Scope.RUN, target=run_id, reason=why,
        issued_by=getpass.getuser(),
    )  # fmt: skip
