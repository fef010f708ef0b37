"""The ledger: model calls by tenant, and their cost at the price of that time.

Each function takes a connection in a transaction of the tenant
(:func:`~headrace.store.transactions.tenant_transaction`), unless its docstring says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from headrace.embeddings import costs
from headrace.embeddings.costs import Spent
from headrace.store.queries import load

if TYPE_CHECKING:
    from headrace.store.pool import Connection


class Used(NamedTuple):
    """The model usage of one document: texts that the model processed, and their tokens."""

    texts: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Bill:
    """The usage of a tenant's documents in one batch; ``price`` is USD per million tokens, None if unknown."""

    documents: Mapping[str, Used]
    calls: int
    price: Decimal | None


@dataclass(frozen=True, slots=True)
class DayUsage:
    """A tenant's usage by day, stage and model; ``unpriced_tokens`` are the ``tokens`` without a known price."""

    tenant: str
    day: date
    stage: str
    model: str
    texts: int
    tokens: int
    calls: int
    usd: Decimal
    unpriced_tokens: int


@dataclass(frozen=True, slots=True)
class DocumentUsage:
    """The cost of a document over all its versions."""

    tenant: str
    document_id: str
    stage: str
    model: str
    texts: int
    tokens: int
    usd: Decimal
    unpriced_tokens: int
    first_day: date
    last_day: date


async def add(connection: Connection, tenant: str, stage: str, model: str, bill: Bill, now: datetime) -> None:
    """Add a bill to the ledger; every call counts, so call it in the transaction that stores what was paid for."""
    if not bill.documents:
        return
    day = costs.today(now)
    names = sorted(bill.documents)
    used = [bill.documents[name] for name in names]
    known = bill.price is not None
    prices = [costs.usd(one.tokens, bill.price or Decimal(0)) for one in used]
    unpriced = [0 if known else one.tokens for one in used]
    queries = load("usage")
    await connection.execute(
        queries["add_documents"], tenant, stage, model, day, names, [one.texts for one in used],
        [one.tokens for one in used], prices, unpriced,
    )  # fmt: skip
    await connection.execute(
        queries["add_day"], tenant, day, stage, model, sum(one.texts for one in used),
        sum(one.tokens for one in used), bill.calls, sum(prices, Decimal(0)), sum(unpriced),
    )  # fmt: skip


async def spent(connection: Connection, tenant: str, now: datetime) -> Spent:
    """Return what the tenant spent today and this month, over all stages and models."""
    row = await connection.fetchrow(load("usage")["spent"], tenant, costs.today(now), costs.month_start(now))
    assert row is not None
    return Spent(**row)


async def spent_in_all(connection: Connection, now: datetime) -> Spent:
    """Return what all tenants spent; the transaction needs no tenant."""
    row = await connection.fetchrow(load("usage")["spent_in_all"], costs.today(now), costs.month_start(now))
    assert row is not None
    return Spent(**row)


async def days(
    connection: Connection, tenant: str, first: date | None = None, last: date | None = None
) -> list[DayUsage]:
    """Return the tenant's ledger by day, stage and model, from ``first`` to ``last`` (inclusive)."""
    return [DayUsage(**row) for row in await connection.fetch(load("usage")["days"], tenant, first, last)]


async def documents(connection: Connection, tenant: str, limit: int) -> list[DocumentUsage]:
    """Return the tenant's most expensive documents, over all days."""
    return [DocumentUsage(**row) for row in await connection.fetch(load("usage")["documents"], tenant, limit)]
