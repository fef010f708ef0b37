"""The spending of tenants compared with their caps, and sums of the ledger."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

from headrace.embeddings.costs import CostBook, Reached, Spent
from headrace.errors import ConfigurationError
from headrace.store.pool import StoreSettings, opened_pool
from headrace_operations.choices import BYS
from headrace_operations.embeddings import ledger
from headrace_operations.embeddings.ledger import Line


@dataclass(frozen=True, slots=True)
class Spending:
    """The spending of all tenants and of each visible tenant, and the caps that are reached."""

    in_all: Spent
    by_tenant: Mapping[str, Spent]
    reached: Sequence[Reached]


async def spending(store: StoreSettings, book: CostBook, tenant: str | None, held: Collection[str] = ()) -> Spending:
    """Return what one tenant or all tenants spent today and this month.

    A service's login sees only tenants that it names: those of the ``held`` scopes, and those with their own cap.
    Raises :class:`DependencyDown`.
    """
    now = datetime.now(UTC)
    async with opened_pool(store) as pool:
        try:
            names = await ledger.tenants(pool, tenant)
        except ConfigurationError:
            names = sorted({one.partition("/")[2] for one in held} | set(book.caps.tenants))
        by_tenant = await ledger.spent_by(pool, names, now)
        in_all = await ledger.spent_in_all(pool, now)
    return Spending(in_all, by_tenant, ledger.all_reached(book, in_all, by_tenant, now))


@dataclass(frozen=True, slots=True)
class CostsRequest:
    """Sums of the ledger by one of :data:`BYS`; days in UTC, both inclusive; ``limit`` applies to documents."""

    by: str = "tenant"
    tenant: str | None = None
    first: date | None = None
    last: date | None = None
    limit: int = 50

    def checked(self) -> CostsRequest:
        """Return the request; raises :class:`ConfigurationError` if these sums are not possible."""
        if self.by not in BYS:
            raise ConfigurationError(
                f"cannot sum by {self.by!r}", where="--by", remedy=f"Use one of: {', '.join(BYS)}."
            )
        if self.by == "document" and (self.first or self.last):
            raise ConfigurationError(
                "sums by document always cover all days, so they cannot be limited to a time range",
                where="--since",
                remedy="Omit --since and --until, or use --by day with --tenant.",
            )
        return self


async def costs(store: StoreSettings, request: CostsRequest) -> list[Line]:
    """Return the sums of the ledger; raises :class:`ConfigurationError` and :class:`DependencyDown`."""
    by = request.checked().by
    async with opened_pool(store) as pool:
        names = await ledger.tenants(pool, request.tenant)
        if by == "document":
            return ledger.of_documents(await ledger.read_documents(pool, names, request.limit))[: request.limit]
        return ledger.summed(await ledger.read_days(pool, names, request.first, request.last), by)  # type: ignore[arg-type]
