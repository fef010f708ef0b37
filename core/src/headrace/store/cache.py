"""Vectors by tenant, model and text hash: a repeated text costs no call to a model.

A vector may be needed after it was embedded: a record of ``vectors.<generation>`` carries only what was new, and the
indexer takes the rest from here. So vectors used within the topic's retention stay; among older ones, the
least recently used are deleted first if there are more rows than allowed (:func:`evict`).

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
"""Replaces the tenant for vectors that all tenants may use, if allowed. Tenant names contain no slash."""


def to_vector(little_endian: bytes) -> Vector:
    """Float32 little-endian bytes as pgvector's type."""
    return Vector(np.frombuffer(little_endian, dtype="<f4"))


def to_bytes(vector: Vector) -> bytes:
    """Pgvector's type as float32 little-endian bytes."""
    return vector.to_numpy().astype("<f4", copy=False).tobytes()


async def known(connection: Connection, tenant: str, model: str, text_hashes: Collection[bytes]) -> set[bytes]:
    """Those of ``text_hashes`` for which a vector of ``model`` is cached."""
    if not text_hashes:
        return set()
    rows = await connection.fetch(load("cache")["known"], tenant, model, list(text_hashes))
    return {row["text_hash"] for row in rows}


async def known_since(
    connection: Connection, tenant: str, model: str, text_hashes: Collection[bytes], days: int
) -> tuple[set[bytes], set[bytes]]:
    """Those that are cached: first the ones that were touched within ``days`` days, then the others.

    The latter may be evicted at any moment: :func:`touch` them before relying on them.
    """
    fresh: set[bytes] = set()
    stale: set[bytes] = set()
    rows = await connection.fetch(load("cache")["known_since"], tenant, model, list(text_hashes), days)
    for row in rows:
        (stale if row["stale"] else fresh).add(row["text_hash"])
    return fresh, stale


async def touch(connection: Connection, tenant: str, model: str, text_hashes: Collection[bytes]) -> set[bytes]:
    """Note that these are used today, and return those that are still there."""
    rows = await connection.fetch(load("cache")["touch"], tenant, model, sorted(text_hashes))
    return {row["text_hash"] for row in rows}


async def evict(connection: Connection, tenant: str, *, rows: int, keep_days: int, at_most: int) -> tuple[int, int]:
    """Delete the longest unused vectors of a tenant above ``rows``, ``at_most`` in one call.

    Returns how many went, and how many above ``rows`` are left (counted up to ``at_most``): what was used within
    ``keep_days`` days stays in any case.
    """
    surplus: int = await connection.fetchval(load("cache")["surplus"], tenant, rows, at_most)
    if not surplus:
        return 0, 0
    status = await connection.execute(load("cache")["evict"], tenant, surplus, keep_days)
    gone = int(status.rsplit(" ", 1)[1])
    return gone, surplus - gone


async def fetch(connection: Connection, tenant: str, model: str, text_hashes: Collection[bytes]) -> dict[bytes, bytes]:
    """The cached vectors (float32, little-endian) by text hash; texts that are not cached are absent."""
    if not text_hashes:
        return {}
    rows = await connection.fetch(load("cache")["fetch"], tenant, model, list(text_hashes))
    return {row["text_hash"]: to_bytes(row["embedding"]) for row in rows}


async def put(connection: Connection, tenant: str, model: str, vectors: Mapping[bytes, bytes]) -> int:
    """Cache vectors (float32, little-endian) by text hash and return how many are new; a repeat changes no row."""
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
    """Return up to ``at_most`` arbitrary text hashes of the model's cached vectors."""
    rows = await connection.fetch(load("cache")["some"], tenant, model, at_most)
    return [row["text_hash"] for row in rows]


async def forget(connection: Connection, tenant: str, model: str, text_hashes: Collection[bytes]) -> int:
    """Delete these vectors, even if something needs them, and return their number; for operators."""
    status = await connection.execute(load("cache")["forget"], tenant, model, sorted(text_hashes))
    return int(status.rsplit(" ", 1)[1])
