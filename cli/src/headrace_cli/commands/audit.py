"""``audit``: whether the store holds what the log says, and what repairs it where it does not."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape

from headrace.avro.codec import Codec
from headrace.settings import KafkaSettings
from headrace.store.pool import StoreSettings
from headrace_cli import options, output
from headrace_cli.asking import require_yes
from headrace_cli.command import command, commands_of
from headrace_cli.context import audited, clients, owner_store
from headrace_cli.exit_codes import ExitCode
from headrace_cli.failures import UsageError
from headrace_operations.audit.model import Finding, Key, Report
from headrace_operations.audit.reset import reset
from headrace_operations.audit.run import Scope

_SHOWN_PENDING = 10


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
            help="The generation whose vectors are looked at; without it, the active one.",
        ),
    ] = None,
    deep: Annotated[
        bool,
        typer.Option(
            "--deep", envvar="HEADRACE_AUDIT_DEEP",
            help="Hash every text again, and compare every vector with the cached one.",
        ),
    ] = False,
    reset: Annotated[
        bool,
        typer.Option(
            "--reset", envvar="HEADRACE_AUDIT_RESET",
            help="Take the chunks and vectors of --document out of the store, for a replay to write them anew.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", envvar="HEADRACE_DRY_RUN", help="With --reset: say what would be taken out.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", envvar="HEADRACE_YES", help="With --reset: do not ask.")] = False,
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    registry: options.RegistryUrl = None,
    postgres: options.PostgresDsn = None,
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Compare the topics documents and chunks with the store's documents, chunks and vectors.

    Lists what is missing, duplicate, orphan, stale or of another model, each with the command that repairs it, and
    ends with exit code 8 where there is any. What a stage has yet to come to is pending, and no finding.
    """
    if document is not None and tenant is None:
        raise UsageError("a document needs its tenant", where="--document", remedy="Name it with --tenant.")
    output.quiet_logs()
    settings, codec = clients(state_dir, kafka, registry)
    store = owner_store(state_dir, postgres)
    if reset:
        if tenant is None or document is None:
            raise UsageError("a reset is of one document", where="--reset", remedy="Name --tenant and --document.")
        own = settings if generation is None else settings.of(generation)
        _reset(own, codec, store, tenant, document, dry_run=dry_run, yes=yes, as_json=as_json)
        return
    report = audited(settings, codec, store, Scope(tenant, document, generation, deep=deep))
    if as_json:
        output.emit(report.as_dict())
    else:
        _show(report)
    if not report.clean:
        raise typer.Exit(ExitCode.INCONSISTENT)


def _reset(
    kafka: KafkaSettings, codec: Codec, store: StoreSettings, tenant: str, document: str, *,
    dry_run: bool, yes: bool, as_json: bool,
) -> None:  # fmt: skip

    key = Key(tenant, document)
    planned = asyncio.run(reset(kafka, codec, store, key, dry_run=True))
    if not dry_run:
        require_yes(
            f"Take {planned.chunks} chunks of {document} and their vectors out of the store? Search does not find it "
            "until a replay has written it again.", yes=yes,
        )  # fmt: skip
        planned = asyncio.run(reset(kafka, codec, store, key))
    if as_json:
        output.emit({**asdict(planned), "dry_run": dry_run})
        return
    verb = "would be" if dry_run else "were"
    typer.echo(f"{document}: {planned.chunks} chunks and their vectors {verb} taken out; version {planned.version}")
    for line in planned.then:
        typer.echo(f"next: {line}")


def _show(report: Report) -> None:

    console = output.console()
    for finding in report.findings:
        for line in _lines(finding):
            console.print(escape(line), soft_wrap=True)
    counts = report.counts()
    console.print(output.table(("kind", "findings"), counts.items(), right=("findings",)))
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
            "This login sees only tenants that it names: those of the log were looked at. To find a tenant that the "
            "log does not know, name it with --tenant, or give --postgres a role that row-level security does not bind."
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
