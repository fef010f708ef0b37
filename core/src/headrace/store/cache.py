"""Vectors by tenant, model and text hash: a repeated text costs no call to a model.

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
