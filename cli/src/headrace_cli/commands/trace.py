"""``trace``: the whole path of a document or of a request, for operators with access to Kafka."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from headrace.store.pool import StoreSettings
from headrace_cli import options, output
from headrace_cli.command import command, commands_of
from headrace_cli.context import InLog, opened_store
from headrace_cli.views import trace as trace_view
from headrace_operations.cluster import Cluster
from headrace_operations.trace import ask as operations
from headrace_operations.trace.log import Limits
from headrace_operations.trace.model import Traces
from headrace_operations.trace.request import RequestTrace

Tenant = Annotated[
    str | None,
    typer.Option(
        "--tenant", envvar="HEADRACE_TENANT", help="Owner of the documents; without it, the local stack's.",
        show_default=False,
    ),
]  # fmt: skip
commands = commands_of()


@command(commands, "trace", "Show the whole path of a document or request.")
def trace(
    name: Annotated[
        str, typer.Argument(metavar="DOCUMENT|REQUEST", help="A document's id, or that of a request or run.")
    ],
    is_request: Annotated[
        bool | None,
        typer.Option(
            "--request/--document",
            envvar="HEADRACE_TRACE_REQUEST",
            show_default=False,
            help="What the name is; without it, a UUID or the name of a run is a request, all else a document.",
        ),
    ] = None,
    tenant: Tenant = None,
    records: options.Records = 50_000,
    seconds: options.Seconds = 30.0,
    *,
    operator: InLog,
    as_json: options.Json = False,
) -> None:
    """Show the way of a document, or of what a request changed, through the stages, and where it is now.

    Of a document, every version that is still known: reads the store's row and, in every topic of the flow, the one
    partition that its key belongs to. For a request, every partition of the changes and outcomes is read besides.
    """
    cluster = operator.cluster()
    owner, store, limits = operator.tenant(tenant), operator.store(), Limits(records, seconds)
    if operations.is_request(name) if is_request is None else is_request:
        request = asyncio.run(_request(cluster, store, limits, owner, name))
        if as_json:
            output.emit(trace_view.request(request))
        else:
            trace_view.show_request(request)
        return
    found = asyncio.run(_document(cluster, store, limits, owner, name))
    if as_json:
        output.emit(trace_view.documents(found))
    else:
        trace_view.show(found)


async def _request(
    cluster: Cluster, store: StoreSettings | None, limits: Limits, tenant: str, name: str
) -> RequestTrace:
    async with opened_store(store) as pool:
        return await operations.ask_request(cluster, pool, limits, tenant, name)


async def _document(cluster: Cluster, store: StoreSettings | None, limits: Limits, tenant: str, name: str) -> Traces:
    async with opened_store(store) as pool:
        return await operations.ask_document(cluster, pool, limits, tenant, name)
