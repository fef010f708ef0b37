"""Statements that must not be cancelled half-way."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

import headrace
from headrace.store.uncancelled import whole

pytestmark = pytest.mark.unit
_MANY = re.compile(r"(?<!whole\(connection)\.(?:executemany|fetchmany)\(")


async def test_a_statement_ends_before_its_caller_is_cancelled_however_often() -> None:
    """Broken: client and server wait for each other until the connection is given up, three minutes later."""
    begun, may_end, ended = asyncio.Event(), asyncio.Event(), []

    async def statement() -> int:
        begun.set()
        await may_end.wait()
        ended.append(True)
        return 7

    task = asyncio.create_task(whole(statement()))
    await begun.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [True]


async def test_what_a_statement_returns_or_raises_comes_through() -> None:
    """Broken: rows that were overtaken count as written, or an error is lost."""

    async def answers(value: int) -> int:
        if value < 0:
            raise ValueError("refused")
        return value

    assert await whole(answers(3)) == 3
    with pytest.raises(ValueError, match="refused"):
        await whole(answers(-1))


def test_no_statement_over_many_rows_runs_without_it() -> None:
    """Broken: the next one that is written can be cancelled half-way again."""
    root = Path(headrace.__file__).parents[3]
    found = [
        f"{path.name}: {line.strip()}"
        for path in root.glob("**/src/**/*.py")
        if not {".venv", ".venvs"} & set(path.parts)
        for line in path.read_text(encoding="utf-8").splitlines()
        if _MANY.search(line)
    ]
    assert found == []
