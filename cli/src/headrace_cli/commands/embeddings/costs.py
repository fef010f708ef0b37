"""``embeddings costs``: the cost of embedding so far."""

from __future__ import annotations

import asyncio
from datetime import date
from typing import Annotated

import typer

from headrace_cli import options, output
from headrace_cli.context import InStore
from headrace_cli.failures import UsageError
from headrace_operations.choices import BYS


def show_costs(
    by: Annotated[str, typer.Option("--by", envvar="HEADRACE_COSTS_BY", help=f"Group by {', '.join(BYS)}.")] = "tenant",
    tenant: options.OnlyTenant = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since", envvar="HEADRACE_COSTS_SINCE", help="First day (UTC), such as 2026-11-01.", show_default=False
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            "--until", envvar="HEADRACE_COSTS_UNTIL", help="Last day (UTC), such as 2026-11-30.", show_default=False
        ),
    ] = None,
    limit: Annotated[
        int,
        typer.Option(
            "--limit", envvar="HEADRACE_COSTS_LIMIT", min=1, help="Maximum number of documents, most expensive first."
        ),
    ] = 50,
    *,
    operator: InStore,
    as_json: options.Json = False,
) -> None:
    """Show the ledger: texts that a model embedded, with their tokens and their cost in USD and KRW.

    Costs are at the prices of their day. Days are in UTC. Sums by document cover all days, so you cannot combine
    --by document with --since or --until.
    """
    from headrace.embeddings.costs import CostSettings
    from headrace_cli.quiet import quiet_logs
    from headrace_cli.views import embeddings as embedding_view
    from headrace_operations.embeddings import ledger
    from headrace_operations.embeddings.spending import CostsRequest, costs

    request = CostsRequest(by, tenant, _day(since, "--since"), _day(until, "--until"), limit).checked()
    quiet_logs()
    lines = asyncio.run(costs(operator.owner_store(), request))
    total = ledger.total(lines)
    settings = CostSettings()
    if as_json:
        output.emit({
            "by": by, "lines": [embedding_view.line_document(line, settings) for line in lines],
            "total": embedding_view.line_document(total, settings),
        })  # fmt: skip
        return
    embedding_view.show_lines(("tenant", "document") if by == "document" else (by,), lines, total, settings)


def _day(text: str | None, where: str) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"invalid day {text!r}", where=where, remedy="Use the form 2026-11-30.") from error
