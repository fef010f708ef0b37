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
"""Documents asked for in one request, the most that the gateway gives."""
RETRY_S = 60.0
"""How long a request that finds the gateway, Kafka or the registry down is sent again."""


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
        str, typer.Option("--prefix", envvar="HEADRACE_ID_PREFIX", help="Put before every document id.")
    ] = "",
    version: Annotated[
        int | None,
        typer.Option(
            "--version", envvar="HEADRACE_FILE_VERSION", min=0, max=2**63 - 1, show_default=False,
            help="Version of the files; without it, the time of their last change in nanoseconds.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", envvar="HEADRACE_DRY_RUN", help="Read everything, send nothing.")
    ] = False,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", envvar="HEADRACE_INGEST_WATCH",
            help="Go on until Ctrl-C: send each file of the folders that is created or changed, and a delete for each "
            "that goes away while it is watched.",
        ),
    ] = False,
    wait: options.Wait = False,
    timeout: options.Timeout = 600.0,
    *,
    caller: AtGateway,
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Send documents and change events; the API key decides the tenant.

    A file's id is its path below the folder that was named. Hidden entries of folders are left out, other kinds of
    files are skipped and listed. What cannot be read or is refused is listed at the end; the rest is done.
    A file that went away while nobody watched is not noticed: `headrace delete` takes its document out.
    """
    if watch:
        _refuse_with_watch({"--dry-run": dry_run, "--version": version is not None, "--wait": wait})
        follow(paths, prefix, caller.gateway(), as_json=as_json)
        return
    found = sources.find(paths)
    shape = sources.Shape(prefix, version)
    changes = (change for source in found.sources for change in sources.read(source, shape))
    if dry_run:
        documents_view.finish(
            dry_run_of(found, changes, documents_view.planned(as_json)), as_json=as_json, verb="would be sent"
        )
        return
    gateway = caller.gateway(retry_s=RETRY_S)
    outcome = deliver(gateway, changes, found.total, wait_s=timeout if wait else None)
    outcome.skipped = found.skipped
    outcome.failures = [*found.failures, *outcome.failures]
    documents_view.finish(outcome, as_json=as_json, verb="accepted")


@command(commands, "delete")
def delete(
    ids: Annotated[list[str], typer.Argument(metavar="ID", help="Ids of documents.")],
    version: Annotated[
        int | None,
        typer.Option(
            "--version", envvar="HEADRACE_DELETE_VERSION", min=0, max=2**63 - 1, show_default=False,
            help="Version of the delete; without it, one above the document's newest known version.",
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
        raise UsageError("an id is empty", where="ID")
    gateway = caller.gateway(retry_s=RETRY_S)
    changes = [delete_of(gateway, identifier, version) for identifier in dict.fromkeys(ids)]
    outcome = deliver(gateway, changes, len(changes), wait_s=timeout if wait else None)
    documents_view.finish(outcome, as_json=as_json, verb="accepted", arrived="gone from search")


@command(commands, "documents", "List the documents that have attributes.")
def documents(
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where", envvar="HEADRACE_WHERE", metavar="NAME=VALUE", show_default=False,
            help="Only documents with this attribute; may be repeated, all must fit.",
        ),
    ] = None,
    tenant: Annotated[
        str | None,
        typer.Option(
            "--tenant", envvar="HEADRACE_TENANT", show_default=False,
            help="Refused unless it is the API key's tenant, which decides.",
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", envvar="HEADRACE_DOCUMENTS_LIMIT", min=1, help="How many at most.")
    ] = 100,
    *,
    caller: AtGateway,
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """List the documents in the index that have attributes which their sender gave them, by id."""
    request: dict[str, Any] = {"attributes": attributes_of(where or (), "--where"), "tenant": tenant}
    gateway = caller.gateway(retry_s=RETRY_S)
    found, more = _listed(gateway, request, limit)
    if as_json:
        output.emit({"documents": found, "more": more})
    else:
        documents_view.show(found, more=more)


def _listed(gateway: Gateway, request: dict[str, Any], limit: int) -> tuple[list[dict[str, Any]], bool]:
    """Return so many documents at most, and whether there are more."""
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
        "--dry-run": "a watch sends what it sees",
        "--version": "each change of a file needs a version of its own",
        "--wait": "a watch has no end to wait for; `headrace documents` and `headrace status` tell what arrived",
    }
    for option in (option for option, is_given in given.items() if is_given):
        raise UsageError(
            f"{option} cannot be used with --watch: {reasons[option]}", where=option, remedy="Leave one of them out."
        )
