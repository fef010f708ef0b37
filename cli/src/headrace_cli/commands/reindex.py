"""``reindex start|status|verify|switch|rollback|drop``: another model, template or analyzer without downtime."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from headrace.embeddings.preparation import OverLong
from headrace_cli import options, output
from headrace_cli.asking import require_yes
from headrace_cli.command import command, commands_of
from headrace_cli.context import InLogAndStore
from headrace_cli.exit_codes import ExitCode
from headrace_cli.stack.beside import Model, local_stack

Name: TypeAlias = Annotated[str, typer.Argument(metavar="GENERATION", help="Name of a generation, such as g2.")]
Force: TypeAlias = Annotated[
    bool, typer.Option("--force", envvar="HEADRACE_REINDEX_FORCE", help="Skip the checks; documents may be missing.")
]
EmbedderUrl: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--embedder-url", envvar="HEADRACE_REINDEX_EMBEDDER_URL", show_default=False,
        help="Where the new embedder answers queries; gateway and generator use it for this generation. Not needed for "
        "the local stack, or if their own setting contains {generation}.",
    ),
]  # fmt: skip
commands = commands_of("reindex", "Change the model, template or analyzer of the index without downtime.")


@command(commands, "start", "Build a new generation beside the active one, or continue.")
def start(
    model: Annotated[
        str | None,
        typer.Option(
            "--model", envvar="HEADRACE_REINDEX_MODEL", show_default=False,
            help="The new embedding model: a name, a folder, or hashing-N. Default: the active one's.",
        ),
    ] = None,
    generation: Annotated[
        str | None,
        typer.Option(
            "--generation", envvar="HEADRACE_REINDEX_GENERATION", show_default=False,
            help="Name of the new generation. Default: the one that is being built, or the next number, such as g2.",
        ),
    ] = None,
    provider: Annotated[
        str | None,
        typer.Option(
            "--provider", envvar="HEADRACE_REINDEX_PROVIDER", show_default=False,
            help="For the local stack: embedding provider. Default: by the model's name, or the running one.",
        ),
    ] = None,
    dimensions: Annotated[
        int | None,
        typer.Option(
            "--dimensions", envvar="HEADRACE_REINDEX_DIMENSIONS", min=1, show_default=False,
            help="Dimensions of its vectors; not needed for a known model.",
        ),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            "--template", envvar="HEADRACE_REINDEX_TEMPLATE", show_default=False,
            help="Text template with the fields {title}, {section}, {body} and {tags}. Default: the active one's.",
        ),
    ] = None,
    passage_prompt: Annotated[
        str | None,
        typer.Option(
            "--passage-prompt", envvar="HEADRACE_REINDEX_PASSAGE_PROMPT", show_default=False,
            help="Prompt before each text. Default: the known model's.",
        ),
    ] = None,
    query_prompt: Annotated[
        str | None,
        typer.Option(
            "--query-prompt", envvar="HEADRACE_REINDEX_QUERY_PROMPT", show_default=False,
            help="For the local stack: prompt before each query. Default: the known model's.",
        ),
    ] = None,
    over_long: Annotated[
        OverLong | None,
        typer.Option(
            "--over-long", envvar="HEADRACE_REINDEX_OVER_LONG", show_default=False,
            help="How to embed texts that exceed the model's input limit. Default: as the active one.",
        ),
    ] = None,
    analyzer: Annotated[
        str | None,
        typer.Option(
            "--analyzer", envvar="HEADRACE_REINDEX_ANALYZER", show_default=False,
            help="Analyzer of lexical search: words-1/ and the language of the stems, or words-1/none.",
        ),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage", envvar="HEADRACE_REINDEX_STORAGE", show_default=False,
            help="Storage of vectors: vector (float32), halfvec (float16), or binary (float16, an index of bits).",
        ),
    ] = None,
    distance: Annotated[
        str | None,
        typer.Option(
            "--distance", envvar="HEADRACE_REINDEX_DISTANCE", show_default=False,
            help="Distance of vectors: cosine, l2 or inner_product.",
        ),
    ] = None,
    embedder_url: EmbedderUrl = None,
    rate: Annotated[
        int | None,
        typer.Option(
            "--rate", envvar="HEADRACE_REINDEX_RATE", min=1, show_default=False,
            help="Maximum documents per second that fill the generation. Live changes are not limited.",
        ),
    ] = None,
    kind: Annotated[
        str, typer.Option("--kind", envvar="HEADRACE_INDEX_KIND", help="Kind of the vectors' index: hnsw or ivfflat.")
    ] = "hnsw",
    replication_factor: Annotated[
        int,
        typer.Option(
            "--replication-factor", envvar="HEADRACE_BOOTSTRAP_REPLICATION_FACTOR", min=1,
            help="Replication factor of its topics.",
        ),
    ] = 1,
    refill: Annotated[
        bool,
        typer.Option("--refill", envvar="HEADRACE_REINDEX_REFILL", help="Fill it once more, although it was filled."),
    ] = False,
    wait_s: Annotated[
        float,
        typer.Option(
            "--wait-workers", envvar="HEADRACE_REINDEX_WAIT_S", min=0,
            help="Outside the local stack: seconds to wait until its embedder and indexer are deployed.",
        ),
    ] = 3600.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", envvar="HEADRACE_DRY_RUN", help="Show what would be built and its model calls.")
    ] = False,
    *,
    operator: InLogAndStore,
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Create a generation, start its embedder and indexer, fill it from the log, and build the index of its vectors.

    Search continues in the active generation, and live changes go to both. Ctrl-C or a crash stops the command, not the
    services; run it again to continue where it was. Afterwards: reindex verify, then reindex switch.
    """
    from headrace.store.dense_index import kind_of
    from headrace_cli.stack import reindexing
    from headrace_operations.reindex.target import Wanted

    local = local_stack(operator.folder, operator.kafka, os.environ)
    chosen = Model(model, provider, dimensions, query_prompt)
    wanted = Wanted(model, dimensions, distance, template, passage_prompt, over_long, analyzer, storage, embedder_url)
    request = reindexing.Start(
        generation, wanted, chosen, rate, kind_of(kind), replication_factor, wait_s, refill=refill
    )  # fmt: skip
    reindexing.start(operator.whole_cluster(), local, request, dry_run=dry_run, as_json=as_json)


@command(commands, "status", "Show how far each generation is.")
def status(
    generation: Annotated[
        str | None, typer.Argument(metavar="GENERATION", help="Only this one. Default: all.", show_default=False)
    ] = None,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", "-w", envvar="HEADRACE_REINDEX_WATCH",
            help="Show it again every two seconds, until nothing is being filled or Ctrl-C.",
        ),
    ] = False,
    *,
    operator: InLogAndStore,
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Show documents done of all, the rate, the remaining time, the index and the workers of each generation."""
    from headrace_cli.views import reindex as view

    view.watched(operator.whole_cluster(), generation, watch=watch, as_json=as_json)


@command(commands, "verify", "Verify that a generation is complete and finds what it should.")
def verify(
    name: Name,
    questions: Annotated[
        Path | None,
        typer.Option(
            "--questions", envvar="HEADRACE_REINDEX_QUESTIONS", exists=True, dir_okay=False, show_default=False,
            help='JSON lines of {"question": "…", "document": "ID", "tenant": "…"}. Default: headings of documents.',
        ),
    ] = None,
    tenant: Annotated[
        str | None,
        typer.Option(
            "--tenant", envvar="HEADRACE_TENANT", help="Tenant of questions that name none.", show_default=False
        ),
    ] = None,
    count: Annotated[
        int,
        typer.Option(
            "--count", envvar="HEADRACE_REINDEX_COUNT", min=0, max=10_000,
            help="Number of headings to draw as questions. 0 asks none.",
        ),
    ] = 200,
    seed: Annotated[
        str, typer.Option("--seed", envvar="HEADRACE_REINDEX_SEED", help="The same seed draws the same headings.")
    ] = "headrace",
    maximum_loss: Annotated[
        float,
        typer.Option(
            "--maximum-loss", envvar="HEADRACE_REINDEX_MAXIMUM_LOSS", min=0, max=1,
            help="How much less nDCG@10 and recall@10 may be than those of the active generation.",
        ),
    ] = 0.02,
    deep: Annotated[
        bool,
        typer.Option(
            "--deep", envvar="HEADRACE_AUDIT_DEEP",
            help="Also hash every text again and compare every vector with the cached one.",
        ),
    ] = False,
    embedder_url: EmbedderUrl = None,
    *,
    operator: InLogAndStore,
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Compare coverage, digests and the quality of search of a generation with the log and the active generation.

    Coverage: every live document is in it in its current version, or on its way. Digests: the audit against the log.
    Quality: questions through both generations, each with its own embedder. Exits with code 8 if something is wrong.
    """
    from headrace_cli.stack import reindexing
    from headrace_cli.views import reindex as view
    from headrace_operations.reindex.questions import read_questions
    from headrace_operations.reindex.verify import VerifyRequest
    from headrace_operations.reindex.verify import verify as verified

    asked = read_questions(questions, tenant) if questions is not None else []
    local = local_stack(operator.folder, operator.kafka, os.environ)
    access = reindexing.embedder_access(operator, local, embedder_url)
    request = VerifyRequest(name, asked, count, seed, maximum_loss, deep=deep)
    searched = operator.store() or operator.owner_store()
    found = asyncio.run(
        reindexing.with_embedder(
            access, lambda embedder: verified(operator.whole_cluster(), searched, embedder, request, output.say)
        )
    )
    view.show_verified(found, as_json=as_json)
    if found.problems:
        raise typer.Exit(ExitCode.INCONSISTENT)


@command(commands, "switch", "Switch search to a generation.")
def switch(
    name: Name,
    force: Force = False,
    settle: Annotated[
        float,
        typer.Option(
            "--settle",
            envvar="HEADRACE_REINDEX_SETTLE_S",
            min=0,
            help="Seconds until documents that are on their way must have arrived.",
        ),
    ] = 30.0,
    embedder_url: EmbedderUrl = None,
    *,
    operator: InLogAndStore,
    as_json: options.Json = False,
) -> None:
    """Switch search to a generation in one transaction; every gateway follows within five seconds.

    Refused, with the counts, while documents are missing that are not on their way, while the generation has no index,
    or if its embedder does not answer. The previous generation stays fresh for a rollback, until it is dropped.
    """
    from headrace_cli.stack import reindexing
    from headrace_cli.views import reindex as view
    from headrace_operations.reindex.switch import switch as switched

    local = local_stack(operator.folder, operator.kafka, os.environ)
    access = reindexing.embedder_access(operator, local, embedder_url)
    found = asyncio.run(
        reindexing.with_embedder(
            access,
            lambda embedder: switched(
                operator.owner_store(),
                operator.whole_cluster,
                name,
                reindexing.ping_of(embedder),
                force=force,
                settle_s=settle,
            ),
        )
    )
    view.show_switched(found, as_json=as_json)


@command(commands, "rollback", "Switch search back to the previous generation.")
def rollback(
    force: Force = False,
    embedder_url: EmbedderUrl = None,
    *,
    operator: InLogAndStore,
    as_json: options.Json = False,
) -> None:
    """Switch search back to the generation that was searched before, which must still have its embedder."""
    from headrace_cli.stack import reindexing
    from headrace_cli.views import reindex as view
    from headrace_operations.reindex.switch import rollback as rolled_back

    local = local_stack(operator.folder, operator.kafka, os.environ)
    access = reindexing.embedder_access(operator, local, embedder_url)
    found = asyncio.run(
        reindexing.with_embedder(
            access,
            lambda embedder: rolled_back(operator.owner_store(), reindexing.ping_of(embedder), force=force),
        )
    )
    view.show_switched(found, as_json=as_json)


@command(commands, "drop", "Drop a generation that is not searched.")
def drop(name: Name, yes: options.Yes = False, *, operator: InLogAndStore, as_json: options.Json = False) -> None:
    """Drop a generation: its services on the local stack, tables, topics, groups, cached vectors and name in documents.

    Refused for the generation that is searched. It cannot be undone, and the name stays taken. A drop that was
    interrupted is finished by running it again.
    """
    from headrace_cli.stack import reindexing
    from headrace_cli.views import reindex as view
    from headrace_operations.reindex import drop as dropping

    cluster = operator.whole_cluster()
    if asyncio.run(dropping.require_droppable(cluster, name)) is not None:
        require_yes(f"Drop generation {name} with all its vectors? Search cannot go back to it.", yes=yes)
    local = local_stack(operator.folder, operator.kafka, os.environ)
    stop = reindexing.stop_of(cluster, local, name)
    view.show_dropped(asyncio.run(dropping.drop(cluster, name, stop, output.say)), as_json=as_json)
