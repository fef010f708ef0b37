"""``generations list|create``: the generations of the index; ``reindex`` builds and switches them."""

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

Name: TypeAlias = Annotated[
    str, typer.Argument(metavar="GENERATION", help="Lower-case letters, digits and underscores, such as g2.")
]
commands = commands_of("generations", "List and create generations of the index.")


@command(commands, "list", "List the generations.")
def show_all(*, operator: InFolder, as_json: options.Json = False) -> None:
    """List every generation with its model and state, from HEADRACE_STORE_DSN or the local stack's store."""
    from headrace_operations.generations.listing import generations

    known = asyncio.run(generations(operator.store()))
    if known is None:
        raise NotReachable(
            "no PostgreSQL address found",
            where=STORE_DSN,
            remedy="Start the local stack with `headrace up`, or set the variable.",
        )
    if as_json:
        output.emit([asdict(one) for one in known])
        return
    columns = ("Generation", "Model", "Dimensions", "Distance", "State", "Text")
    rows = [(one.name, one.model, one.dimensions, one.distance, one.state, one.template) for one in known]
    tables.console().print(tables.table(columns, rows, right=("Dimensions",)) if rows else "No generations yet.")


@command(commands, "create", "Create a generation for another embedding model.")
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
            help="Dimensions of its vectors; not needed for a known model.",
            show_default=False,
        ),
    ] = None,
    distance: Annotated[
        str,
        typer.Option(
            "--distance", envvar="HEADRACE_DISTANCE", help="Distance of vectors: cosine, l2 or inner_product."
        ),
    ] = "cosine",
    template: Annotated[
        str,
        typer.Option(
            "--template",
            envvar="HEADRACE_BOOTSTRAP_TEXT_TEMPLATE",
            help="Text template: text with the fields {title}, {section}, {body} and {tags}.",
        ),
    ] = "{body}",
    passage_prompt: Annotated[
        str | None,
        typer.Option(
            "--passage-prompt",
            envvar="HEADRACE_BOOTSTRAP_PASSAGE_PROMPT",
            help="Prompt before each text. Default: the known model's.",
            show_default=False,
        ),
    ] = None,
    over_long: Annotated[
        OverLong,
        typer.Option(
            "--over-long",
            envvar="HEADRACE_BOOTSTRAP_OVER_LONG",
            help="How to embed texts that exceed the model's input limit.",
        ),
    ] = OverLong.CUT,
    analyzer: Annotated[
        str,
        typer.Option(
            "--analyzer",
            envvar="HEADRACE_BOOTSTRAP_ANALYZER",
            help="Analyzer of lexical search: words-1/ and the language of the stems, or words-1/none.",
        ),
    ] = "words-1/english",
    storage: Annotated[
        str,
        typer.Option(
            "--storage",
            envvar="HEADRACE_BOOTSTRAP_STORAGE",
            help="Storage of vectors: vector (float32), halfvec (float16), or binary (float16, an index of bits).",
        ),
    ] = "vector",
    replication_factor: Annotated[
        int,
        typer.Option(
            "--replication-factor",
            envvar="HEADRACE_BOOTSTRAP_REPLICATION_FACTOR",
            min=1,
            help="Replication factor of its topics.",
        ),
    ] = 1,
    *,
    operator: InLogAndStore,
    as_json: options.Json = False,
) -> None:
    """Create the table and topics of a generation. It is not searched yet. Running the command again changes nothing.

    To fill it, run an embedder and an indexer with HEADRACE_KAFKA_GENERATION set to it, beside those of the active
    generation. They start with the oldest record of the compacted topic chunks and continue with new records.
    """
    from headrace_operations.generations.create import CreateGeneration
    from headrace_operations.generations.create import create as create_generation
    from headrace_operations.generations.listing import described

    request = CreateGeneration(
        name, model, dimensions, distance, template, passage_prompt, over_long, analyzer, storage, replication_factor
    )
    request.wanted()  # refuses invalid requests before connecting
    made = asyncio.run(create_generation(operator.whole_cluster(), request))
    if as_json:
        output.emit({**asdict(made.generation), "topics": made.topics})
        return
    typer.echo(f"generation {described(made.generation)}; {len(made.topics)} topics created")
    output.say(f"start an embedder with that model and an indexer, both with HEADRACE_KAFKA_GENERATION={name}")
