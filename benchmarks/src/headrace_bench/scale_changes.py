"""Changes to a large index at a steady rate: each replaces one passage of a document, as an edit does."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time

import asyncpg
import numpy as np

from headrace.access.readers import EVERY_DOCUMENT
from headrace.payloads import DocumentFacts
from headrace.store.index import index_batch
from headrace.store.pool import StoreSettings, opened_pool
from headrace.store.rows import Generation, IndexChunk, IndexDocument
from headrace.store.transactions import tenant_transaction
from headrace_bench.scale_data import TENANTS

_BATCH = 10
_DOCUMENTS = "SELECT * FROM document WHERE document_id = ANY ($1::text[])"
_CHUNKS = "SELECT * FROM chunk WHERE chunk_id = ANY ($1::uuid[])"


def change_for(settings: StoreSettings, generation: Generation, per_second: float, seed: int) -> None:
    """Write changes until this process is ended."""
    asyncio.run(_change(settings, generation, per_second, seed))


async def _change(settings: StoreSettings, generation: Generation, per_second: float, seed: int) -> None:
    draw, noise = random.Random(seed), np.random.default_rng(seed)
    async with opened_pool(settings) as pool:
        counts = {}
        for one in TENANTS:
            async with tenant_transaction(pool, one.name, reader=EVERY_DOCUMENT) as connection:
                counts[one.name] = await connection.fetchval("SELECT count(*) FROM document")
        shares, due = [one.share for one in TENANTS], time.monotonic()
        while True:
            tenant = draw.choices(TENANTS, shares)[0].name
            names = [f"doc{draw.randrange(counts[tenant])}" for _ in range(_BATCH)]
            async with tenant_transaction(pool, tenant, reader=EVERY_DOCUMENT) as connection:
                documents = await connection.fetch(_DOCUMENTS, names)
                chunks = {
                    row["chunk_id"]: row
                    for row in await connection.fetch(_CHUNKS, [key for row in documents for key in row["chunk_ids"]])
                }
            edited = [_edited(row, [chunks[key] for key in row["chunk_ids"]], draw, noise) for row in documents]
            await index_batch(pool, generation, edited)
            due += _BATCH / per_second
            await asyncio.sleep(max(0.0, due - time.monotonic()))


def _edited(
    document: asyncpg.Record, rows: list[asyncpg.Record], draw: random.Random, noise: np.random.Generator
) -> IndexDocument:
    """Return the document's next version with one passage changed."""
    changed = draw.randrange(len(rows))
    chunks = []
    for place, row in enumerate(rows):
        start, end = document["starts"][place], document["ends"][place]
        identity, text, key, vector = row["chunk_id"].bytes, row["text"], row["text_hash"], None
        if place == changed:
            text = f"{text} {draw.randrange(10**9)}"
            key = hashlib.sha256(text.encode()).digest()
            identity, vector = key[:16], noise.normal(size=384).astype("<f4").tobytes()
        chunks.append(IndexChunk(identity, tuple(row["section"]), start, end, text, key, vector))
    facts = DocumentFacts(document["title"], "text/plain", draw.randbytes(8), attributes=document["attributes"])
    return IndexDocument(
        document["tenant"], document["document_id"], document["version"] + 1, facts, chunks=tuple(chunks)
    )
