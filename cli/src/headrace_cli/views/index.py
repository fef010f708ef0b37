"""Shows indexes and advice about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import typer

from headrace.store.index_health import Health, Recall
from headrace_cli import output, tables
from headrace_operations.index.advise import Advice

_MIB = 2**20


def show_status(found: Sequence[Health], *, as_json: bool) -> None:
    """Print tables, indexes and recalls of each generation."""
    if as_json:
        output.emit([asdict(one) for one in found])
        return
    for one in found:
        generation = one.generation
        typer.echo(
            f"{generation.name} ({generation.state}): {generation.model}, {generation.dimensions} dimensions, "
            f"{generation.storage}, ef_search {generation.ef_search}, probes {generation.probes}"
        )
        _show_sizes(one)
        _show_recalls(one.recalls)


def _show_sizes(one: Health) -> None:
    console = tables.console()
    columns = ("Table", "Rows", "Dead", "MiB", "Vacuumed")
    rows = [
        (table.name, table.rows, table.dead, f"{table.bytes / _MIB:.1f}", _when(table.vacuumed_at))
        for table in one.tables
    ]
    console.print(tables.table(columns, rows, right=("Rows", "Dead", "MiB")))
    named = ("Index", "Kind", "Parameters", "MiB", "Scans", "Valid")
    indexes = [
        (index.name, index.kind, ", ".join(f"{key} {value}" for key, value in index.options.items()),
         f"{index.bytes / _MIB:.1f}", index.scans, "yes" if index.valid else "no")
        for index in one.indexes
    ]  # fmt: skip
    console.print(tables.table(named, indexes, right=("MiB", "Scans")))


def _show_recalls(found: Sequence[Recall]) -> None:
    columns = ("Tenant", "Queries", "recall@10", "p50 ms", "p95 ms", "exact p50 ms", "Reads")
    rows = [
        (at.tenant, at.queries, f"{at.recall_10:.3f}", at.p50_ms, at.p95_ms, at.exact_p50_ms,
         "index" if at.indexed else "all vectors")
        for at in found
    ]  # fmt: skip
    if rows:
        tables.console().print(tables.table(columns, rows, right=columns[1:6]))


def _when(moment: object) -> str | None:
    return None if moment is None else f"{moment:%Y-%m-%d %H:%M}"


def show_advice(found: Sequence[Advice], *, as_json: bool) -> None:
    """Print what to do."""
    if as_json:
        output.emit([asdict(one) for one in found])
        return
    for one in found:
        typer.echo(f"{'urgent: ' if one.urgent else ''}{one.generation}, {one.subject}: {one.finding}")
        typer.echo(f"  {one.command}")
    if not found:
        typer.echo("nothing to do")
