"""``keys create|list|revoke``: the API keys of a tenant, and for whom each reads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar

import typer

from headrace_cli import options, output, tables
from headrace_cli.command import command, commands_of
from headrace_cli.context import InStore, Operator
from headrace_cli.failures import NotFound, UsageError

if TYPE_CHECKING:
    from headrace.access.readers import Reader
    from headrace.store.pool import Connection

Name: TypeAlias = Annotated[str, typer.Argument(metavar="NAME", help="Name of the key, to list and revoke it by.")]
Tenant: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--tenant", envvar="HEADRACE_TENANT", help="Tenant of the key. Default: the local stack's.", show_default=False
    ),
]
T = TypeVar("T")
_LONGEST_NAME = 255

commands = commands_of("keys", "Create, list and revoke API keys.")


@command(commands, "create", "Create an API key, and print it once.")
def create(
    name: Name,
    tenant: Tenant = None,
    user: Annotated[
        str | None,
        typer.Option("--user", envvar="HEADRACE_KEY_USER", help="User that it reads for.", show_default=False),
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(
            "--group", envvar="HEADRACE_KEY_GROUPS", help="Group that it reads for; may be repeated.",
            show_default=False,
        ),
    ] = None,
    project: Annotated[
        list[str] | None,
        typer.Option(
            "--project", envvar="HEADRACE_KEY_PROJECTS", help="Project that it reads for; may be repeated.",
            show_default=False,
        ),
    ] = None,
    every_document: Annotated[
        bool,
        typer.Option(
            "--every-document", envvar="HEADRACE_KEY_EVERY_DOCUMENT",
            help="It reads every document: for operators, and for connectors that check what arrived.",
        ),
    ] = False,
    acts_for_readers: Annotated[
        bool,
        typer.Option(
            "--acts-for-readers", envvar="HEADRACE_KEY_ACTS_FOR_READERS",
            help="It names a reader in the headers of each request: for applications that know their users.",
        ),
    ] = False,
    *,
    operator: InStore,
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Create an API key of a tenant, and print it; it cannot be shown again.

    The key reads for one reader: a user with groups and projects. Without one, it sees only documents without an acl.
    """
    from headrace.store.keys import create_api_key

    if not 1 <= len(name) <= _LONGEST_NAME:
        raise UsageError(f"the name has {len(name)} characters; it must have 1 to {_LONGEST_NAME}", where="NAME")
    named = user is not None or bool(group) or bool(project)
    if named + every_document + acts_for_readers > 1:
        raise UsageError(
            "the key can read for one reader, read every document, or act for readers", where="keys create",
            remedy="Give only one of --user with --group and --project, --every-document, and --acts-for-readers.",
        )  # fmt: skip
    reader = None if acts_for_readers else _reader(user, group or (), project or (), every=every_document)
    owner = operator.tenant(tenant)
    key = _in_store(operator, lambda connection: create_api_key(connection, owner, name, reader))
    if as_json:
        output.emit({
            "key": key, "name": name, "tenant": owner, "reader": [] if reader is None else list(reader.names),
            "acts_for_readers": acts_for_readers,
        })  # fmt: skip
        return
    typer.echo(key)
    output.say(f"key {name!r} of tenant {owner!r} {_reads(() if reader is None else reader.names, acts_for_readers)}")


@command(commands, "list", "List the API keys of a tenant.")
def show_all(tenant: Tenant = None, *, operator: InStore, as_json: options.Json = False) -> None:
    """List the API keys of a tenant, oldest first. The keys themselves are not stored."""
    from headrace.store.keys import list_api_keys

    owner = operator.tenant(tenant)
    found = _in_store(operator, lambda connection: list_api_keys(connection, owner))
    if as_json:
        output.emit([_document(asdict(one)) for one in found])
        return
    rows = [
        (one.name, _reads(one.reader, one.acts_for_readers), str(one.created_at)[:19], str(one.revoked_at or "")[:19])
        for one in found
    ]
    columns = ("Name", "Reader", "Created", "Revoked")
    tables.console().print(tables.table(columns, rows) if rows else f"Tenant {owner} has no keys.")


@command(commands, "revoke", "Revoke API keys by name.")
def revoke(name: Name, tenant: Tenant = None, *, operator: InStore, as_json: options.Json = False) -> None:
    """Revoke the tenant's keys with this name. A gateway may accept them for HEADRACE_GATEWAY_KEY_CACHE_S longer."""
    from headrace.store.keys import revoke_api_keys

    owner = operator.tenant(tenant)
    count = _in_store(operator, lambda connection: revoke_api_keys(connection, owner, name))
    if not count:
        raise NotFound(
            f"tenant {owner} has no valid key {name!r}", where="NAME", remedy="`headrace keys list` shows the keys."
        )
    if as_json:
        output.emit({"revoked": count, "name": name, "tenant": owner})
    else:
        typer.echo(f"{count} revoked")


def _reader(user: str | None, groups: Sequence[str], projects: Sequence[str], *, every: bool) -> Reader:
    from headrace.access.readers import EVERY_DOCUMENT, Reader

    if every:
        return EVERY_DOCUMENT
    try:
        return Reader.named(user, groups, projects)
    except ValueError as error:
        raise UsageError(f"invalid reader: {error}", where="--user, --group, --project") from error


def _reads(names: Sequence[str], acts_for_readers: bool) -> str:
    if acts_for_readers:
        return "acts for readers"
    if tuple(names) == ("*",):
        return "reads every document"
    return f"reads for {', '.join(names)}" if names else "reads documents without an acl"


def _document(one: dict[str, Any]) -> dict[str, Any]:
    times = {name: None if one[name] is None else one[name].isoformat() for name in ("created_at", "revoked_at")}
    return {**one, "reader": list(one["reader"]), **times}


def _in_store(operator: Operator, work: Callable[[Connection], Awaitable[T]]) -> T:
    """Return the result of the work on a connection of the schema's owner."""
    from headrace.store.pool import opened_pool

    async def run() -> T:
        async with opened_pool(operator.owner_store()) as pool, pool.acquire() as connection:
            return await work(connection)

    return asyncio.run(run())
