"""Groups texts into batches, halves batches that do not fit into memory, and runs queries before passages."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np
import structlog

from headrace_embedder.types import Kind, Vectors

log = structlog.get_logger(__name__)

Encode = Callable[[list[str]], Vectors]
"""Turns texts into vectors of shape (texts, dimensions); raises :class:`OutOfMemory` if they do not fit together."""


class OutOfMemory(Exception):
    """The device has too little memory for this batch."""


def micro_batches(lengths: Sequence[int], max_items: int, max_tokens: int) -> list[list[int]]:
    """Return positions in batches, longest texts first, so that texts in a batch have similar lengths.

    A batch has at most ``max_items`` texts and, padded to its longest text, ``max_tokens`` tokens; a longer text runs
    alone. Each position is in exactly one batch, so ``out[batch] = vectors`` restores the order.
    """
    batches: list[list[int]] = []
    room = 0
    for position in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if room == 0:
            batches.append([])
            room = min(max_items, max(1, max_tokens // max(1, lengths[position])))
        batches[-1].append(position)
        room -= 1
    return batches


def request_slices(lengths: Sequence[int], max_items: int, max_characters: int) -> list[slice]:
    """Return slices of consecutive texts within both limits; a text above ``max_characters`` gets its own slice."""
    slices: list[slice] = []
    start = characters = 0
    for index, length in enumerate(lengths):
        if index > start and (index - start == max_items or characters + length > max_characters):
            slices.append(slice(start, index))
            start, characters = index, 0
        characters += length
    if start < len(lengths):
        slices.append(slice(start, len(lengths)))
    return slices


def narrowed(slices: Sequence[slice], weights: Sequence[float], most: float) -> list[slice]:
    """Split the slices whose weights sum to more than ``most``; a heavier text gets its own slice."""
    found: list[slice] = []
    for one in slices:
        start, weight = one.start, 0.0
        for at in range(one.start, one.stop):
            if at > start and weight + weights[at] > most:
                found.append(slice(start, at))
                start, weight = at, 0.0
            weight += weights[at]
        found.append(slice(start, one.stop))
    return found


def encode_halving(encode: Encode, texts: list[str]) -> Vectors:
    """Encode the texts, halving a batch that does not fit; raises :class:`OutOfMemory` if one text alone does not."""
    try:
        return encode(texts)
    except OutOfMemory:
        if len(texts) == 1:
            raise
    middle = len(texts) // 2
    log.warning("out of memory; halving the batch", texts=len(texts))
    return np.concatenate([encode_halving(encode, texts[:middle]), encode_halving(encode, texts[middle:])])


class ModelThreads:
    """The threads that run the model: queries before passages, otherwise first come, first served.

    Work arrives in micro-batches: a query waits for the running batch, never for the rest of a large list. ``count``
    threads call ``encode``.
    """

    _LAST = 2

    def __init__(self, encode: Encode, count: int = 1) -> None:
        self._encode = encode
        self._order = itertools.count()
        self._jobs: queue.PriorityQueue[tuple[int, int, list[str], Future[Vectors]]] = queue.PriorityQueue()
        self._closed = False
        self._threads = [threading.Thread(target=self._run, name=f"model-{n}", daemon=True) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, texts: list[str], kind: Kind) -> Future[Vectors]:
        """Return a future for the vectors; cancelling it before its turn costs nothing."""
        if self._closed:
            raise RuntimeError("the model's threads are stopped")
        future: Future[Vectors] = Future()
        self._jobs.put((0 if kind is Kind.QUERY else 1, next(self._order), texts, future))
        return future

    def close(self) -> None:
        """Finish the submitted work, then stop the threads."""
        if not self._closed:
            self._closed = True
            for _ in self._threads:
                self._jobs.put((self._LAST, next(self._order), [], Future()))
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while True:
            priority, _, texts, future = self._jobs.get()
            if priority == self._LAST:
                return
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(encode_halving(self._encode, texts))
            except Exception as error:  # noqa: BLE001  # awaiting the future raises it
                future.set_exception(error)
            except BaseException as error:  # noqa: BLE001  # Rust's panics are of this class; the thread must continue
                future.set_exception(RuntimeError(f"{type(error).__name__}: {error}"))
