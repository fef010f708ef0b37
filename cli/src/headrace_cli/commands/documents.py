"""``ingest``, ``delete`` and ``documents``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from headrace_cli import options, output
from headrace_cli.attributes import attributes_of
from headrace_cli.client import Gateway
from headrace_cli.command import command, commands_of
from headrace_cli.failures import UsageError
from headrace_cli.ingest import sources
from headrace_cli.ingest.delivery import deliver, dry_run_of
from headrace_cli.ingest.following import follow
from headrace_cli.ingest.sending import delete_of
from headrace_cli.state import AtGateway
from headrace_cli.views import documents as documents_view

_PAGE = 1000
"""Documents per request: the gateway's maximum."""
RETRY_S = 60.0
"""How long a request is retried while the gateway, Kafka or the registry is down."""


commands = commands_of()


@command(commands, "ingest", "Send documents and change events.")
def ingest(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH",
            help="Files (.txt .md .markdown .rst .rest, .pdf .docx .html .htm .xhtml .json), folders, JSON lines of "
            "change events (.jsonl .jsonl.xz .jsonl.gz), or - for JSON lines from standard input.",
        ),
    ],
    prefix: Annotated[
        str, typer.Option("--prefix", envvar="HEADRACE_ID_PREFIX", help="Prefix of every document ID.")
    ] = "",
    version: Annotated[
        int | None,
        typer.Option(
            "--version", envvar="HEADRACE_FILE_VERSION", min=0, max=2**63 - 1, show_default=False,
            help="Version of the files. Default: their modification time in nanoseconds.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", envvar="HEADRACE_DRY_RUN", help="Read everything without sending it.")
    ] = False,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", envvar="HEADRACE_INGEST_WATCH",
            help="Keep running until Ctrl-C: send each file that is created or changed in the folders, and a delete "
            "for each that disappears.",
        ),
    ] = False,
    wait: options.Wait = False,
    timeout: options.Timeout = 600.0,
    *,
    caller: AtGateway,
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Send documents and change events. The API key decides the tenant.

    The document ID of a file is its path below the given folder. Hidden entries of folders are ignored; unsupported
    files are skipped and listed. Items that cannot be read or are refused are listed at the end; the others are sent.
    Files that disappeared while the command was not watching stay indexed: use `headrace delete`.
    """
    if watch:
        _refuse_with_watch({"--dry-run": dry_run, "--version": version is not None, "--wait": wait})
        follow(paths, prefix, caller.gateway(operator=True), as_json=as_json)
        return
    found = sources.find(paths)
    shape = sources.Shape(prefix, version)
    changes = (change for source in found.sources for change in sources.read(source, shape))
    if dry_run:
        documents_view.finish(
            dry_run_of(found, changes, documents_view.planned(as_json)), as_json=as_json, verb="would be sent"
        )
        return
    gateway = caller.gateway(retry_s=RETRY_S, operator=True)
    outcome = deliver(gateway, changes, found.total, wait_s=timeout if wait else None)
    outcome.skipped = found.skipped
    outcome.failures = [*found.failures, *outcome.failures]
    documents_view.finish(outcome, as_json=as_json, verb="accepted")


@command(commands, "delete")
def delete(
    ids: Annotated[list[str], typer.Argument(metavar="ID", help="Document IDs.")],
    version: Annotated[
        int | None,
        typer.Option(
            "--version", envvar="HEADRACE_DELETE_VERSION", min=0, max=2**63 - 1, show_default=False,
            help="Version of the delete. Default: one above the document's newest known version.",
        ),
    ] = None,
    wait: options.Wait = False,
    timeout: options.Timeout = 600.0,
    *,
    caller: AtGateway,
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Delete documents from the index."""
    if not all(ids):
        raise UsageError("empty document ID", where="ID")
    gateway = caller.gateway(retry_s=RETRY_S, operator=True)
    changes = [delete_of(gateway, identifier, version) for identifier in dict.fromkeys(ids)]
    outcome = deliver(gateway, changes, len(changes), wait_s=timeout if wait else None)
    documents_view.finish(outcome, as_json=as_json, verb="accepted", arrived="gone from search")


@command(commands, "documents", "List the documents with given attributes.")
def documents(
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where", envvar="HEADRACE_WHERE", metavar="NAME=VALUE", show_default=False,
            help="Only documents with this attribute; may be repeated, and all must match.",
        ),
    ] = None,
    tenant: Annotated[
        str | None,
        typer.Option(
            "--tenant", envvar="HEADRACE_TENANT", show_default=False,
            help="Must be the tenant of the API key; any other tenant is refused.",
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", envvar="HEADRACE_DOCUMENTS_LIMIT", min=1, help="Maximum number of documents.")
    ] = 100,
    *,
    caller: AtGateway,
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """List the documents in the index that have the given attributes, sorted by ID."""
    request: dict[str, Any] = {"attributes": attributes_of(where or (), "--where"), "tenant": tenant}
    gateway = caller.gateway(retry_s=RETRY_S, operator=True)
    found, more = _listed(gateway, request, limit)
    if as_json:
        output.emit({"documents": found, "more": more})
    else:
        documents_view.show(found, more=more)


def _listed(gateway: Gateway, request: dict[str, Any], limit: int) -> tuple[list[dict[str, Any]], bool]:
    """Return up to ``limit`` documents, and whether there are more."""
    found: list[dict[str, Any]] = []
    after: str | None = None
    while len(found) < limit:
        page = gateway.documents({**request, "after": after, "limit": min(limit - len(found), _PAGE)})
        found += page["documents"]
        after = page["next"]
        if after is None:
            break
    return found, after is not None


def _refuse_with_watch(given: dict[str, bool]) -> None:
    reasons = {
        "--dry-run": "a watch always sends",
        "--version": "each change of a file needs its own version",
        "--wait": "a watch does not end; `headrace documents` and `headrace status` show what arrived",
    }
    for option in (option for option, is_given in given.items() if is_given):
        raise UsageError(
            f"{option} cannot be used with --watch: {reasons[option]}",
            where=option,
            remedy="Remove one of the two options.",
        )
