"""``generations list|create|activate``: a second index is built beside the first, and searched from one moment on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from headrace.bootstrap import create_topics
from headrace.embedding_models import KNOWN, KnownModel, identity
from headrace.preparation import OverLong, Preparation, parse_template
from headrace.store import generations as store
from headrace.store.generations import create_generation, embedding_table, may_switch
from headrace.store.pool import StoreSettings
from headrace.store.records import Generation
from headrace_cli import options, output
from headrace_cli.command import command, commands_of
from headrace_cli.context import STORE_DSN, audited, clients, described, generations, owner_store
from headrace_cli.failures import CommandError, NotReachable, UsageError
from headrace_operations.audit.run import Scope
from headrace_operations.audit.store_view import opened_pool

if TYPE_CHECKING:
    from headrace.store.pool import Connection

Name: TypeAlias = Annotated[
    str, typer.Argument(metavar="GENERATION", help="Lower-case letters, digits and underscores, as g2.")
]
commands = commands_of("generations", "Generations of the index: one model's complete set of vectors each.")


@command(commands, "list", "Show the generations.")
def show_all(state_dir: options.StateDir = None, as_json: options.Json = False) -> None:
    """Show every generation with its model and state, from HEADRACE_STORE_DSN or the local stack's store."""
    known = asyncio.run(generations(state_dir))
    if known is None:
        raise NotReachable(
            "no PostgreSQL is known", where=STORE_DSN, remedy="Start the local stack with `headrace up`, or set it."
        )
    if as_json:
        output.emit([asdict(one) for one in known])
        return
    columns = ("Generation", "Model", "Dimensions", "Distance", "State", "Text")
    rows = [(one.name, one.model, one.dimensions, one.distance, one.state, one.template) for one in known]
    output.console().print(output.table(columns, rows, right=("Dimensions",)) if rows else "There is none yet.")


@command(commands, "create", "Make room for another model's vectors.")
def create(
    name: Name,
    model: Annotated[
        str, typer.Option("--model", envvar="HEADRACE_BOOTSTRAP_MODEL", help="Identity of the embedding model.")
    ],
    dimensions: Annotated[
        int | None,
        typer.Option(
            "--dimensions",
            envvar="HEADRACE_BOOTSTRAP_DIMENSIONS",
            min=1,
            help="Numbers in its vectors; not needed of a model that is known.",
            show_default=False,
        ),
    ] = None,
    distance: Annotated[
        str, typer.Option("--distance", envvar="HEADRACE_DISTANCE", help="cosine, l2 or inner_product.")
    ] = "cosine",
    template: Annotated[
        str,
        typer.Option(
            "--template",
            envvar="HEADRACE_BOOTSTRAP_TEXT_TEMPLATE",
            help="What is embedded of a chunk: {title}, {section}, {body} and {tags} among words.",
        ),
    ] = "{body}",
    passage_prompt: Annotated[
        str | None,
        typer.Option(
            "--passage-prompt",
            envvar="HEADRACE_BOOTSTRAP_PASSAGE_PROMPT",
            help="What the model wants before each passage; without it, what a model that is known wants.",
            show_default=False,
        ),
    ] = None,
    over_long: Annotated[
        OverLong,
        typer.Option(
            "--over-long",
            envvar="HEADRACE_BOOTSTRAP_OVER_LONG",
            help="What becomes of texts that the model does not read whole.",
        ),
    ] = OverLong.CUT,
    replication_factor: Annotated[
        int,
        typer.Option(
            "--replication-factor",
            envvar="HEADRACE_BOOTSTRAP_REPLICATION_FACTOR",
            min=1,
            help="Copies of each partition of its topics.",
        ),
    ] = 1,
    postgres: options.PostgresDsn = None,
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    registry: options.RegistryUrl = None,
    as_json: options.Json = False,
) -> None:
    """Create the table and the topics of a generation, which nothing searches yet; a repeat changes nothing.

    An embedder and an indexer with HEADRACE_KAFKA_GENERATION set to it fill it from the log, beside those of the active
    one: they begin with the oldest record of the compacted topic chunks and go on with what comes.
    """
    embedding_table(name)  # refuses a bad name before anything is made
    parse_template(template)
    known = _known(model, dimensions, passage_prompt)
    preparation = Preparation(template, known.passage_prompt, over_long)
    settings, _ = clients(state_dir, kafka, registry)
    owner = owner_store(state_dir, postgres)

    async def make(connection: Connection) -> Generation:
        await _see_rights(connection)
        return await create_generation(connection, name, model, known.dimensions, distance, preparation)

    made: Generation = asyncio.run(_as_owner(owner, make))
    topics = create_topics(settings.of(name), replication_factor)
    if as_json:
        output.emit({**asdict(made), "topics": topics})
        return
    typer.echo(f"generation {described(made)}; {len(topics)} topics created")
    output.say(f"start an embedder with that model and an indexer, both with HEADRACE_KAFKA_GENERATION={name}")


def _known(model: str, dimensions: int | None, passage_prompt: str | None) -> KnownModel:
    """Return what the options say of a model, and what is known of it by name where they say nothing."""
    known = KNOWN.get(identity(model))
    if known is None:
        if dimensions is None:
            raise UsageError(
                f"nothing is known of the model {model}", where="--model",
                remedy="Say with --dimensions how many numbers its vectors have, and its prompt with --passage-prompt.",
            )  # fmt: skip
        known = KnownModel(dimensions)
    return known._replace(
        dimensions=dimensions or known.dimensions,
        passage_prompt=known.passage_prompt if passage_prompt is None else passage_prompt,
    )


@command(commands, "activate", "Have a generation searched from now on; the way back as well.")
def activate(
    name: Name,
    under_way: Annotated[
        int,
        typer.Option(
            "--under-way",
            envvar="HEADRACE_UNDER_WAY",
            min=0,
            help="Most documents that may be on their way to it; live changes always are.",
        ),
    ] = 0,
    unchecked: Annotated[
        bool,
        typer.Option(
            "--unchecked", envvar="HEADRACE_UNCHECKED", help="Do not audit it first: documents may be missing in it."
        ),
    ] = False,
    postgres: options.PostgresDsn = None,
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    registry: options.RegistryUrl = None,
    as_json: options.Json = False,
) -> None:
    """Have searches use a generation from now on, and no other: within seconds on every gateway, without a restart.

    It is audited first, and refused while documents, chunks or vectors are missing in it. The one before stays as it
    is, kept fresh as long as its embedder and indexer run, so the same command is the way back.
    """
    owner = owner_store(state_dir, postgres)
    asyncio.run(_as_owner(owner, _see_rights))
    if not unchecked:
        report = audited(*clients(state_dir, kafka, registry), owner, Scope(generation=name))
        if report.findings or len(report.pending) > under_way:
            raise CommandError(
                f"generation {name} is not complete: {len(report.findings)} findings, {len(report.pending)} documents "
                "under way",
                remedy=f"`headrace audit --generation {name}` lists them, each with its repair; --under-way allows for "
                "live changes, --unchecked for everything.",
            )  # fmt: skip
    asyncio.run(_as_owner(owner, lambda connection: store.activate(connection, name)))
    if as_json:
        output.emit({"active": name})
    else:
        typer.echo(f"generation {name} is searched now")


async def _see_rights(connection: Connection) -> None:
    """Raise :class:`CommandError` for a login that may not change generations, before anything is done."""
    if not await may_switch(connection):
        raise CommandError(
            "this login of PostgreSQL may not change the generations", where=STORE_DSN,
            remedy="Give --postgres, or HEADRACE_BOOTSTRAP_POSTGRES_DSN, with the role that owns the schema.",
        )  # fmt: skip


async def _as_owner(store: StoreSettings, act: Callable[[Connection], Awaitable[Any]]) -> Any:
    """Do it on a connection of the role that owns the schema; services may not."""
    async with opened_pool(store.model_copy(update={"pool_minimum": 0})) as pool, pool.acquire() as connection:
        return await act(connection)
