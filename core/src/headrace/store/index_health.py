"""The health of a generation's indexes: sizes, dead rows, and what the approximate index finds of the exact result."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from headrace.store.dense_index import DenseIndex, dense_indexes, index_name, option_values
from headrace.store.error_mapping import postgresql_errors
from headrace.store.generations import STORAGES, embedding_table, filled, lexical_table, query_of, vector_table
from headrace.store.legs import effort
from headrace.store.queries import load
from headrace.store.transactions import set_tenant

if TYPE_CHECKING:
    from pgvector import Vector

    from headrace.store.pool import Connection
    from headrace.store.rows import Generation

DEPTH = 10
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class TableHealth:
    """A table; ``rows``, ``dead`` and ``modified`` (since it was analysed) are PostgreSQL's estimates."""

    name: str
    rows: int
    dead: int
    modified: int
    bytes: int
    vacuumed_at: datetime | None
    analyzed_at: datetime | None


@dataclass(frozen=True, slots=True)
class IndexSize:
    """An index of one of the tables, how often it was scanned, and its parameters."""

    name: str
    table: str
    kind: str
    valid: bool
    bytes: int
    options: dict[str, int]
    scans: int


@dataclass(frozen=True, slots=True)
class Recall:
    """A sample of one tenant: the share of the exact first ten that a search finds, and its times in milliseconds.

    ``indexed`` is False if PostgreSQL reads all of the tenant's vectors, because they are few: the result is exact.
    """

    tenant: str
    queries: int
    recall_10: float
    p50_ms: float
    p95_ms: float
    exact_p50_ms: float
    indexed: bool


@dataclass(frozen=True, slots=True)
class Health:
    """Everything about the tables and indexes of one generation."""

    generation: Generation
    tables: Sequence[TableHealth]
    indexes: Sequence[IndexSize]
    dense: DenseIndex | None
    left_over: DenseIndex | None
    recalls: Sequence[Recall] = ()

    @property
    def vectors(self) -> TableHealth:
        """The table of the dense vectors."""
        return self.tables[0]


async def look(connection: Connection, generation: Generation) -> Health:
    """Return the health without recalls; reads statistics alone."""
    names = [of(generation.name) for of in (vector_table, embedding_table, lexical_table)]
    with postgresql_errors():
        tables = [TableHealth(**row) for row in await connection.fetch(load("index_health")["tables"], names)]
        rows = await connection.fetch(load("index_health")["indexes"], names)
    dense = {one.name: one for one in await dense_indexes(connection, generation)}
    name = index_name(generation.name)
    indexes = [
        IndexSize(row["name"], row["on_table"], row["kind"], row["valid"], row["bytes"],
                  option_values(row["options"]), row["scans"] or 0)
        for row in rows
    ]  # fmt: skip
    return Health(generation, tables, indexes, dense.get(name), dense.get(f"{name}_new"))


async def recall(
    connection: Connection, generation: Generation, tenant: str, queries: int, seconds: float, start: bytes
) -> Recall | None:
    """Compare the approximate with the exact result for up to ``queries`` of the tenant's own vectors.

    Ends after about ``seconds``, because each exact result reads all of the tenant's vectors. ``start`` is the key at
    which the sample begins. Returns None if the tenant has fewer than two vectors. The connection is the owner's.
    """
    deadline = time.monotonic() + seconds
    shares: list[float] = []
    approximate: list[float] = []
    exact: list[float] = []
    indexed = False
    with postgresql_errors():
        async with connection.transaction(readonly=True):
            await set_tenant(connection, tenant)
            await connection.execute(load("search")["prepare"], *effort(generation, DEPTH + 1))
            query = query_of("index_health", "sample", generation)
            rows = await connection.fetch(query, tenant, start, queries)
            if len(rows) < queries:
                rows += await connection.fetch(query, tenant, b"", queries - len(rows))
            for row in rows:
                found, ms = await _keys(connection, _approximate(generation), tenant, row["embedding"])
                approximate.append(ms)
                wanted, ms = await _keys(
                    connection, query_of("index_health", "exact", generation), tenant, row["embedding"]
                )
                exact.append(ms)
                wanted.discard(row["vector_key"])
                if wanted:
                    shares.append(len(wanted & found) / len(wanted))
                if time.monotonic() > deadline:
                    break
            if rows:
                indexed = await _uses_index(connection, generation, tenant, rows[0]["embedding"])
    if not shares:
        return None
    return Recall(
        tenant, len(shares), round(sum(shares) / len(shares), 4), _at(approximate, 0.5), _at(approximate, 0.95),
        _at(exact, 0.5), indexed,
    )  # fmt: skip


def first_key(fraction: float) -> bytes:
    """Return the key at this fraction of all keys, from 0 to 1."""
    keys = 1 << (8 * _KEY_BYTES)
    return min(int(fraction * keys), keys - 1).to_bytes(_KEY_BYTES, "big")


def _approximate(generation: Generation) -> str:
    ordered = load("legs")["ordered_binary" if STORAGES[generation.storage].binary else "ordered"]
    return filled(load("index_health")["approximate"].replace("{ordered}", ordered), generation)


async def _keys(connection: Connection, query: str, tenant: str, vector: Vector) -> tuple[set[bytes], float]:
    begun = time.perf_counter()
    rows = await connection.fetch(query, tenant, vector, DEPTH + 1)
    return {row["vector_key"] for row in rows}, (time.perf_counter() - begun) * 1000


async def _uses_index(connection: Connection, generation: Generation, tenant: str, vector: Vector) -> bool:
    plan = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {_approximate(generation)}", tenant, vector, DEPTH + 1)
    return f'"{index_name(generation.name)}"' in (plan if isinstance(plan, str) else json.dumps(plan))


def _at(times: Sequence[float], share: float) -> float:
    return round(sorted(times)[min(len(times) - 1, int(len(times) * share))], 2)
