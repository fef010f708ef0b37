"""Reads the ledger for operators: sums over tenants, and the caps that are reached."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from headrace.embeddings.costs import CAP_SCOPE, CostBook, Reached, Spent, reached
from headrace.errors import ConfigurationError
from headrace.store import usage
from headrace.store.error_mapping import postgresql_errors
from headrace.store.queries import load
from headrace.store.transactions import sees_all, tenant_transaction
from headrace.store.usage import DayUsage, DocumentUsage
from headrace_operations.choices import By

if TYPE_CHECKING:
    from headrace.store.pool import Pool


@dataclass(frozen=True, slots=True)
class Line:
    """A sum of the ledger; ``names`` say of what, such as a tenant and a document.

    ``usd`` does not include tokens without a known price, which are ``unpriced_tokens``.
    """

    names: tuple[str, ...]
    texts: int
    tokens: int
    usd: Decimal
    unpriced_tokens: int


def summed(rows: Iterable[DayUsage], by: By) -> list[Line]:
    """Return the sums of the days by tenant, stage, model or day, sorted by name."""
    sums: dict[tuple[str, ...], Line] = {}
    for row in rows:
        names = (str(getattr(row, by)),)
        before = sums.get(names, Line(names, 0, 0, Decimal(0), 0))
        sums[names] = Line(
            names, before.texts + row.texts, before.tokens + row.tokens, before.usd + row.usd,
            before.unpriced_tokens + row.unpriced_tokens,
        )  # fmt: skip
    return [sums[names] for names in sorted(sums)]


def of_documents(rows: Iterable[DocumentUsage]) -> list[Line]:
    """Return the sums of documents over stages and models, most expensive first."""
    sums: dict[tuple[str, ...], Line] = {}
    for row in rows:
        names = (row.tenant, row.document_id)
        before = sums.get(names, Line(names, 0, 0, Decimal(0), 0))
        sums[names] = Line(
            names, before.texts + row.texts, before.tokens + row.tokens, before.usd + row.usd,
            before.unpriced_tokens + row.unpriced_tokens,
        )  # fmt: skip
    return sorted(sums.values(), key=lambda line: (-line.usd, -line.tokens, line.names))


def total(lines: Sequence[Line]) -> Line:
    """Return the sum of all."""
    return Line(
        ("total",), sum(line.texts for line in lines), sum(line.tokens for line in lines),
        sum((line.usd for line in lines), Decimal(0)), sum(line.unpriced_tokens for line in lines),
    )  # fmt: skip


async def tenants(pool: Pool, named: str | None) -> list[str]:
    """Return the named tenant, or all tenants in the ledger.

    Raises :class:`ConfigurationError` if no tenant is named and the login sees only tenants that it names.
    """
    if named is not None:
        return [named]
    with postgresql_errors():
        async with pool.acquire() as connection:
            if not await sees_all(connection):
                raise ConfigurationError(
                    "this PostgreSQL login sees only one tenant at a time", where="--tenant",
                    remedy="Pass a tenant with --tenant, or a role that bypasses row-level security with --postgres.",
                )  # fmt: skip
            return [row["tenant"] for row in await connection.fetch(load("usage")["tenants"])]


async def read_days(pool: Pool, names: Sequence[str], first: date | None, last: date | None) -> list[DayUsage]:
    """Return the days of these tenants; raises :class:`DependencyDown`."""
    found: list[DayUsage] = []
    for tenant in names:
        async with tenant_transaction(pool, tenant, readonly=True) as connection:
            found += await usage.days(connection, tenant, first, last)
    return found


async def read_documents(pool: Pool, names: Sequence[str], limit: int) -> list[DocumentUsage]:
    """Return the most expensive documents of each of these tenants; raises :class:`DependencyDown`."""
    found: list[DocumentUsage] = []
    for tenant in names:
        async with tenant_transaction(pool, tenant, readonly=True) as connection:
            found += await usage.documents(connection, tenant, limit)
    return found


async def spent_by(pool: Pool, names: Iterable[str], now: datetime) -> dict[str, Spent]:
    """Return what each tenant spent today and this month."""
    found: dict[str, Spent] = {}
    for tenant in names:
        async with tenant_transaction(pool, tenant, readonly=True) as connection:
            found[tenant] = await usage.spent(connection, tenant, now)
    return found


async def spent_in_all(pool: Pool, now: datetime) -> Spent:
    """Return what all tenants together spent."""
    with postgresql_errors():
        async with pool.acquire() as connection:
            return await usage.spent_in_all(connection, now)


def all_reached(book: CostBook, in_all: Spent, by_tenant: dict[str, Spent], now: datetime) -> list[Reached]:
    """Return the reached caps, the cap on all tenants first."""
    found = [reached(book.caps.all, in_all, "all tenants", now)]
    found += [
        reached(book.caps.of(tenant), spent, f"tenant {tenant}", now) for tenant, spent in sorted(by_tenant.items())
    ]
    return [one for one in found if one is not None]


def with_room(book: CostBook, in_all: Spent, by_tenant: dict[str, Spent], now: datetime) -> frozenset[str]:
    """Return the scopes of held records to release: tenants whose cap has room, if the cap on all has room."""
    if reached(book.caps.all, in_all, "all tenants", now) is not None:
        return frozenset()
    return frozenset(
        f"{CAP_SCOPE}/{tenant}"
        for tenant, spent in by_tenant.items()
        if reached(book.caps.of(tenant), spent, tenant, now) is None
    )
