"""Statements that must not be cancelled half-way."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def whole(statement: Coroutine[Any, Any, T]) -> T:
    """Return what the statement returns; who is cancelled meanwhile is cancelled when it has ended.

    It is for asyncpg's ``executemany`` and ``fetchmany`` (0.32): cancelled between two parts of their
    rows they never tell the server that the rows end, client and server wait for each other, and the connection is lost
    after twice its command timeout (three minutes), for which a rebalance stopped the indexer.
    """
    running = asyncio.ensure_future(statement)
    cancelled = None
    while not running.done():
        try:
            await asyncio.wait({running})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        running.exception()  # it is rolled back in any case
        raise cancelled
    return running.result()
