"""The right to change generations, which requires the role that owns the schema."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from headrace.store.generations import may_switch
from headrace.store.pool import StoreSettings, opened_pool
from headrace_operations.errors import Refused

if TYPE_CHECKING:
    from headrace.store.pool import Connection


@asynccontextmanager
async def owner(store: StoreSettings) -> AsyncIterator[Connection]:
    """Yield a connection that may create and switch generations; raises :class:`Refused` for any other login."""
    async with (
        opened_pool(store.model_copy(update={"pool_minimum": 0})) as pool,
        pool.acquire() as connection,
    ):
        if not await may_switch(connection):
            raise Refused(
                "this PostgreSQL login may not change generations", where="HEADRACE_STORE_DSN",
                remedy="Pass a login with the role that owns the schema, in --postgres or "
                "HEADRACE_BOOTSTRAP_POSTGRES_DSN.",
            )  # fmt: skip
        yield connection
