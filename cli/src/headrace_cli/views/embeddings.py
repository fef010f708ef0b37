"""How money, progress and caps of embedding are shown."""

from __future__ import annotations

import os
from collections.abc import Collection
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

from headrace.costs import CostBook, CostSettings
from headrace.embedding_models import PROVIDERS, SERVED, identity
from headrace.errors import ConfigurationError
from headrace_cli import output
from headrace_cli.state import find_state_dir, read_services
from headrace_operations.embeddings.ledger import Line

_CENTS = Decimal("0.000001")
_WON = Decimal("0.01")
NO_CAPS_KNOWN = (
    "no file of caps is known here, so every cap counts as raised; name the embedder's with HEADRACE_COST_FILE, or a "
    "record whose cap is still reached waits again"
)


def provider_name(state_dir: Path | None) -> str | None:
    """Return what embeds, as the environment or the local stack says it; None where neither does."""
    named = os.environ.get("HEADRACE_EMBEDDER_PROVIDER")
    if named is None:
        known = read_services(find_state_dir(state_dir))
        named = known.provider if known else None
    return named


def local_provider(state_dir: Path | None) -> bool:
    """Whether the model is known to run in the embedder's own process."""
    named = provider_name(state_dir)
    return named in PROVIDERS and named != SERVED


def model_identity(model: str, known: Collection[str], state_dir: Path | None) -> str:
    """Return a model's identity in cache and index: the last part of its name or folder.

    A name that is ``known`` as one stays as it is, and so does a server's.
    """
    return model if model in known or provider_name(state_dir) == SERVED else identity(model)


def cap_without_price(book: CostBook, model: str, settings: CostSettings, state_dir: Path | None) -> str | None:
    """Return why the embedder does not take the file: a cap in USD on a server's model without a price; else None."""
    if provider_name(state_dir) != SERVED:
        return None
    try:
        book.require_price(model, local=False, file=settings.file)
    except ConfigurationError as error:
        return str(error)
    return None


def krw(amount: Decimal | None, settings: CostSettings) -> Decimal | None:
    """Return the amount in won; None where the rate or the amount is unknown."""
    if amount is None or settings.krw_per_usd is None:
        return None
    return (amount * settings.krw_per_usd).quantize(_WON, ROUND_HALF_UP)


def money(amount: Decimal | None) -> str:
    """Return dollars with six places, or that the price is unknown."""
    return "price unknown" if amount is None else f"{amount.quantize(_CENTS, ROUND_HALF_UP):f}"


def plain(amount: Decimal | None) -> str | None:
    """Return an amount as JSON has it: exact, as text."""
    return None if amount is None else f"{amount:f}"


def line_document(line: Line, settings: CostSettings) -> dict[str, Any]:
    """Return a sum of the ledger as JSON has it."""
    return {
        "of": list(line.names), "texts": line.texts, "tokens": line.tokens, "usd": plain(line.usd),
        "krw": plain(krw(line.usd, settings)), "unpriced_tokens": line.unpriced_tokens,
    }  # fmt: skip


def show_lines(columns: tuple[str, ...], lines: list[Line], last: Line, settings: CostSettings) -> None:
    """Print sums of the ledger, their total, and what has no known price."""
    names = (*columns, "texts", "tokens", "USD", "KRW")
    rows = [
        (*line.names, *([""] * (len(columns) - len(line.names))), line.texts, line.tokens, money(line.usd),
         plain(krw(line.usd, settings)))
        for line in (*lines, last)
    ]  # fmt: skip
    output.console().print(output.table(names, rows, right=("texts", "tokens", "USD", "KRW")))
    if last.unpriced_tokens:
        output.say(
            f"the price of {last.unpriced_tokens} tokens was unknown when they were spent: they are in no amount here. "
            "Name the model's usd_per_million_tokens in the file of HEADRACE_COST_FILE."
        )
    if settings.krw_per_usd is None:
        output.say("without HEADRACE_COST_KRW_PER_USD there are no amounts in KRW")
