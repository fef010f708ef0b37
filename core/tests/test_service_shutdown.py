"""The end of a stage's process: it takes no longer than its bound, whatever a handler still does."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import cast

import pytest
from structlog.testing import capture_logs

from headrace.handlers.chains import PipelineChains
from headrace.runtime import compute
from headrace.runtime.compute import ComputeThread
from headrace.runtime.loop.batch import Batch, BatchResult
from headrace.stage_process import main

pytestmark = pytest.mark.unit

BATCH = Batch(1, (), None, 0.0)


class Pooled:
    """Handlers whose pool closes when the batch has given its connection back, as asyncpg's does."""

    def __init__(self) -> None:
        self.connection = asyncio.Lock()
        self.begun = threading.Event()
        self.closed = False

    async def process(self, _: Batch) -> BatchResult:
        """Hold the connection until cancelled."""
        async with self.connection:
            self.begun.set()
            await asyncio.Event().wait()
        raise AssertionError

    async def close(self) -> None:
        """Wait for the connection."""
        async with self.connection:
            self.closed = True


@pytest.fixture(autouse=True)
def bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait briefly."""
    for module in (compute, main):
        monkeypatch.setattr(module, "CLOSE_S", 0.5, raising=False)


def close(thread: ComputeThread, handlers: object) -> threading.Thread:
    """Close handlers and thread as a stage does at its end; return the thread that does it."""

    def end() -> None:
        main._close_handlers(thread, cast("PipelineChains", handlers))
        thread.close()

    ending = threading.Thread(target=end, daemon=True)
    ending.start()
    return ending


def test_the_batch_that_the_drain_left_is_cancelled_before_its_handler_closes() -> None:
    """Broken: the pool waits for the batch's connection, and the process for its supervisor's SIGKILL."""
    handlers, thread = Pooled(), ComputeThread()
    computer = thread.computer(handlers.process)
    computer.submit(BATCH)
    assert handlers.begun.wait(5)
    ending = close(thread, handlers)
    ending.join(5)
    assert not ending.is_alive()
    assert handlers.closed
    returned = computer.wait(0.0)
    assert returned is not None
    assert isinstance(returned.outcome, asyncio.CancelledError)


def test_a_handler_that_does_not_close_holds_up_no_shutdown() -> None:
    """Broken: a handler whose close waits for a server that is gone keeps the process."""

    class Endless(Pooled):
        async def close(self) -> None:
            await asyncio.Event().wait()

    with capture_logs() as logs:
        ending = close(ComputeThread(), Endless())
        ending.join(5)
    assert not ending.is_alive()
    assert [log["event"] for log in logs] == ["handlers not closed in time; their connections end with the process"]


def test_a_batch_that_does_not_await_holds_up_no_shutdown() -> None:
    """Broken: a handler that computes without a pause keeps the process, and nothing says why."""
    released = threading.Event()
    handlers = Pooled()

    async def process(_: Batch) -> BatchResult:
        handlers.begun.set()
        released.wait(10)
        return BatchResult([])

    thread = ComputeThread()
    thread.computer(process).submit(BATCH)
    assert handlers.begun.wait(5)
    with capture_logs() as logs:
        begun = time.monotonic()
        ending = close(thread, handlers)
        ending.join(5)
    released.set()
    assert not ending.is_alive()
    assert time.monotonic() - begun < 5
    assert [log["event"] for log in logs] == [
        "handlers not closed: a batch still runs", "a handler still runs; it ends with the process",
    ]  # fmt: skip
