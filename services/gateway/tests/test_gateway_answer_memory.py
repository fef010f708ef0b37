"""What is remembered for repeats must not fill the memory."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from headrace_gateway.idempotency import AnswerCache

pytestmark = pytest.mark.unit


def answer(number: int) -> dict[str, Any]:
    """The answer to a thousand changes."""
    names = [f"guides/{number}/{index}.md" for index in range(1000)]
    return {"documents": [{"id": name, "version": 7, "status_url": f"/v1/documents/{name}"} for name in names]}


async def test_answers_to_large_batches_are_kept_small() -> None:
    """If it failed, ten thousand remembered answers to large batches would take some gigabytes."""
    cache = AnswerCache(100, 60)
    tracemalloc.start()
    try:
        for number in range(20):

            async def work(number: int = number) -> dict[str, Any]:
                return answer(number)

            await cache.once(str(number), b"body", work)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 20 * 60_000

    async def never() -> dict[str, Any]:
        raise AssertionError("a repeat does no work")

    assert await cache.once("7", b"body", never) == answer(7)
