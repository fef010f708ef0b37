"""The vector cache: vectors by tenant, model and text hash, so that a repeated text needs no model call.

A vector may be needed after it was embedded: a record of ``vectors.<generation>`` has only the new vectors, and the
indexer takes the others from here. So vectors used within the topic's retention stay. If there are more rows than
allowed, the least recently used of the other vectors are deleted first (:func:`evict`).

Each function takes a connection in a transaction of the tenant
(:func:`~headrace.store.transactions.tenant_transaction`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np
from pgvector import Vector

from headrace.store.queries import load

if TYPE_CHECKING:
    from headrace.store.pool import Connection


SHARED = "/"
"""Replaces the tenant for vectors that all tenants may use, if that is allowed. Tenant names contain no slash."""


def to_vector(little_endian: bytes) -> Vector:
    """Convert float32 little-endian bytes to pgvector's type."""
    return Vector(np.frombuffer(little_endian, dtype="<f4"))


def to_bytes(vector: Vector) -> bytes:
    """Convert pgvector's type to float32 little-endian bytes."""
    return vector.to_numpy().astype("<f4", copy=False).tobytes()


async def known(connection: Connection, tenant: str, model: str, text_hashes: Collection[bytes]) -> set[bytes]:
    """Return those of ``text_hashes`` that have a cached vector of ``model``."""
    if not text_hashes:
        return set()
    rows = await connection.fetch(load("cache")["known"], tenant, model, list(text_hashes))
    return {row["text_hash"] for row in rows}


async def known_since(
    connection: Connection, tenant: str, model: str, text_hashes: Collection[bytes], days: int
) -> tuple[set[bytes], set[bytes]]:
    """Return the cached hashes in two sets: those that were touched within ``days`` days, and the others.

    The others may be evicted at any time: call :func:`touch` before you rely on them.
    """
    fresh: set[bytes] = set()
    stale: set[bytes] = set()
    rows = await connection.fetch(load("cache")["known_since"], tenant, model, list(text_hashes), days)
    for row in rows:
        (stale if row["stale"] else fresh).add(row["text_hash"])
    return fresh, stale


async def touch(connection: Connection, tenant: str, model: str, text_hashes: Collection[bytes]) -> set[bytes]:
    """Mark these hashes as used today, and return those that still exist."""
    rows = await connection.fetch(load("cache")["touch"], tenant, model, sorted(text_hashes))
    return {row["text_hash"] for row in rows}


async def evict(connection: Connection, tenant: str, *, rows: int, keep_days: int, at_most: int) -> tuple[int, int]:
    """Delete up to ``at_most`` of the least recently used vectors of a tenant that has more than ``rows``.

    Returns how many were deleted, and how many above ``rows`` remain (counted up to ``at_most``). Vectors that were
    used within ``keep_days`` days always stay.
    """
    surplus: int = await connection.fetchval(load("cache")["surplus"], tenant, rows, at_most)
    if not surplus:
        return 0, 0
    status = await connection.execute(load("cache")["evict"], tenant, surplus, keep_days)
    gone = int(status.rsplit(" ", 1)[1])
    return gone, surplus - gone


async def fetch(connection: Connection, tenant: str, model: str, text_hashes: Collection[bytes]) -> dict[bytes, bytes]:
    """Return the cached vectors (float32, little-endian) by text hash; texts that are not cached are absent."""
    if not text_hashes:
        return {}
    rows = await connection.fetch(load("cache")["fetch"], tenant, model, list(text_hashes))
    return {row["text_hash"]: to_bytes(row["embedding"]) for row in rows}


async def put(connection: Connection, tenant: str, model: str, vectors: Mapping[bytes, bytes]) -> int:
    """Cache vectors (float32, little-endian) by text hash; return how many are new. Cached vectors stay as they are."""
    if not vectors:
        return 0
    hashes = sorted(vectors)
    status = await connection.execute(
        load("cache")["put"], tenant, model, hashes, [to_vector(vectors[text_hash]) for text_hash in hashes]
    )
    return int(status.rsplit(" ", 1)[1])


async def count(connection: Connection, tenant: str, model: str) -> int:
    """Return how many vectors of the model are cached for the tenant."""
    return int(await connection.fetchval(load("cache")["cached"], tenant, model))


async def some(connection: Connection, tenant: str, model: str, at_most: int) -> list[bytes]:
    """Return up to ``at_most`` text hashes of the model's cached vectors, in any order."""
    rows = await connection.fetch(load("cache")["some"], tenant, model, at_most)
    return [row["text_hash"] for row in rows]


async def forget(connection: Connection, tenant: str, model: str, text_hashes: Collection[bytes]) -> int:
    """Delete these vectors, even if they are needed, and return their number; for operators."""
    status = await connection.execute(load("cache")["forget"], tenant, model, sorted(text_hashes))
    return int(status.rsplit(" ", 1)[1])
