"""``embeddings batch|incremental|release|reset|benchmark``: embedding again, by replay, redrive and release."""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from typing import Annotated, Any, TypeAlias

import typer

from headrace.costs import CAP_SCOPE, CostSettings, read_book
from headrace.embedding_models import SERVED
from headrace.store.pool import StoreSettings
from headrace_cli import options, output
from headrace_cli.asking import require_yes
from headrace_cli.commands import dlq as dlq_commands
from headrace_cli.commands import replay as replay_commands
from headrace_cli.commands.held import order
from headrace_cli.context import audited, clients, owner_store
from headrace_cli.failures import CommandError, UsageError
from headrace_cli.views import embeddings as embedding_view
from headrace_cli.views.tracking import tracked
from headrace_operations.audit.model import Report
from headrace_operations.audit.run import Scope
from headrace_operations.audit.store_view import generations, opened_pool
from headrace_operations.dead_letters.log import DeadLetterLog
from headrace_operations.dead_letters.model import Selection
from headrace_operations.embeddings import forget, ledger
from headrace_operations.embeddings.progress import waiting_for_caps
from headrace_operations.held.act import HeldActor
from headrace_operations.held.model import RELEASED
from headrace_operations.trace.log import LogScanner

_EMBEDDER = "embedder"
Into: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--into", envvar="HEADRACE_REPLAY_INTO", show_default=False,
        help="The generation of the index that is filled; without it, HEADRACE_KAFKA_GENERATION.",
    ),
]  # fmt: skip
DryRun: TypeAlias = Annotated[
    bool, typer.Option("--dry-run", envvar="HEADRACE_DRY_RUN", help="Say what would be done, do nothing.")
]


def batch(
    into: Into = None,
    tenant: options.OnlyTenant = None,
    rate: Annotated[
        int | None,
        typer.Option(
            "--rate", envvar="HEADRACE_REPLAY_RATE", min=1, help="At most so many records a second.", show_default=False
        ),
    ] = None,
    dry_run: DryRun = False,
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    registry: options.RegistryUrl = None,
    as_json: options.Json = False,
) -> None:
    """Replay all documents, or a tenant's, through the embedder: `replay start --stage embedder --all`.

    Texts whose vectors are cached cost nothing; `embeddings reset` before it has them embedded anew.
    """
    replay_commands.start(
        _EMBEDDER, tenant=tenant, everything=tenant is None, into=into, rate=rate, dry_run=dry_run,
        state_dir=state_dir, kafka=kafka, registry=registry, as_json=as_json,
    )  # fmt: skip


def incremental(
    into: Into = None,
    tenant: options.OnlyTenant = None,
    dry_run: DryRun = False,
    postgres: options.PostgresDsn = None,
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    registry: options.RegistryUrl = None,
    as_json: options.Json = False,
) -> None:
    """Embed what is missing: redrive the embedder's open dead letters, and replay tenants that lack vectors.

    What is missing is what the audit finds without a vector in the generation. A replay of a tenant reads all its
    documents; those that have their vectors cost nothing.
    """
    own, codec = clients(state_dir, kafka, registry)
    own = own if into is None else own.of(into)
    report = audited(own, codec, owner_store(state_dir, postgres), Scope(tenant, generation=own.generation))
    lacking, others = lacking_vectors(report)
    letters = DeadLetterLog(own, codec).select(Selection(stage=_EMBEDDER, tenant=tenant))
    open_ones = [one for one in letters if one.whole is None]
    planned = {
        "generation": own.generation, "redrive": len(open_ones), "replay_tenants": lacking,
        "pending": len(report.pending), "to_repair": others, "dry_run": dry_run,
    }  # fmt: skip
    if as_json:
        output.emit(planned)
    else:
        verb = "would be" if dry_run else "are"
        typer.echo(
            f"{own.generation}: {len(open_ones)} dead letters {verb} redriven, {len(lacking)} tenants with documents "
            f"without vectors {verb} replayed ({', '.join(lacking) or 'none'}); {len(report.pending)} are under way"
        )
    if others:
        output.say(f"{others} findings need more than a replay: `headrace audit` lists each with its repair")
    if dry_run:
        return
    if open_ones:
        dlq_commands.redrive(
            stage=_EMBEDDER, tenant=tenant, why="embeddings incremental", state_dir=state_dir, kafka=kafka,
            registry=registry, as_json=as_json,
        )  # fmt: skip
    for name in lacking:
        replay_commands.start(
            _EMBEDDER, tenant=name, into=own.generation, state_dir=state_dir, kafka=kafka, registry=registry,
            as_json=as_json,
        )  # fmt: skip


def lacking_vectors(report: Report) -> tuple[list[str], int]:
    """Return the tenants that a replay of the embedder repairs, and how many findings need more than a replay."""
    repaired = [one.tenant for one in report.findings if one.replay == _EMBEDDER]
    return sorted(set(repaired)), len(report.findings) - len(repaired)


def release(
    tenant: options.OnlyTenant = None,
    dry_run: DryRun = False,
    postgres: options.PostgresDsn = None,
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    registry: options.RegistryUrl = None,
    as_json: options.Json = False,
) -> None:
    """Send records that wait for a tenant's cap through the embedder again, where the cap has room now.

    A record that finds the cap full once more waits again. Nothing happens while the cap on all tenants is reached.
    """
    own, codec = clients(state_dir, kafka, registry)
    views = [own.of(name) for name in LogScanner(own).generations()]
    waiting: dict[str, int] = {}
    for view in views:
        for scope, count in waiting_for_caps(view, codec, tenant).items():
            waiting[scope] = waiting.get(scope, 0) + count
    tenants = [scope.removeprefix(f"{CAP_SCOPE}/") for scope in waiting]
    file = CostSettings().file
    if waiting and file is None:
        output.say(embedding_view.NO_CAPS_KNOWN)
    book = read_book(file)
    ready = asyncio.run(_with_room(owner_store(state_dir, postgres), book, tenants)) if waiting else frozenset()
    counts = dict.fromkeys(sorted(ready), 0)
    if dry_run:
        counts = {scope: waiting[scope] for scope in sorted(ready)}
    elif ready:
        made = order(RELEASED, "the cap has room")
        with tracked("released", sum(waiting[scope] for scope in ready)) as progress:
            for view in views:
                for entry in HeldActor(view, codec).release(ready, made, progress).taken:
                    counts[entry.scope] += 1
    full = sorted(waiting.keys() - ready)
    if as_json:
        output.emit({"would_release" if dry_run else "released": counts, "still_capped": full, "dry_run": dry_run})
        return
    for scope, count in counts.items():
        typer.echo(f"{scope}: {count} held records {'would be ' if dry_run else ''}released")
    for scope in full:
        typer.echo(f"{scope}: {waiting[scope]} records wait on, the cap is reached")
    if not waiting:
        typer.echo("nothing waits for a cap")


async def _with_room(store: StoreSettings, book: Any, tenants: list[str]) -> frozenset[str]:

    now = datetime.now(UTC)
    async with opened_pool(store) as pool:
        return ledger.with_room(
            book, await ledger.spent_in_all(pool, now), await ledger.spent_by(pool, tenants, now), now
        )


def reset(
    tenant: Annotated[
        str, typer.Option("--tenant", envvar="HEADRACE_TENANT", help="The tenant whose vectors are forgotten.")
    ],
    model: Annotated[
        str,
        typer.Option("--model", envvar="HEADRACE_EMBEDDING_MODEL", help="Name of the model, or its identity."),
    ],
    dry_run: DryRun = False,
    yes: options.Yes = False,
    postgres: options.PostgresDsn = None,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """Forget a tenant's cached vectors of a model: its texts are embedded, and paid, anew when they come again.

    What is in the index stays and is found. Let the indexer finish before: what is between embedder and indexer takes
    its vectors from the cache. The ledger keeps what was spent.
    """
    output.quiet_logs()
    store = owner_store(state_dir, postgres)
    known = {one.model for one in asyncio.run(_in_store(store, generations))}
    model = embedding_view.model_identity(model, known, state_dir)
    count = asyncio.run(_in_store(store, lambda pool: forget.cached(pool, tenant, model)))
    if not dry_run and count:
        require_yes(
            f"Forget {count} cached vectors of {model} of tenant {tenant}? Embedding them anew may cost money.", yes=yes
        )
        count = asyncio.run(
            _in_store(store, lambda pool: forget.forget(pool, tenant, model, asked_by=getpass.getuser()))
        )
    if as_json:
        output.emit({"tenant": tenant, "model": model, "vectors": count, "dry_run": dry_run})
        return
    typer.echo(f"{tenant}: {count} cached vectors of {model} {'would be' if dry_run else 'were'} forgotten")
    if not dry_run and count:
        output.say(f"next: headrace embeddings batch --tenant {tenant}")


async def _in_store(store: StoreSettings, act: Any) -> Any:

    async with opened_pool(store) as pool:
        return await act(pool)


def benchmark(
    sizes: Annotated[
        str, typer.Option("--sizes", envvar="HEADRACE_BENCHMARK_SIZES", help="Batch sizes, separated by commas.")
    ] = "1,4,8,16,32,64",
    texts: Annotated[
        int, typer.Option("--texts", envvar="HEADRACE_BENCHMARK_TEXTS", min=1, max=100_000, help="Texts of each size.")
    ] = 128,
    yes: options.Yes = False,
    as_json: options.Json = False,
) -> None:
    """Measure texts a second by batch size, with the provider of the HEADRACE_EMBEDDER_ settings on this machine.

    The texts are 500 characters of Python's own reference. A provider that is paid is asked for them, so it asks first.
    """
    if not all(part.isdecimal() and int(part) for part in sizes.split(",")):
        raise UsageError(f"{sizes!r} are no batch sizes", where="--sizes", remedy="Write them as 1,8,32.")
    if os.environ.get("HEADRACE_EMBEDDER_PROVIDER") == SERVED:
        require_yes(f"Send {len(sizes.split(',')) * texts} texts of 500 characters to the provider?", yes=yes)
    argv = [sys.executable, "-m", "headrace_embedder.benchmark", "--sizes", sizes, "--texts", str(texts)]
    rows: list[dict[str, Any]] = []
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            rows.append(json.loads(line))
            output.say(f"batches of {rows[-1]['batch']}: {rows[-1]['texts_per_second']:.1f} texts a second")
    if process.returncode:
        raise CommandError(
            f"the benchmark ended with exit code {process.returncode}",
            remedy="Its messages stand above; it needs the package headrace-embedder and its settings.",
        )
    if as_json:
        output.emit(rows)
        return
    columns = ("batch", "texts a second", "tokens a second")
    shown = [(row["batch"], f"{row['texts_per_second']:.1f}", f"{row['tokens_per_second']:.0f}") for row in rows]
    output.console().print(output.table(columns, shown, right=columns))
