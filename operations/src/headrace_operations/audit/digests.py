"""Digests for comparing chunks without keeping them in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from headrace_operations.audit.model import Position, Rows

_BYTES = 16
_MODULUS = 1 << (8 * _BYTES)
_NUMBER_BYTES = 4
NO_ROWS = Rows(0, 0)


def text_hash(text: str) -> bytes:
    """Return the text's hash as the chunker computes it: BLAKE2b-128 of the UTF-8 bytes, 16 bytes."""
    return hashlib.blake2b(text.encode(), digest_size=_BYTES, person=b"headrace.text").digest()


def layout_digest(layout: Iterable[Position]) -> bytes:
    """Return a digest of the chunks' IDs and positions, which depends on their order."""
    hasher = hashlib.blake2b(digest_size=_BYTES)
    for position in layout:
        hasher.update(position.chunk_id)
        hasher.update(position.start.to_bytes(_NUMBER_BYTES, "big"))
        hasher.update(position.end.to_bytes(_NUMBER_BYTES, "big"))
    return hasher.digest()


def with_row(rows: Rows, chunk_id: bytes, its_text_hash: bytes) -> Rows:
    """Return the digest with one more chunk; the order in which chunks are added does not matter."""
    one = hashlib.blake2b(chunk_id + its_text_hash, digest_size=_BYTES).digest()
    return Rows(rows.number + 1, (rows.total + int.from_bytes(one, "big")) % _MODULUS)


def rows_digest(hashes: Mapping[bytes, bytes]) -> Rows:
    """Return the digest of chunks, given as text hash by ID."""
    rows = NO_ROWS
    for chunk_id, its_text_hash in hashes.items():
        rows = with_row(rows, chunk_id, its_text_hash)
    return rows
