"""``audit``: compares the store with the log and lists repairs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from headrace_cli import options, output
from headrace_cli.asking import require_yes
from headrace_cli.command import command, commands_of
from headrace_cli.context import InAudit
from headrace_cli.exit_codes import ExitCode
from headrace_cli.failures import UsageError

if TYPE_CHECKING:
    from headrace_operations.audit.model import Key
    from headrace_operations.cluster import Cluster

commands = commands_of()


@command(commands, "audit", "Compare the log with the store, document by document.")
def audit(
    tenant: Annotated[
        str | None,
        typer.Option("--tenant", envvar="HEADRACE_TENANT", help="Only this tenant.", show_default=False),
    ] = None,
    document: Annotated[
        str | None,
        typer.Option(
            "--document", envvar="HEADRACE_DOCUMENT", help="Only this document of --tenant.", show_default=False
        ),
    ] = None,
    generation: Annotated[
        str | None,
        typer.Option(
            "--generation", envvar="HEADRACE_AUDIT_GENERATION", show_default=False,
            help="Check the vectors of this generation. Default: the active one.",
        ),
    ] = None,
    deep: Annotated[
        bool,
        typer.Option(
            "--deep", envvar="HEADRACE_AUDIT_DEEP",
            help="Also hash every text again and compare every vector with the cached one.",
        ),
    ] = False,
    reset: Annotated[
        bool,
        typer.Option(
            "--reset", envvar="HEADRACE_AUDIT_RESET",
            help="Remove the chunks and vectors of --document from the store, so that a replay can write them again.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", envvar="HEADRACE_DRY_RUN", help="With --reset: show what would be removed.")
    ] = False,
    yes: Annotated[
        bool,
        typer.Option("--yes", "-y", envvar="HEADRACE_YES", help="With --reset: do not ask for confirmation."),
    ] = False,
    *,
    operator: InAudit,
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Compare the topics documents and chunks with the store's documents, chunks and vectors.

    Lists entries that are missing, duplicate, orphaned, stale or from another model, each with the command that
    repairs it. Exits with code 8 if there are any. Records that a stage has not processed yet are pending, not
    findings.
    """
    from headrace_cli.views import audit as audit_view
    from headrace_operations.audit import run as auditing
    from headrace_operations.audit.model import Key
    from headrace_operations.audit.run import Scope

    scope = Scope(tenant, document, generation, deep=deep)
    if reset and (tenant is None or document is None):
        raise UsageError("--reset requires one document", where="--reset", remedy="Pass --tenant and --document.")
    cluster = operator.whole_cluster()
    if reset and tenant is not None and document is not None:
        _reset(cluster.of(generation), Key(tenant, document), dry_run=dry_run, yes=yes, as_json=as_json)
        return
    known = cluster.known_store()
    report = asyncio.run(auditing.audit(cluster.kafka, cluster.codec, known, scope, audit_view.told()))
    if as_json:
        output.emit(report.as_dict())
    else:
        audit_view.show(report)
    if not report.clean:
        raise typer.Exit(ExitCode.INCONSISTENT)


def _reset(cluster: Cluster, key: Key, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    from headrace_cli.views import audit as audit_view
    from headrace_operations.audit import reset as resetting

    store = cluster.known_store()
    found = asyncio.run(resetting.reset(cluster.kafka, cluster.codec, store, key, dry_run=True))
    if not dry_run:
        require_yes(
            f"Remove {found.chunks} chunks of {key.document_id} and their vectors from the store? Search will not find "
            "the document until a replay has written it again.",
            yes=yes,
        )
        found = asyncio.run(resetting.reset(cluster.kafka, cluster.codec, store, key))
    audit_view.show_reset(key.document_id, found, dry_run=dry_run, as_json=as_json)
