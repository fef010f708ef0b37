"""What an operator's command reaches: Kafka, the registry and PostgreSQL, as named or the local stack's."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from headrace_cli import services
from headrace_cli.failures import UsageError
from headrace_cli.state import find_state_dir, read_credentials

if TYPE_CHECKING:
    from headrace.store.pool import Pool, StoreSettings

STORE_DSN = "HEADRACE_STORE_DSN"


def tenant_of(state_dir: Path | None, given: str | None) -> str:
    """Return the tenant that was named, or the local stack's; raises :class:`UsageError` without either."""
    if given:
        return given
    credentials = read_credentials(find_state_dir(state_dir))
    if credentials is None:
        raise UsageError("no tenant is known", where="--tenant", remedy="Name it with --tenant or HEADRACE_TENANT.")
    return credentials.tenant


def store_settings(state_dir: Path | None) -> StoreSettings | None:
    """Return how to reach the store: HEADRACE_STORE_DSN, or the local stack's; None where neither is known."""
    from headrace.store.pool import StoreSettings  # noqa: PLC0415
    from headrace_local.stack import Stack  # noqa: PLC0415

    if os.environ.get(STORE_DSN):
        return StoreSettings(pool_minimum=0, pool_maximum=2)
    folder = find_state_dir(state_dir)
    credentials = read_credentials(folder)
    if credentials is None:
        return None
    owner = Stack(folder).endpoints().postgres_dsn
    dsn = services.runtime_dsn(owner, credentials.runtime_login, credentials.runtime_password)
    return StoreSettings(dsn=dsn, pool_minimum=0, pool_maximum=2)


@asynccontextmanager
async def opened_store(settings: StoreSettings | None) -> AsyncIterator[Pool | None]:
    """Yield a pool of connections, or None without settings; raises :class:`DependencyDown`."""
    from headrace.store.pool import create_pool  # noqa: PLC0415

    if settings is None:
        yield None
        return
    pool = await create_pool(settings)
    try:
        yield pool
    finally:
        await pool.close()
