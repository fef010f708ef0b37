"""``trace``: the path of a document or request, for operators with access to Kafka."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from headrace_cli import options, output
from headrace_cli.command import command, commands_of
from headrace_cli.context import InLog, opened_store

if TYPE_CHECKING:
    from headrace.store.pool import StoreSettings
    from headrace_operations.cluster import Cluster
    from headrace_operations.trace.log import Limits
    from headrace_operations.trace.model import Traces
    from headrace_operations.trace.request import RequestTrace

Tenant = Annotated[
    str | None,
    typer.Option(
        "--tenant", envvar="HEADRACE_TENANT", help="Owner of the documents. Default: the local stack's tenant.",
        show_default=False,
    ),
]  # fmt: skip
commands = commands_of()


@command(commands, "trace", "Show the path of a document or request through the stages.")
def trace(
    name: Annotated[str, typer.Argument(metavar="DOCUMENT|REQUEST", help="ID of a document, request or run.")],
    is_request: Annotated[
        bool | None,
        typer.Option(
            "--request/--document",
            envvar="HEADRACE_TRACE_REQUEST",
            show_default=False,
            help="What ID names. Default: a request if it is a UUID or the name of a run, otherwise a document.",
        ),
    ] = None,
    tenant: Tenant = None,
    records: options.Records = 50_000,
    seconds: options.Seconds = 30.0,
    *,
    operator: InLog,
    as_json: options.Json = False,
) -> None:
    """Show the path of a document, or of the documents that a request changed, and where they are now.

    For a document, the command shows every version that is still known. It reads the store's row and, in every topic of
    the flow, the partition of its key. For a request, it also reads every partition of the changes and outcomes.
    """
    from headrace_cli.views import trace as trace_view
    from headrace_operations.trace import ask as operations
    from headrace_operations.trace.log import Limits

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
    from headrace_operations.trace import ask as operations

    async with opened_store(store) as pool:
        return await operations.ask_request(cluster, pool, limits, tenant, name)


async def _document(cluster: Cluster, store: StoreSettings | None, limits: Limits, tenant: str, name: str) -> Traces:
    from headrace_operations.trace import ask as operations

    async with opened_store(store) as pool:
        return await operations.ask_document(cluster, pool, limits, tenant, name)
