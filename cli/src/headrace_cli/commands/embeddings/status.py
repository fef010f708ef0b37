"""``embeddings status``: the progress of embedding and what blocks it."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from headrace_cli import options
from headrace_cli.commands.embeddings.options import GenerationName
from headrace_cli.context import InLogAndStore
from headrace_cli.state import provider_name


def status(
    tenant: options.OnlyTenant = None,
    generation: GenerationName = None,
    sample: Annotated[
        float,
        typer.Option(
            "--sample", envvar="HEADRACE_EMBEDDING_SAMPLE_S", min=0, help="Seconds over which to measure the rate."
        ),
    ] = 2.0,
    *,
    operator: InLogAndStore,
    as_json: options.Json = False,
) -> None:
    """Show the embedder's progress through the log, the failed records with reasons, and the spending against caps."""
    from headrace.embeddings.costs import CostSettings, read_book
    from headrace_cli.views import embeddings as embedding_view
    from headrace_operations.embeddings import status as operations
    from headrace_operations.embeddings.status import StatusRequest
    from headrace_operations.generations.listing import require_generation

    cluster = operator.cluster(generation)
    asyncio.run(require_generation(operator.store(), generation, "--generation"))
    settings = CostSettings()
    request = StatusRequest(tenant, sample, provider_name(operator.state_dir))
    found = asyncio.run(operations.status(operator.with_store(cluster), request, read_book(settings.file), settings))
    embedding_view.show_status(found, settings, as_json=as_json)
