"""The compute thread: one asyncio loop beside the polling threads, which runs handlers and side tasks."""

from __future__ import annotations

import asyncio
import queue
import random
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from headrace.runtime.loop.batch import Batch, BatchResult
from headrace.runtime.loop.events import ComputeReturned

log = structlog.get_logger(__name__)

CLOSE_S = 5.0
"""Maximum seconds to wait for cancelled tasks: one may run code that does not await, or ignore its cancellation."""

Process = Callable[[Batch], Awaitable[BatchResult]]


class ComputeThread:
    """An asyncio loop in its own thread, shared by the lanes of a stage."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="compute", daemon=True)
        self._thread.start()

    def computer(self, process: Process) -> BatchComputer:
        """Return an object that computes one lane's batches on this loop."""
        return BatchComputer(self._loop, process)

    def call(self, coroutine: Coroutine[Any, Any, Any], timeout: float | None = None) -> Any:
        """Run a coroutine on the loop and return its result; raises TimeoutError after ``timeout`` seconds."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout)

    def spawn(
        self,
        name: str,
        coroutine: Coroutine[Any, Any, Any],
        on_end: Callable[[str, BaseException | None], None],
    ) -> None:
        """Run a named side task and call ``on_end`` when it ends, because a dead side task must end the process."""

        async def guard() -> None:
            failure: BaseException | None = None
            try:
                await coroutine
            except BaseException as error:  # noqa: BLE001  # reported below, whatever it is
                failure = error
            on_end(name, failure)

        asyncio.run_coroutine_threadsafe(guard(), self._loop)

    def cancel(self) -> bool:
        """Cancel all tasks; return whether they ended within :data:`CLOSE_S` seconds."""
        try:
            self.call(self._cancel_all(), CLOSE_S)
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Cancel running tasks and end the thread; after :data:`CLOSE_S` seconds, leave it to end with the process."""
        self.cancel()
        self._closing = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            log.warning("a handler still runs; it ends with the process", waited_s=CLOSE_S)
        else:
            self._loop.close()

    def _run(self) -> None:
        while not self._closing:
            try:
                self._loop.run_forever()
            except BaseException:  # a task of a handler called sys.exit; without the loop, every batch would hang
                log.exception("a task ended the event loop; it continues")

    async def _cancel_all(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class BatchComputer:
    """Runs ``process(batch)`` for the batches of a lane in sequence. Batches of other lanes run in between."""

    def __init__(self, loop: asyncio.AbstractEventLoop, process: Process) -> None:
        self._loop = loop
        self._process = process
        self._outcomes: queue.SimpleQueue[ComputeReturned] = queue.SimpleQueue()
        self._tasks: dict[int, asyncio.Task[BatchResult | BaseException]] = {}
        self._turn = asyncio.Lock()

    def submit(self, batch: Batch) -> None:
        """Queue the batch behind those submitted before."""
        self._loop.call_soon_threadsafe(self._start, batch)

    def cancel(self, number: int) -> None:
        """Cancel the batch's task; a handler that does not await finishes first."""
        self._loop.call_soon_threadsafe(self._cancel, number)

    def wait(self, timeout: float) -> ComputeReturned | None:
        """Return the next outcome, or None after ``timeout`` seconds."""
        try:
            return self._outcomes.get(timeout > 0, timeout if timeout > 0 else None)
        except queue.Empty:
            return None

    def _start(self, batch: Batch) -> None:
        task = self._loop.create_task(self._run(batch), name=f"batch-{batch.number}")
        self._tasks[batch.number] = task
        task.add_done_callback(lambda done: self._finish(batch.number, done))

    def _finish(self, number: int, task: asyncio.Task[BatchResult | BaseException]) -> None:
        """Hand over the outcome, also for a batch that was cancelled before its first step."""
        if self._tasks.get(number) is task:
            del self._tasks[number]
        outcome = asyncio.CancelledError() if task.cancelled() else task.result()
        self._outcomes.put(ComputeReturned(time.monotonic(), number, outcome, random.random()))

    def _cancel(self, number: int) -> None:
        if number in self._tasks:
            self._tasks[number].cancel()

    async def _run(self, batch: Batch) -> BatchResult | BaseException:
        try:
            async with self._turn:
                return await self._process(batch)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  # the decision tells what it means
            return error
