"""``embeddings estimate``: estimates the cost of embedding."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.topology.stages import EMBEDDER
from headrace_cli import options, output
from headrace_cli.commands.embeddings.options import GenerationName
from headrace_cli.context import InLogAndStore, Operator
from headrace_cli.ingest import sources
from headrace_cli.state import provider_name
from headrace_cli.times import moment
from headrace_cli.views.tracking import tracked

if TYPE_CHECKING:
    from headrace_operations.embeddings.estimate import Lengths
    from headrace_operations.embeddings.estimating import Estimated, EstimateRequest
    from headrace_operations.replay.start import ReplayRequest


def estimate(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH", show_default=False,
            help="Files and folders as for `headrace ingest`. Default: the embedder's records in the log.",
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", envvar="HEADRACE_REPLAY_ALL", help="All of the embedder's records in the log.")
    ] = False,
    from_offset: Annotated[
        list[str] | None,
        typer.Option(
            "--from-offset", envvar="HEADRACE_REPLAY_FROM_OFFSET", metavar="TOPIC:PARTITION:OFFSET", show_default=False,
            help="Records of topic chunks from this offset on; may be repeated. Other partitions are not read.",
        ),
    ] = None,
    tenant: options.OnlyTenant = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since", envvar="HEADRACE_REPLAY_SINCE", show_default=False,
            help="Only records written since: 2026-11-21T10:00 (UTC by default), or 90m, 12h, 7d ago.",
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            "--rate", envvar="HEADRACE_EMBEDDING_RATE", min=0.001, show_default=False,
            help="Texts per second, as measured by `embeddings benchmark`. Without it, no time is estimated.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", envvar="HEADRACE_EMBEDDING_MODEL", show_default=False,
            help="Name or identity of the model. Default: the generation's.",
        ),
    ] = None,
    generation: GenerationName = None,
    *,
    operator: InLogAndStore,
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Estimate what it would cost to embed texts: their number, their tokens, USD, KRW and time. Nothing is embedded.

    For records in the log, the number of texts is exact, and cached texts are left out. Files are not split into
    chunks, so their number of texts is an estimate. With --model, nothing is read from the store. Three characters
    count as one token.
    """
    from headrace.embeddings.costs import CostSettings, read_book
    from headrace_cli.quiet import quiet_logs
    from headrace_cli.views import embeddings as embedding_view
    from headrace_operations.embeddings import estimating
    from headrace_operations.embeddings.estimating import EstimateRequest
    from headrace_operations.replay.start import ReplayRequest

    quiet_logs()
    settings = CostSettings()
    request = EstimateRequest(read_book(settings.file), model, rate, provider_name(operator.state_dir))
    if paths:
        kept = None
        if model is None:
            kept = asyncio.run(estimating.generation_of(operator.owner_store(), generation)).model
        found = asyncio.run(estimating.estimate_texts(request, _lengths(paths, tenant or ""), kept))
    else:
        replay = ReplayRequest(
            EMBEDDER.name, everything, from_offset or (), moment(since, "--since", datetime.now(UTC)), tenant=tenant
        )
        found = _of_log(operator, generation, request, replay)
    embedding_view.show_estimate(found.estimate, found.model, settings, as_json=as_json)


def _of_log(operator: Operator, generation: str | None, request: EstimateRequest, replay: ReplayRequest) -> Estimated:
    from headrace_operations.embeddings import estimating

    cluster = operator.whole_cluster(generation)
    with tracked("read", None) as progress:
        return asyncio.run(estimating.estimate_log(cluster, request, replay, progress))


def _lengths(paths: list[str], tenant: str) -> Lengths:
    from headrace_operations.embeddings.estimating import lengths_of

    unread: list[str] = []
    try:
        with tracked("read", None) as progress:
            return lengths_of(tenant, _texts(paths, unread), progress)
    finally:
        for line in unread:
            output.say(line)


def _texts(paths: list[str], unread: list[str]) -> Iterator[str]:
    """Yield the text of each change that has one; list the others in ``unread``."""
    found = sources.find(paths)
    unread += [f"{failure.origin}: {failure.reason}" for failure in found.failures]
    for source in found.sources:
        for change in sources.read(source, sources.Shape()):
            if isinstance(change, sources.Failure):
                unread.append(f"{change.origin}: {change.reason}")
            elif isinstance(text := change.item.get("content"), str):
                yield text
            elif change.item.get("op", "upsert") != "delete":
                unread.append(
                    f"{change.origin}: skipped; its text is known only after ingest extracts it from the file"
                )
