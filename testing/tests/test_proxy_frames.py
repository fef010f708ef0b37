"""The proxy's eye for Kafka's requests, whatever pieces they come in."""

from __future__ import annotations

import struct
from random import Random

import pytest

from headrace_testing.proxy import END_TXN, Frames

pytestmark = pytest.mark.unit


def request(api_key: int, size: int) -> bytes:
    """Return a request of so many bytes after its length."""
    return struct.pack(">ih", size, api_key) + bytes([api_key]) * (size - 2)


def test_the_first_of_its_kind_is_found() -> None:
    """Broken: another request than the transaction's end is held back."""
    data = request(0, 40) + request(END_TXN, 20) + request(END_TXN, 20)
    assert Frames().before(data, END_TXN) == 44
    assert Frames().before(data, 99) is None
    assert Frames().before(data, None) is None


@pytest.mark.parametrize("seed", range(20))
def test_pieces_do_not_hide_it(seed: int) -> None:
    """Broken: a request is overlooked, or a payload taken for one, because TCP cut it somewhere."""
    chance = Random(seed)
    requests = [request(chance.choice([0, 1, 26]), chance.randint(2, 60)) for _ in range(30)]
    stream = b"".join(requests)
    starts, at = [], 0
    for one in requests:
        if one[4:6] == struct.pack(">h", END_TXN):
            starts.append(at)
        at += len(one)
    frames, at = Frames(), 0
    while at < len(stream):
        piece = stream[at : at + chance.randint(1, 50)]
        found = frames.before(piece, END_TXN)
        whole = [start for start in starts if at <= start and start + 6 <= at + len(piece)]
        if whole:
            assert found == whole[0] - at
        elif found is not None:  # its head came in two pieces: never reported
            pytest.fail(f"reported at {found} of {piece!r}")
        at += len(piece)
