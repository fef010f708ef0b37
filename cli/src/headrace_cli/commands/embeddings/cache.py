"""``embeddings reset``: deletes cached vectors, so that texts are embedded again."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from headrace_cli import options, output
from headrace_cli.asking import require_yes
from headrace_cli.commands.embeddings.options import DryRun
from headrace_cli.context import InStore
from headrace_cli.state import provider_name


def reset(
    tenant: Annotated[
        str, typer.Option("--tenant", envvar="HEADRACE_TENANT", help="Delete the vectors of this tenant.")
    ],
    model: Annotated[
        str,
        typer.Option("--model", envvar="HEADRACE_EMBEDDING_MODEL", help="Name or identity of the model."),
    ],
    dry_run: DryRun = False,
    yes: options.Yes = False,
    *,
    operator: InStore,
    as_json: options.Json = False,
) -> None:
    """Delete a tenant's cached vectors of a model, so that its texts are embedded, and billed, again.

    The index keeps its vectors, and search still finds them. Let the indexer finish first: records between embedder
    and indexer take their vectors from the cache. The ledger keeps the spending.
    """
    from headrace_cli.quiet import quiet_logs
    from headrace_operations.embeddings import reset as operations
    from headrace_operations.embeddings.reset import ResetRequest

    quiet_logs()
    store = operator.owner_store()
    request = ResetRequest(tenant, model, provider_name(operator.state_dir))
    found = asyncio.run(operations.plan_reset(store, request))
    if not dry_run and found.vectors:
        require_yes(
            f"Delete {found.vectors} cached vectors of {found.model} of tenant {tenant}? Embedding them again may cost "
            "money.",
            yes=yes,
        )
        found = asyncio.run(operations.reset(store, request, found, by=operator.name))
    if as_json:
        output.emit({"tenant": tenant, "model": found.model, "vectors": found.vectors, "dry_run": dry_run})
        return
    verb = "would be" if dry_run else "were"
    typer.echo(f"{tenant}: {found.vectors} cached vectors of {found.model} {verb} deleted")
    if not dry_run and found.vectors:
        output.say(f"next: headrace embeddings batch --tenant {tenant}")
