"""Shows audits."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict

import typer
from rich.markup import escape

from headrace_cli import output, tables
from headrace_operations.audit.model import Finding, Report
from headrace_operations.audit.reset import Reset

_PROGRESS_S = 2.0
_SHOWN_PENDING = 10


def told() -> Callable[[str], None]:
    """Return a function that reports the progress of an audit, at most every two seconds."""
    last = time.monotonic()

    def tell(line: str) -> None:
        nonlocal last
        if time.monotonic() - last >= _PROGRESS_S:
            last = time.monotonic()
            output.say(line)

    return tell


def show(report: Report) -> None:
    """Print the findings, each with its repair."""
    console = tables.console()
    for finding in report.findings:
        for line in _lines(finding):
            console.print(escape(line), soft_wrap=True)
    counts = report.counts()
    console.print(tables.table(("kind", "findings"), counts.items(), right=("findings",)))
    typer.echo(
        f"{len(report.findings)} findings, {len(report.pending)} pending; {report.documents_in_log} documents in the "
        f"log, {report.documents} in the store with {report.chunks} chunks and {report.vectors} vectors of "
        f"{report.generation}; {len(report.tenants)} tenants; {report.seconds:.1f} s"
    )
    for pending in report.pending[:_SHOWN_PENDING]:
        output.say(f"pending: {pending.tenant}/{pending.document_id} waits for {pending.waits_for}")
    for place in report.unreadable:
        output.say(f"unreadable: {place}")
    if not report.all_tenants:
        output.say(
            "This login can read only the tenants it names, so the audit covered the tenants in the log. To find a "
            "tenant that the log does not know, pass --tenant, or pass --postgres with a role that bypasses row-level "
            "security."
        )


def _lines(finding: Finding) -> list[str]:
    whose = finding.tenant if finding.document_id is None else f"{finding.tenant}/{finding.document_id}"
    examples = f" ({', '.join(finding.examples)}{', …' if finding.count > len(finding.examples) else ''})"
    lines = [
        f"{finding.kind} {finding.subject}: {whose}{examples if finding.examples else ''}",
        f"    expected: {finding.expected}",
        f"    found: {finding.found}",
    ]
    if finding.dead_letters:
        lines.append(f"    open dead letters: {', '.join(finding.dead_letters)}")
    return lines + [f"    repair: {command}" for command in finding.repair]


def show_reset(document: str, found: Reset, *, dry_run: bool, as_json: bool) -> None:
    """Print what was (or would be) removed, and the next steps."""
    if as_json:
        output.emit({**asdict(found), "dry_run": dry_run})
        return
    verb = "would be" if dry_run else "were"
    typer.echo(f"{document}: {found.chunks} chunks and their vectors {verb} removed; version {found.version}")
    for line in found.then:
        typer.echo(f"next: {line}")
