"""Bills each tenant for its share of a batch, writes the bills to the ledger, and checks spending caps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

import structlog

from headrace.embeddings.costs import CAP_SCOPE, CostBook, CostSettings, LiveBook, reached, split_exactly
from headrace.errors import DependencyDown, HoldRecord
from headrace.store import usage
from headrace.store.error_mapping import postgresql_errors
from headrace.store.transactions import tenant_transaction
from headrace.store.usage import Bill, Used
from headrace.topology.stages import EMBEDDER
from headrace_embedder import metrics
from headrace_embedder.batch import Text

if TYPE_CHECKING:
    from headrace.store.pool import Connection, Pool
    from headrace_embedder.provider import EmbedResult

log = structlog.get_logger(__name__)

_RAISE = "Raise the cap in the file of HEADRACE_COST_FILE, or wait for the next period"


def bills(part: Sequence[Text], result: EmbedResult, price: Decimal | None) -> dict[str, Bill]:
    """Return each tenant's bill for one result of the provider; the bills add up to the result's totals.

    A text for which nothing was computed is not billed: each repetition of its batch would bill it again.
    """
    documents: dict[str, dict[str, Used]] = {}
    for index, (text, own) in enumerate(zip(part, result.text_tokens, strict=True)):
        if index in result.unanswered or index in result.skipped:
            continue
        mine = documents.setdefault(text.tenant, {})
        before = mine.get(text.document_id, Used(0, 0))
        mine[text.document_id] = Used(before.texts + 1, before.tokens + own)
    weights = [sum(used.texts for used in mine.values()) for mine in documents.values()]
    calls = split_exactly(result.calls, weights)
    return {tenant: Bill(mine, own, price) for (tenant, mine), own in zip(documents.items(), calls, strict=True)}


class Spending:
    """Current prices and caps for the model of this process, from the cost file.

    The constructor raises :class:`ConfigurationError` if the file is invalid, or if it sets a cap in USD for a model
    without a price.
    """

    def __init__(
        self, model: str, *, local: bool, settings: CostSettings | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:  # fmt: skip
        self._model = model
        self._local = local
        file = (settings or CostSettings()).file
        self._live = LiveBook(file, lambda book: book.require_price(model, local=local, file=file))
        self._now = now

    def warn(self) -> None:
        """Log a warning if the model has no price, so that tokens are counted without a cost."""
        if self.price is None:
            log.warning(
                "the price of the model is unknown; its tokens are counted without a cost", model=self._model,
                remedy="Set its usd_per_million_tokens in the file of HEADRACE_COST_FILE; use 0 if it is free.",
            )  # fmt: skip

    @property
    def price(self) -> Decimal | None:
        """USD per million tokens, or None if unknown."""
        return self._live.book.price(self._model, local=self._local)

    def bills(self, part: Sequence[Text], result: EmbedResult) -> dict[str, Bill]:
        """Return each tenant's bill for one result, at the current price."""
        return bills(part, result, self.price)

    async def record(self, connection: Connection, tenant: str, bill: Bill) -> None:
        """Add a tenant's bill to the ledger, in the transaction that caches the vectors it pays for."""
        await usage.add(connection, tenant, EMBEDDER.name, self._model, bill, self._now())

    async def over(self, pool: Pool, tenants: Collection[str]) -> dict[str, HoldRecord]:
        """Return the tenants whose cap is reached, each with the error for its records that need the model.

        Raises :class:`DependencyDown` if the cap on all tenants is reached: the stage waits until the period ends or
        the cap is raised.
        """
        book = self._refreshed()
        if not tenants:  # no record is held, and the stage does not wait
            for scope in ("all", "tenant"):
                metrics.CAPPED.labels(scope).set(0)
            return {}
        now = self._now()
        await self._check_all(pool, book, now)
        found: dict[str, HoldRecord] = {}
        for tenant in sorted(tenants):
            cap = book.caps.of(tenant)
            if not cap.set:
                continue
            async with tenant_transaction(pool, tenant, readonly=True) as connection:
                why = reached(cap, await usage.spent(connection, tenant, now), f"tenant {tenant}", now)
            if why is not None:
                found[tenant] = HoldRecord(
                    f"{CAP_SCOPE}/{tenant}", str(why), remedy=f"{_RAISE}, then run `headrace embeddings release`."
                )
        metrics.CAPPED.labels("tenant").set(len(found))
        return found

    async def _check_all(self, pool: Pool, book: CostBook, now: datetime) -> None:
        if not book.caps.all.set:
            metrics.CAPPED.labels("all").set(0)
            return
        with postgresql_errors():
            async with pool.acquire() as connection:
                why = reached(book.caps.all, await usage.spent_in_all(connection, now), "all tenants", now)
        metrics.CAPPED.labels("all").set(int(why is not None))
        if why is not None:
            raise DependencyDown("spending cap", str(why), remedy=f"{_RAISE}. The stage continues by itself.")

    def _refreshed(self) -> CostBook:
        if self._live.refresh():
            if self._live.error is not None:
                log.error(
                    "the cost file is invalid; the previous prices and caps stay in force", error=str(self._live.error)
                )
            else:
                log.info("reloaded prices and caps", price=str(self.price))
        return self._live.book
