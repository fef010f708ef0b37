"""What runs together, in which order, and what happens without room; no model."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_embedder.model_batches import ModelThreads, OutOfMemory, encode_halving, micro_batches, request_slices
from headrace_embedder.types import Kind, Vectors

pytestmark = pytest.mark.unit

_LENGTHS = st.lists(st.integers(0, 600), max_size=80)


@given(_LENGTHS, st.integers(1, 40), st.integers(1, 2000))
def test_micro_batches_hold_each_text_once_within_their_bounds(lengths: list[int], items: int, tokens: int) -> None:
    """A text would be lost or embedded twice, or a batch would outgrow the device."""
    batches = micro_batches(lengths, items, tokens)
    assert sorted(position for batch in batches for position in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = len(batch) * max(lengths[position] for position in batch)
        assert 1 <= len(batch) <= items
        assert len(batch) == 1 or padded <= tokens
    ordered = [lengths[position] for batch in batches for position in batch]
    assert ordered == sorted(lengths, reverse=True)


def test_micro_batches_fill_up_to_their_bounds() -> None:
    """Short texts would run one by one, and the processor would idle."""
    assert [len(batch) for batch in micro_batches([10] * 70, 32, 640)] == [32, 32, 6]
    assert micro_batches([128] * 6, 32, 640) == [[0, 1, 2, 3, 4], [5]]
    assert micro_batches([5, 900, 5], 32, 640) == [[1], [0, 2]]


@given(_LENGTHS, st.integers(1, 40), st.integers(1, 2000))
def test_request_slices_cover_all_texts_in_order(lengths: list[int], items: int, characters: int) -> None:
    """A vector would land at another text, or a request would be refused as too large."""
    slices = request_slices(lengths, items, characters)
    positions = list(range(len(lengths)))
    assert [position for part in slices for position in positions[part]] == positions
    for part in slices:
        inside = lengths[part]
        assert 1 <= len(inside) <= items
        assert len(inside) == 1 or sum(inside) <= characters


def numbers(texts: list[str]) -> Vectors:
    """Encode a text that is a number as that number."""
    return np.array([[float(text)] for text in texts], np.float32)


def test_a_batch_too_large_for_the_device_is_halved_until_it_fits() -> None:
    """Running out of GPU memory would stop the stage, or halving would mix up texts."""
    sizes = []

    def encode(texts: list[str]) -> Vectors:
        sizes.append(len(texts))
        if len(texts) > 2:
            raise OutOfMemory
        return numbers(texts)

    vectors = encode_halving(encode, [str(number) for number in range(7)])
    assert vectors[:, 0].tolist() == list(range(7))
    assert sizes == [7, 3, 1, 2, 4, 2, 2]


def test_one_text_without_room_says_so() -> None:
    """Halving would never end."""

    def encode(texts: list[str]) -> Vectors:
        raise OutOfMemory(f"no room for {len(texts)}")

    with pytest.raises(OutOfMemory, match="no room for 1"):
        encode_halving(encode, ["1", "2", "3"])


class GatedEncode:
    """Waits at the first batch until it is told to go on, and notes the order of batches."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.go = threading.Event()
        self.seen: list[str] = []

    def __call__(self, texts: list[str]) -> Vectors:
        self.started.set()
        assert self.go.wait(10)
        self.seen += texts
        return numbers(texts)


def test_a_query_overtakes_waiting_passages_but_not_the_running_one() -> None:
    """A search would wait behind a whole large batch of documents."""
    encode = GatedEncode()
    thread = ModelThreads(encode)
    futures = [thread.submit(["0"], Kind.PASSAGE)]
    assert encode.started.wait(10)
    futures += [thread.submit([text], Kind.PASSAGE) for text in ("1", "2")]
    futures += [thread.submit([text], Kind.QUERY) for text in ("10", "11")]
    encode.go.set()
    assert [future.result(10)[0, 0] for future in futures] == [0, 1, 2, 10, 11]
    assert encode.seen == ["0", "10", "11", "1", "2"]
    thread.close()


def test_as_many_batches_run_beside_each_other_as_there_are_threads() -> None:
    """Broken: the streams of the model stand idle, or more batches run than it has."""
    lock, together = threading.Lock(), threading.Barrier(2)
    running = most = 0

    def encode(texts: list[str]) -> Vectors:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait(10)  # nobody goes on alone
        with lock:
            running -= 1
        return numbers(texts)

    threads = ModelThreads(encode, 2)
    futures = [threads.submit([str(number)], Kind.PASSAGE) for number in range(8)]
    assert [future.result(10)[0, 0] for future in futures] == list(range(8))
    assert most == 2
    threads.close()
    assert not any(thread.name.startswith("model-") for thread in threading.enumerate())


def test_cancelled_work_is_skipped_and_a_failure_stays_with_its_batch() -> None:
    """A revoked batch would keep the model busy, or one failure would end the model's thread."""
    encode = GatedEncode()
    thread = ModelThreads(encode)
    first = thread.submit(["0"], Kind.PASSAGE)
    assert encode.started.wait(10)
    cancelled = thread.submit(["1"], Kind.PASSAGE)
    failing = thread.submit(["no number"], Kind.PASSAGE)
    last = thread.submit(["3"], Kind.PASSAGE)
    assert cancelled.cancel()
    encode.go.set()
    thread.close()
    assert first.result(0)[0, 0] == 0
    assert isinstance(failing.exception(0), ValueError)
    assert last.result(0)[0, 0] == 3
    assert "1" not in encode.seen
    with pytest.raises(RuntimeError, match="stopped"):
        thread.submit(["4"], Kind.QUERY)


def test_a_model_thread_outlives_a_panic() -> None:
    """A panic in the tokenizer would end the thread silently, and each later batch would wait for ever."""

    class Panic(BaseException):
        """As the panics of Rust libraries: not an ``Exception``."""

    def encode(texts: list[str]) -> Vectors:
        if texts == ["0"]:
            raise Panic("index out of bounds")
        return numbers(texts)

    threads = ModelThreads(encode)
    with pytest.raises(RuntimeError, match="Panic: index out of bounds"):
        threads.submit(["0"], Kind.PASSAGE).result(timeout=5)
    assert threads.submit(["7"], Kind.PASSAGE).result(timeout=5).tolist() == [[7.0]]
    threads.close()
