"""``embeddings estimate|costs|status``: what embedding will cost and has cost, how far it is, and what stops it."""

from __future__ import annotations

import asyncio
import getpass
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, TypeAlias

import typer

from headrace.costs import CostBook, CostSettings, Reached, Spent, read_book
from headrace.embedding_models import known_model
from headrace.errors import ConfigurationError
from headrace.preparation import Preparation
from headrace.settings import KafkaSettings
from headrace.store.pool import StoreSettings
from headrace.store.records import Generation
from headrace_cli import options, output
from headrace_cli.command import command, commands_of
from headrace_cli.commands.embedding_acts import batch, benchmark, incremental, release, reset
from headrace_cli.commands.embedding_schedule import schedule
from headrace_cli.commands.replay import selection_of
from headrace_cli.context import clients, owner_store, require_generation
from headrace_cli.failures import UsageError
from headrace_cli.ingest import sources
from headrace_cli.views import embeddings as embedding_view
from headrace_cli.views.tracking import tracked
from headrace_operations.audit.run import chosen
from headrace_operations.audit.store_view import generations, opened_pool
from headrace_operations.dead_letters.log import DeadLetterLog
from headrace_operations.dead_letters.model import Selection
from headrace_operations.embeddings import ledger
from headrace_operations.embeddings.estimate import Estimate, Lengths, of_log, of_texts, priced
from headrace_operations.embeddings.ledger import By
from headrace_operations.embeddings.progress import measured, waiting_for_caps
from headrace_operations.replay.plan import cached_in, plan

commands = commands_of("embeddings", "Embeddings: what they cost, how far they are, and doing them again.")
BYS = ("tenant", "document", "stage", "model", "day")
_ERRORS_SHOWN = 20
GenerationName: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--generation", envvar="HEADRACE_KAFKA_GENERATION", show_default=False,
        help="The generation of the index that is meant; without it, g1.",
    ),
]  # fmt: skip


@command(commands, "estimate", "Say what embedding would cost, before it is done.")
def estimate(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH", show_default=False,
            help="Files and folders as `headrace ingest` takes them; without any, what the embedder reads in the log.",
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", envvar="HEADRACE_REPLAY_ALL", help="All that lies in the log for the embedder.")
    ] = False,
    from_offset: Annotated[
        list[str] | None,
        typer.Option(
            "--from-offset", envvar="HEADRACE_REPLAY_FROM_OFFSET", metavar="TOPIC:PARTITION:OFFSET", show_default=False,
            help="What lies in the log from this offset of chunks on; may be repeated, no other partition takes part.",
        ),
    ] = None,
    tenant: options.OnlyTenant = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since", envvar="HEADRACE_REPLAY_SINCE", show_default=False,
            help="Only what was written to the log since then: 2026-11-21T10:00, or 90m, 12h, 7d.",
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            "--rate", envvar="HEADRACE_EMBEDDING_RATE", min=0.001, show_default=False,
            help="Texts a second, as `embeddings benchmark` measured them; without it, no time is told.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", envvar="HEADRACE_EMBEDDING_MODEL", show_default=False,
            help="Name or identity of the model; without it, the generation's.",
        ),
    ] = None,
    generation: GenerationName = None,
    postgres: options.PostgresDsn = None,
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    registry: options.RegistryUrl = None,
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Say how many texts would go through the model, their tokens, USD, KRW and time; nothing is done.

    Texts of the log are counted exactly, without those that the cache has. Of files the texts are not split yet: their
    number is an estimate, and with a model that is named nothing is asked. Tokens are a third of the characters.
    """
    output.quiet_logs()
    settings = CostSettings()
    book = read_book(settings.file)
    store: StoreSettings | None = None
    if paths:
        if model is None:
            name = asyncio.run(_generation(owner_store(state_dir, postgres), generation)).model
        else:
            name = embedding_view.model_identity(model, book.models, state_dir)
        lengths = _of_files(paths, tenant or "")
    else:
        store = owner_store(state_dir, postgres)
        own, codec = clients(state_dir, kafka, registry)
        own = own if generation is None else own.of(generation)
        kept = asyncio.run(_generation(store, own.generation))
        name = kept.model
        if model is not None:
            name = embedding_view.model_identity(model, {kept.model, *book.models}, state_dir)
        preparation = kept.preparation
        if name != kept.model:  # the same texts, before which another model wants other words
            preparation = replace(preparation, passage_prompt=known_model(name).passage_prompt)
        lengths = _of_log(own, codec, preparation, everything, from_offset, since, tenant)
    price = book.price(name, local=embedding_view.local_provider(state_dir))
    found = asyncio.run(_priced(store, lengths, name, price, rate))
    _show_estimate(found, name, settings, as_json=as_json)


@command(commands, "costs", "Show what embedding has cost.")
def show_costs(
    by: Annotated[str, typer.Option("--by", envvar="HEADRACE_COSTS_BY", help=f"Sums by {', '.join(BYS)}.")] = "tenant",
    tenant: options.OnlyTenant = None,
    since: Annotated[
        str | None,
        typer.Option("--since", envvar="HEADRACE_COSTS_SINCE", help="First day, as 2026-11-01.", show_default=False),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option("--until", envvar="HEADRACE_COSTS_UNTIL", help="Last day, as 2026-11-30.", show_default=False),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", envvar="HEADRACE_COSTS_LIMIT", min=1, help="Most documents, the dearest first.")
    ] = 50,
    postgres: options.PostgresDsn = None,
    state_dir: options.StateDir = None,
    as_json: options.Json = False,
) -> None:
    """Show the ledger: texts, tokens, USD and KRW of what really went through a model, at the prices of that time.

    Days are those of UTC. Documents are summed over all days, so --since and --until do not go with --by document.
    """
    if by not in BYS:
        raise UsageError(f"there are no sums by {by!r}", where="--by", remedy=f"There are: {', '.join(BYS)}.")
    first, last = _day(since, "--since"), _day(until, "--until")
    if by == "document" and (first or last):
        raise UsageError(
            "documents are summed over all days",
            where="--since",
            remedy="Leave it out, or take --by day with --tenant.",
        )
    output.quiet_logs()
    lines = asyncio.run(_lines(owner_store(state_dir, postgres), by, tenant, first, last, limit))  # type: ignore[arg-type]
    last_line = ledger.total(lines)
    settings = CostSettings()
    if as_json:
        output.emit({
            "by": by, "lines": [embedding_view.line_document(line, settings) for line in lines],
            "total": embedding_view.line_document(last_line, settings),
        })  # fmt: skip
        return
    embedding_view.show_lines(("tenant", "document") if by == "document" else (by,), lines, last_line, settings)


@command(commands, "status", "Show how far embedding is, and what stops it.")
def status(
    tenant: options.OnlyTenant = None,
    generation: GenerationName = None,
    sample: Annotated[
        float,
        typer.Option("--sample", envvar="HEADRACE_EMBEDDING_SAMPLE_S", min=0, help="Seconds to measure the rate over."),
    ] = 2.0,
    postgres: options.PostgresDsn = None,
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    registry: options.RegistryUrl = None,
    as_json: options.Json = False,
) -> None:
    """Show how far the embedder is with the log, each record that failed and why, and the spending against its caps."""
    own, codec = clients(state_dir, kafka, registry)
    if generation is not None:
        require_generation(generation, "--generation", state_dir)
        own = own.of(generation)
    progress, rate = measured(own, sample, time.sleep)
    errors = DeadLetterLog(own, codec).select(Selection(stage="embedder", tenant=tenant))
    held = waiting_for_caps(own, codec, tenant)
    settings = CostSettings()
    book, store = read_book(settings.file), owner_store(state_dir, postgres)
    in_all, by_tenant, caps = asyncio.run(spending(store, book, tenant, frozenset(held)))
    refused = None
    if book.caps.in_usd:  # only then does the model's price count, and the store is asked for the model
        model = asyncio.run(_generation(store, own.generation)).model
        refused = embedding_view.cap_without_price(book, model, settings, state_dir)
    if as_json:
        output.emit({
            "generation": own.generation, "total": progress.total, "pending": progress.pending,
            "percent": round(progress.percent, 2), "rate": round(rate, 2), "errors": len(errors),
            "error_list": [
                {"id": str(one.id), "tenant": one.tenant, "document": one.document_id, "reason": one.reason,
                 "message": one.message, "remedy": one.remedy} for one in errors
            ],
            "held_for_caps": held, "caps_reached": [str(one) for one in caps], "caps_refused": refused,
            "spent": {"all": _spent(in_all), **{f"tenant/{name}": _spent(one) for name, one in by_tenant.items()}},
        })  # fmt: skip
        return
    typer.echo(
        f"generation {own.generation}: {progress.percent:.1f} % of {progress.total} records, "
        f"{progress.pending} pending, {rate:.1f} a second, {len(errors)} errors"
    )
    for one in errors[:_ERRORS_SHOWN]:
        typer.echo(f"error {one.id}: {one.tenant}/{one.document_id}: {one.reason}: {one.message}")
    if len(errors) > _ERRORS_SHOWN:
        output.say(f"{len(errors) - _ERRORS_SHOWN} more: headrace dlq list --stage embedder")
    if refused is not None:
        typer.echo(f"refused by the embedder: {refused}")
    for why in caps:
        typer.echo(f"paused: {why}")
    if held and settings.file is None:
        output.say(embedding_view.NO_CAPS_KNOWN)
    for name, count in held.items():
        typer.echo(f"held: {count} records of {name}; `headrace embeddings release` sends on what has room again")
    rows = [(name, *_cells(one)) for name, one in (("all", in_all), *sorted(by_tenant.items()))]
    columns = ("of", "USD today", "USD this month", "tokens today", "tokens this month")
    output.console().print(output.table(columns, rows, right=columns[1:]))


def _cells(spent: Spent) -> tuple[str, str, int, int]:
    """Return the cells of a row of spending."""
    return (
        embedding_view.money(spent.usd_day), embedding_view.money(spent.usd_month), spent.tokens_day,
        spent.tokens_month,
    )  # fmt: skip


def _spent(spent: Spent) -> dict[str, Any]:
    return {
        "usd_day": embedding_view.plain(spent.usd_day), "usd_month": embedding_view.plain(spent.usd_month),
        "tokens_day": spent.tokens_day, "tokens_month": spent.tokens_month,
    }  # fmt: skip


async def spending(
    store: StoreSettings, book: CostBook, tenant: str | None, held: frozenset[str]
) -> tuple[Spent, dict[str, Spent], list[Reached]]:
    """Return what all spent, what the tenants spent that can be seen, and the caps that are reached."""
    now = datetime.now(UTC)
    async with opened_pool(store) as pool:
        try:
            names = await ledger.tenants(pool, tenant)
        except ConfigurationError:  # a service's login: those whose records are held, and those with a cap of their own
            names = sorted({one.partition("/")[2] for one in held} | set(book.caps.tenants))
        by_tenant = await ledger.spent_by(pool, names, now)
        in_all = await ledger.spent_in_all(pool, now)
    return in_all, by_tenant, ledger.all_reached(book, in_all, by_tenant, now)


async def _lines(
    store: StoreSettings, by: By, tenant: str | None, first: date | None, last: date | None, limit: int
) -> list[Any]:

    async with opened_pool(store) as pool:
        names = await ledger.tenants(pool, tenant)
        if by == "document":
            return ledger.of_documents(await ledger.read_documents(pool, names, limit))[:limit]
        return ledger.summed(await ledger.read_days(pool, names, first, last), by)


def _of_log(
    own: KafkaSettings, codec: Any, preparation: Preparation, everything: bool, offsets: list[str] | None,
    since: str | None, tenant: str | None,
) -> Lengths:  # fmt: skip
    """Read what the selection comes to in the log."""
    selection = selection_of(own, "embedder", offsets, since, None, tenant, everything=everything)
    planned = plan(own, selection, rate=None, asked_by=getpass.getuser(), now=datetime.now(UTC))
    with tracked("read", None) as progress:
        return of_log(own, codec, planned.run, preparation, progress)


def _of_files(paths: list[str], tenant: str) -> Lengths:

    unread: list[str] = []
    with tracked("read", None) as progress:
        lengths = of_texts(tenant, _texts(paths, unread), progress)
    for line in unread:
        output.say(line)
    if not lengths.documents:
        raise UsageError("no text was found", where=", ".join(paths), remedy="Name text files or change events.")
    return lengths


def _texts(paths: list[str], unread: list[str]) -> Iterator[str]:
    """Yield the text of each change that carries one; what carries none is told in ``unread``."""
    found = sources.find(paths)
    unread += [f"{failure.origin}: {failure.reason}" for failure in found.failures]
    for source in found.sources:
        for change in sources.read(source, sources.Shape()):
            if isinstance(change, sources.Failure):
                unread.append(f"{change.origin}: {change.reason}")
            elif isinstance(text := change.item.get("content"), str):
                yield text
            elif change.item.get("op", "upsert") != "delete":
                unread.append(f"{change.origin}: its text is known only when it was taken out of the file")


async def _generation(store: StoreSettings, name: str | None) -> Generation:
    """Return the generation of that name, or the active one; raises :class:`ConfigurationError` naming all."""
    async with opened_pool(store) as pool:
        return chosen(await generations(pool), name)


async def _priced(
    store: StoreSettings | None, lengths: Lengths, model: str, price: Decimal | None, rate: float | None
) -> Estimate:
    """Return what the texts come to: exactly with a store, whose cache is asked, and about without one."""
    if store is None:
        return await priced(lengths, None, price=price, rate=rate, exact=False)
    async with opened_pool(store) as pool:
        return await priced(lengths, cached_in(pool, model), price=price, rate=rate, exact=True)


def _show_estimate(found: Estimate, model: str, settings: CostSettings, *, as_json: bool) -> None:
    won = embedding_view.krw(found.usd, settings)
    if as_json:
        output.emit({**asdict(found), "model": model, "usd": embedding_view.plain(found.usd),
                     "krw": embedding_view.plain(won)})  # fmt: skip
    else:
        about = "" if found.exact else "about "
        typer.echo(
            f"{found.documents} documents, {about}{found.texts} distinct texts, {about}{found.to_embed} to embed with "
            f"{model}: about {found.tokens} tokens"
        )
        amount = embedding_view.money(found.usd)
        typer.echo(f"cost: {amount}{'' if found.usd is None else ' USD'}{'' if won is None else f', {won} KRW'}")
        if found.seconds is not None:
            typer.echo(f"time: about {found.seconds:.0f} s at that rate")
        if found.usd == 0:
            output.say("a model of this machine costs nothing here: power and machines are not counted")
    if found.usd is None:
        output.say(
            f"the price of {model} is unknown: name its usd_per_million_tokens in the file of HEADRACE_COST_FILE"
        )


def _day(text: str | None, where: str) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is no day", where=where, remedy="Write it as 2026-11-30.") from error


command(commands, "batch", "Have everything go through the embedder again.")(batch)
command(commands, "incremental", "Have what is not embedded yet go through the embedder.")(incremental)
command(commands, "release", "Send on what waits for caps that have room again.")(release)
command(commands, "reset", "Forget cached vectors, so that texts are embedded anew.")(reset)
command(commands, "benchmark", "Measure texts a second by batch size.")(benchmark)
command(commands, "schedule", "Run batch, incremental or release by a cron expression.")(schedule)
