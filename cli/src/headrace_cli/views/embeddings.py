"""Shows the cost, progress and caps of embedding."""

from __future__ import annotations

from dataclasses import asdict
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import typer

from headrace.embeddings.costs import CostSettings, Spent
from headrace_cli import output, tables
from headrace_operations.embeddings.estimate import Estimate
from headrace_operations.embeddings.ledger import Line
from headrace_operations.embeddings.status import EmbeddingStatus

_ERRORS_SHOWN = 20
_CENTS = Decimal("0.000001")
_WON = Decimal("0.01")
NO_CAPS_KNOWN = (
    "no file of caps is configured here, so every cap counts as raised; set HEADRACE_COST_FILE to the embedder's "
    "file, or a record whose cap is still reached is held again"
)


def krw(amount: Decimal | None, settings: CostSettings) -> Decimal | None:
    """Return the amount in won; None if the rate or the amount is unknown."""
    if amount is None or settings.krw_per_usd is None:
        return None
    return (amount * settings.krw_per_usd).quantize(_WON, ROUND_HALF_UP)


def money(amount: Decimal | None) -> str:
    """Return dollars with six places, or that the price is unknown."""
    return "price unknown" if amount is None else f"{amount.quantize(_CENTS, ROUND_HALF_UP):f}"


def plain(amount: Decimal | None) -> str | None:
    """Return an amount for JSON: exact, as text."""
    return None if amount is None else f"{amount:f}"


def line_document(line: Line, settings: CostSettings) -> dict[str, Any]:
    """Return a sum of the ledger for ``--json``."""
    return {
        "of": list(line.names), "texts": line.texts, "tokens": line.tokens, "usd": plain(line.usd),
        "krw": plain(krw(line.usd, settings)), "unpriced_tokens": line.unpriced_tokens,
    }  # fmt: skip


def show_lines(columns: tuple[str, ...], lines: list[Line], last: Line, settings: CostSettings) -> None:
    """Print sums of the ledger, their total, and the tokens without a known price."""
    names = (*columns, "texts", "tokens", "USD", "KRW")
    rows = [
        (*line.names, *([""] * (len(columns) - len(line.names))), line.texts, line.tokens, money(line.usd),
         plain(krw(line.usd, settings)))
        for line in (*lines, last)
    ]  # fmt: skip
    tables.console().print(tables.table(names, rows, right=("texts", "tokens", "USD", "KRW")))
    if last.unpriced_tokens:
        output.say(
            f"the price of {last.unpriced_tokens} tokens was unknown when they were spent, so no amount includes them. "
            "Set the model's usd_per_million_tokens in the file that HEADRACE_COST_FILE names."
        )
    if settings.krw_per_usd is None:
        output.say("set HEADRACE_COST_KRW_PER_USD to see amounts in KRW")


def show_estimate(found: Estimate, model: str, settings: CostSettings, *, as_json: bool) -> None:
    """Print the estimate, and which prices are unknown."""
    won = krw(found.usd, settings)
    if as_json:
        output.emit({**asdict(found), "model": model, "usd": plain(found.usd),
                     "krw": plain(won)})  # fmt: skip
    else:
        about = "" if found.exact else "about "
        typer.echo(
            f"{found.documents} documents, {about}{found.texts} distinct texts, {about}{found.to_embed} to embed with "
            f"{model}: about {found.tokens} tokens"
        )
        amount = money(found.usd)
        typer.echo(f"cost: {amount}{'' if found.usd is None else ' USD'}{'' if won is None else f', {won} KRW'}")
        if found.seconds is not None:
            typer.echo(f"time: about {found.seconds:.0f} s at that rate")
        if found.usd == 0:
            output.say("a local model costs nothing here: power and machines are not counted")
    if found.usd is None:
        output.say(
            f"the price of {model} is unknown; set its usd_per_million_tokens in the file that HEADRACE_COST_FILE names"
        )


def show_status(found: EmbeddingStatus, settings: CostSettings, *, as_json: bool) -> None:
    """Print the progress, the failures, and the spending against the caps."""
    if as_json:
        output.emit(_status_document(found))
        return
    progress = found.progress
    typer.echo(
        f"generation {found.generation}: {progress.percent:.1f} % of {progress.total} records, "
        f"{progress.pending} pending, {found.rate:.1f} records/s, {len(found.errors)} errors"
    )
    for one in found.errors[:_ERRORS_SHOWN]:
        typer.echo(f"error {one.id}: {one.tenant}/{one.document_id}: {one.reason}: {one.message}")
    if len(found.errors) > _ERRORS_SHOWN:
        output.say(f"{len(found.errors) - _ERRORS_SHOWN} more: headrace dlq list --stage embedder")
    if found.refused is not None:
        typer.echo(f"rejected by the embedder: {found.refused}")
    for why in found.spending.reached:
        typer.echo(f"paused: {why}")
    if found.held and settings.file is None:
        output.say(NO_CAPS_KNOWN)
    for name, count in found.held.items():
        typer.echo(f"held: {count} records of {name}; `headrace embeddings release` releases those whose cap has room")
    spent = (("all", found.spending.in_all), *sorted(found.spending.by_tenant.items()))
    rows = [(name, money(one.usd_day), money(one.usd_month), one.tokens_day, one.tokens_month) for name, one in spent]
    columns = ("scope", "USD today", "USD this month", "tokens today", "tokens this month")
    tables.console().print(tables.table(columns, rows, right=columns[1:]))


def _status_document(found: EmbeddingStatus) -> dict[str, Any]:
    progress, spent = found.progress, found.spending
    return {
        "generation": found.generation, "total": progress.total, "pending": progress.pending,
        "percent": round(progress.percent, 2), "rate": round(found.rate, 2), "errors": len(found.errors),
        "error_list": [
            {"id": str(one.id), "tenant": one.tenant, "document": one.document_id, "reason": one.reason,
             "message": one.message, "remedy": one.remedy} for one in found.errors
        ],
        "held_for_caps": found.held, "caps_reached": [str(one) for one in spent.reached],
        "caps_refused": found.refused,
        "spent": {
            "all": _spent(spent.in_all), **{f"tenant/{name}": _spent(one) for name, one in spent.by_tenant.items()}
        },
    }  # fmt: skip


def _spent(spent: Spent) -> dict[str, Any]:
    return {
        "usd_day": plain(spent.usd_day), "usd_month": plain(spent.usd_month), "tokens_day": spent.tokens_day,
        "tokens_month": spent.tokens_month,
    }  # fmt: skip
