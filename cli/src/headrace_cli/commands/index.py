"""``index status|advise|rebuild|tune``: the approximate indexes of the generations."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated, TypeAlias

import typer

from headrace_cli import options, output
from headrace_cli.command import command, commands_of
from headrace_cli.context import InStore
from headrace_cli.failures import UsageError

Any_: TypeAlias = Annotated[
    str | None, typer.Argument(metavar="GENERATION", help="Only this one. Default: all.", show_default=False)
]
Name: TypeAlias = Annotated[str, typer.Argument(metavar="GENERATION", help="Name of a generation, such as g1.")]
Queries: TypeAlias = Annotated[
    int,
    typer.Option(
        "--sample", envvar="HEADRACE_INDEX_SAMPLE", min=0, max=1000,
        help="Number of a tenant's own vectors to search for. 0 measures nothing.",
    ),
]  # fmt: skip
Tenants: TypeAlias = Annotated[
    int, typer.Option("--tenants", envvar="HEADRACE_INDEX_TENANTS", min=1, help="Measure this many largest tenants.")
]
Seconds: TypeAlias = Annotated[
    float,
    typer.Option("--seconds", envvar="HEADRACE_INDEX_SECONDS", min=1, help="Maximum seconds to measure a generation."),
]
commands = commands_of("index", "Inspect and rebuild the indexes of vectors.")


@command(commands, "status", "Show sizes, dead rows, recall and latency.")
def status(
    generation: Any_ = None,
    sample: Queries = 20,
    tenants: Tenants = 3,
    tenant: options.OnlyTenant = None,
    seconds: Seconds = 20.0,
    *,
    operator: InStore,
    as_json: options.Json = False,
) -> None:
    """Show the tables and indexes of each generation, and what its index of vectors finds of the exact result.

    The sample is searched as users search, and again without the index, which reads all vectors of a tenant.
    """
    from headrace_cli.views import index as view
    from headrace_operations.index.look import LookRequest, looked

    request = LookRequest(generation, tenant, sample, tenants, seconds)
    view.show_status(asyncio.run(looked(operator.owner_store(), request)), as_json=as_json)


@command(commands, "advise", "Say what to do about the indexes, with the commands.")
def advise(
    generation: Any_ = None,
    sample: Queries = 20,
    tenants: Tenants = 3,
    tenant: options.OnlyTenant = None,
    seconds: Seconds = 20.0,
    *,
    operator: InStore,
    as_json: options.Json = False,
) -> None:
    """Look at the indexes as `index status` does, and say in plain words what to do, with the commands."""
    from headrace_cli.views import index as view
    from headrace_operations.index.advise import advise as advised
    from headrace_operations.index.look import LookRequest, looked

    request = LookRequest(generation, tenant, sample, tenants, seconds)
    found = asyncio.run(looked(operator.owner_store(), request))
    view.show_advice([one for health in found for one in advised(health)], as_json=as_json)


@command(commands, "rebuild", "Rebuild the index of a generation's vectors.")
def rebuild(
    name: Name,
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind", envvar="HEADRACE_INDEX_KIND", help="hnsw or ivfflat. Default: as it is.", show_default=False
        ),
    ] = None,
    *,
    operator: InStore,
    as_json: options.Json = False,
) -> None:
    """Build a new index beside the old one, with parameters for the present size, then replace the old one.

    Searches and writes continue. If the command is killed, run it again: what was left behind is removed, and a build
    that still runs is waited for.
    """
    from headrace.store.dense_index import kind_of
    from headrace_cli.views.reindex import built
    from headrace_operations.index.build import build

    chosen = None if kind is None else kind_of(kind)
    with built(name) as told:
        found = asyncio.run(build(operator.owner_store(), name, chosen, anew=True, told=told))
    if as_json:
        output.emit(asdict(found))
    else:
        chosen_options = ", ".join(f"{key} {value}" for key, value in found.options.items())
        typer.echo(f"{found.name}: {found.kind}, {chosen_options}, {found.bytes / 2**20:.1f} MiB")


@command(commands, "tune", "Set how much of an index searches read.")
def tune(
    name: Name,
    ef_search: Annotated[
        int | None,
        typer.Option(
            "--ef-search", envvar="HEADRACE_INDEX_EF_SEARCH", min=1, max=1000, show_default=False,
            help="HNSW: candidates to read. More is slower and finds more.",
        ),
    ] = None,
    probes: Annotated[
        int | None,
        typer.Option(
            "--probes", envvar="HEADRACE_INDEX_PROBES", min=1, max=32_768, show_default=False,
            help="IVFFlat: lists to read. More is slower and finds more.",
        ),
    ] = None,
    *,
    operator: InStore,
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Set how many candidates (HNSW) or lists (IVFFlat) searches read first; they follow within five seconds."""
    from headrace_operations.index.look import tune as tuned

    if ef_search is None and probes is None:
        raise UsageError("nothing to set", where="--ef-search, --probes", remedy="Pass one of them or both.")
    found = asyncio.run(tuned(operator.owner_store(), name, ef_search, probes))
    if as_json:
        output.emit({"generation": found.name, "ef_search": found.ef_search, "probes": found.probes})
    else:
        typer.echo(f"{found.name}: ef_search {found.ef_search}, probes {found.probes}")
