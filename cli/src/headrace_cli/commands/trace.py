"""``trace``: the whole path of a document or of a request, for operators with access to Kafka."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated

import typer

from headrace.avro.codec import Codec
from headrace.settings import KafkaSettings
from headrace.store.pool import StoreSettings
from headrace_cli import context as operator_access
from headrace_cli import options, output
from headrace_cli.command import command, commands_of
from headrace_cli.commands import pipelines as pipeline_commands
from headrace_cli.context import opened_store
from headrace_cli.failures import UNKNOWN_DOCUMENT, NotFound
from headrace_cli.views import trace as trace_view
from headrace_operations.trace.log import Limits
from headrace_operations.trace.model import Traces
from headrace_operations.trace.request import RequestTrace, trace_request
from headrace_operations.trace.tracer import Tracer

Tenant = Annotated[
    str | None,
    typer.Option(
        "--tenant", envvar="HEADRACE_TENANT", help="Owner of the documents; without it, the local stack's.",
        show_default=False,
    ),
]  # fmt: skip
Records = Annotated[
    int,
    typer.Option(
        "--records", envvar="HEADRACE_TRACE_RECORDS", min=1,
        help="Most records read of each partition, the newest first.",
    ),
]  # fmt: skip
Seconds = Annotated[
    float, typer.Option("--seconds", envvar="HEADRACE_TRACE_SECONDS", min=0.1, help="Longest reading, in seconds.")
]


_REQUEST = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d{8}T\d{6}Z-[0-9a-f]{8}")


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
    records: Records = 50_000,
    seconds: Seconds = 30.0,
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    registry: options.RegistryUrl = None,
    as_json: options.Json = False,
) -> None:
    """Show the way of a document, or of what a request changed, through the stages, and where it is now.

    Of a document, every version that is still known: reads the store's row and, in every topic of the flow, the one
    partition that its key belongs to. For a request, every partition of the changes and outcomes is read besides.
    """
    clients = pipeline_commands.clients(state_dir, kafka, registry)
    owner = operator_access.tenant_of(state_dir, tenant)
    store = operator_access.store_settings(state_dir)
    if is_request or (is_request is None and _REQUEST.fullmatch(name)):
        request = asyncio.run(_request(clients, store, owner, name, Limits(records, seconds)))
        if not request.changes and not request.documents:
            raise NotFound(
                f"nothing is known of a request or run {name!r} of tenant {owner!r}",
                remedy="`headrace runs` lists the latest; a document with such an id needs --document.",
            )
        if as_json:
            output.emit(trace_view.request(request))
        else:
            trace_view.show_request(request)
        return
    found = asyncio.run(_documents(clients, store, owner, name, Limits(records, seconds)))
    if not found.documents[0].versions:
        raise NotFound(f"nothing is known of a document {name!r} of tenant {owner!r}", remedy=UNKNOWN_DOCUMENT)
    if as_json:
        output.emit(trace_view.documents(found))
    else:
        trace_view.show(found)


async def _request(
    clients: tuple[KafkaSettings, Codec], store: StoreSettings | None, tenant: str, name: str, limits: Limits
) -> RequestTrace:

    async with opened_store(store) as pool:
        return await trace_request(*clients, pool, limits, tenant=tenant, request=name)


async def _documents(
    clients: tuple[KafkaSettings, Codec], store: StoreSettings | None, tenant: str, name: str, limits: Limits
) -> Traces:

    async with opened_store(store) as pool:
        return await Tracer(*clients, pool, limits).documents(tenant, [name])
