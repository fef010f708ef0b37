"""``generations list|create|activate``: a second index is built beside the first, and searched from one moment on."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated, TypeAlias

import typer

from headrace.embeddings.preparation import OverLong
from headrace_cli import options, output, tables
from headrace_cli.command import command, commands_of
from headrace_cli.context import STORE_DSN, InFolder, InLogAndStore
from headrace_cli.failures import NotReachable
from headrace_cli.views.audit import told
from headrace_operations.generations import activate as switching
from headrace_operations.generations.activate import ActivateGeneration
from headrace_operations.generations.create import CreateGeneration
from headrace_operations.generations.create import create as create_generation
from headrace_operations.generations.listing import described, generations

Name: TypeAlias = Annotated[
    str, typer.Argument(metavar="GENERATION", help="Lower-case letters, digits and underscores, as g2.")
]
commands = commands_of("generations", "Generations of the index: one model's complete set of vectors each.")


@command(commands, "list", "Show the generations.")
def show_all(*, operator: InFolder, as_json: options.Json = False) -> None:
    """Show every generation with its model and state, from HEADRACE_STORE_DSN or the local stack's store."""
    known = asyncio.run(generations(operator.store()))
    if known is None:
        raise NotReachable(
            "no PostgreSQL is known", where=STORE_DSN, remedy="Start the local stack with `headrace up`, or set it."
        )
    if as_json:
        output.emit([asdict(one) for one in known])
        return
    columns = ("Generation", "Model", "Dimensions", "Distance", "State", "Text")
    rows = [(one.name, one.model, one.dimensions, one.distance, one.state, one.template) for one in known]
    tables.console().print(tables.table(columns, rows, right=("Dimensions",)) if rows else "There is none yet.")


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
    *,
    operator: InLogAndStore,
    as_json: options.Json = False,
) -> None:
    """Create the table and the topics of a generation, which nothing searches yet; a repeat changes nothing.

    An embedder and an indexer with HEADRACE_KAFKA_GENERATION set to it fill it from the log, beside those of the active
    one: they begin with the oldest record of the compacted topic chunks and go on with what comes.
    """
    request = CreateGeneration(
        name, model, dimensions, distance, template, passage_prompt, over_long, replication_factor
    )
    request.known()  # refuses what cannot be before anything is reached
    made = asyncio.run(create_generation(operator.whole_cluster(), request))
    if as_json:
        output.emit({**asdict(made.generation), "topics": made.topics})
        return
    typer.echo(f"generation {described(made.generation)}; {len(made.topics)} topics created")
    output.say(f"start an embedder with that model and an indexer, both with HEADRACE_KAFKA_GENERATION={name}")


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
    *,
    operator: InLogAndStore,
    as_json: options.Json = False,
) -> None:
    """Have searches use a generation from now on, and no other: within seconds on every gateway, without a restart.

    It is audited first, and refused while documents, chunks or vectors are missing in it. The one before stays as it
    is, kept fresh as long as its embedder and indexer run, so the same command is the way back.
    """
    store = operator.owner_store()
    asyncio.run(switching.require_owner(store))
    if not unchecked:
        request = ActivateGeneration(name, under_way)
        asyncio.run(switching.require_complete(operator.whole_cluster(), request, told()))
    asyncio.run(switching.activate(store, name))
    if as_json:
        output.emit({"active": name})
    else:
        typer.echo(f"generation {name} is searched now")
