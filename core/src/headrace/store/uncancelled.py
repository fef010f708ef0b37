"""Statements that must not be cancelled while they run."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def whole(statement: Coroutine[Any, Any, T]) -> T:
    """Return the statement's result; a cancellation during the statement takes effect after it.

    Use it for asyncpg's ``executemany`` and ``fetchmany`` (0.32). If they are cancelled between two parts of their
    rows, they never tell the server that the rows end. Client and server then wait for each other, and the connection
    is lost after twice its command timeout (three minutes), for which a rebalance would block the indexer.
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
