"""A large index for the benchmark of search: real passages repeated with seeded edits, written by COPY."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import numpy as np
import numpy.typing as npt
from pgvector import SparseVector, Vector

from headrace.lexical import weights
from headrace.lexical.analyzer import DEFAULT, analyzer_of
from headrace.store.pool import prepare_connection
from headrace_bench.stages import DOCUMENT_COLUMNS, chunked
from headrace_embedder.factory import build
from headrace_embedder.settings import EmbedderSettings
from headrace_embedder.types import Kind

Floats = npt.NDArray[np.float32]
PASSAGES = 10
"""Passages of a document."""
EDITED = 0.1
"""Share of a passage's words that an edit replaces by words of other passages."""
NOISE = 0.5
"""Length of the random vector that is added to a real one of length 1: copies have a cosine of about 0.9 to it."""
_COPIED_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Base:
    """Real passages, their vectors by the model (passages × dimensions, length 1), and what they are."""

    texts: Sequence[str]
    vectors: Floats
    source: str

    def text(self, number: int, edits: random.Random) -> str:
        """Return passage ``number``, modulo their count, with edits."""
        words = self.texts[number % len(self.texts)].split(" ")
        for _ in range(max(1, round(len(words) * EDITED))):
            other = self.texts[edits.randrange(len(self.texts))].split(" ")
            words[edits.randrange(len(words))] = other[edits.randrange(len(other))]
        return " ".join(words)

    def near(self, numbers: Sequence[int], noise: np.random.Generator) -> Floats:
        """Return vectors near those of these passages, of length 1."""
        chosen = self.vectors[np.asarray(numbers) % len(self.vectors)]
        drawn = noise.normal(size=chosen.shape).astype(np.float32)
        moved = chosen + drawn * (NOISE / np.linalg.norm(drawn, axis=1, keepdims=True))
        return np.asarray(moved / np.linalg.norm(moved, axis=1, keepdims=True), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant of the index and its share of the passages."""

    name: str
    share: float


TENANTS = (
    Tenant("half", 0.5),
    Tenant("hundredth", 0.01),
    Tenant("tenthousandth", 0.0001),
    *(Tenant(f"other{number}", 0.04899) for number in range(10)),
)
"""Shares of 50 %, 1 % and 0.01 %, and ten others."""


def read_base(passages: int, squad: Path | None) -> Base:
    """Return real passages, English and, with a file in the format of SQuAD, as many of its language."""
    found, source = chunked(400)
    texts = [chunk.text for _, document in found for chunk in document.chunks]
    if squad is not None:
        articles = json.loads(squad.read_text(encoding="utf-8"))["data"]
        other = [paragraph["context"] for article in articles for paragraph in article["paragraphs"]]
        other = random.Random(1).sample(other, min(len(other), passages // 2))
        texts = random.Random(1).sample(texts, min(len(texts), passages - len(other))) + other
        source += f" and {squad.name}"
    texts = random.Random(2).sample(texts, min(passages, len(texts)))
    return Base(texts, asyncio.run(_embedded(texts)), source)


async def _embedded(texts: Sequence[str]) -> Floats:
    provider = build(EmbedderSettings())
    try:
        vectors = (await provider.embed(list(texts), Kind.PASSAGE)).vectors
    finally:
        await provider.aclose()
    return np.asarray(vectors, dtype=np.float32)


async def load(dsn: str, schema: str, base: Base, passages: int, seed: int, say: Callable[[str], None]) -> None:
    """Write the tenants' documents, chunks and vectors of both legs into generation ``g1``."""
    connection = await asyncpg.connect(dsn, server_settings={"search_path": f"{schema},public"})
    await prepare_connection(connection)
    done, started = 0, time.monotonic()
    for tenant in TENANTS:
        for part in _parts(tenant, base, round(passages * tenant.share), seed):
            async with connection.transaction():
                for table, columns, rows in part:
                    await connection.copy_records_to_table(table, records=rows, columns=columns)
            done += len(part[1][2])
            if done % 50_000 < _COPIED_AT_ONCE:
                say(f"{done} of {passages} passages, {done / (time.monotonic() - started):.0f} a second")
    await connection.close()


def _parts(tenant: Tenant, base: Base, passages: int, seed: int) -> Iterator[list[tuple[str, list[str], list[Any]]]]:
    """Yield the rows of a few documents after another, by table."""
    edits, noise = random.Random(f"{seed}/{tenant.name}"), np.random.default_rng([seed, *tenant.name.encode()])
    analyzer = analyzer_of(DEFAULT)
    for first in range(0, passages, _COPIED_AT_ONCE):
        numbers = [edits.randrange(len(base.texts)) for _ in range(first, min(first + _COPIED_AT_ONCE, passages))]
        documents: list[tuple[str, list[UUID]]] = []
        chunks, vectors, embeddings, lexical = [], [], [], []
        found = zip(numbers, base.near(numbers, noise), strict=True)
        for place, (number, vector) in enumerate(found):
            document_id, text = f"doc{(first + place) // PASSAGES}", base.text(number, edits)
            digest = hashlib.sha256(f"{tenant.name}/{document_id}/{first + place}/{text}".encode()).digest()
            chunk_id = UUID(bytes=digest[:16])
            if not place % PASSAGES:
                documents.append((document_id, []))
            documents[-1][1].append(chunk_id)
            chunks.append((tenant.name, chunk_id, document_id, [f"Part {place % PASSAGES}"], text, digest))
            vectors.append((tenant.name, digest, Vector(vector)))
            embeddings.append((tenant.name, chunk_id, digest))
            terms = weights.passage(analyzer, tenant.name, (f"Part {place % PASSAGES}", text))
            lexical.append((tenant.name, chunk_id, digest[:16], list(terms), SparseVector(terms, weights.DIMENSIONS)))
        rows = [_document(tenant.name, *one) for one in documents]
        yield [
            ("document", DOCUMENT_COLUMNS, rows),
            ("chunk", ["tenant", "chunk_id", "document_id", "section", "text", "text_hash"], chunks),
            ("vector_g1", ["tenant", "vector_key", "embedding"], vectors),
            ("embedding_g1", ["tenant", "chunk_id", "vector_key"], embeddings),
            ("lexical_g1", ["tenant", "chunk_id", "lexical_key", "terms", "weights"], lexical),
        ]


def _document(tenant: str, document_id: str, chunk_ids: Sequence[UUID]) -> tuple[Any, ...]:
    starts = [place * 400 for place in range(len(chunk_ids))]
    ends = [start + 400 for start in starts]
    return (
        tenant, document_id, 1, False, document_id.encode(), ["g1"], document_id, "", "text/plain", [],
        {"kind": str(int(document_id[3:]) % 100)}, "default", "1", "", [], {}, "", list(chunk_ids), starts, ends,
    )  # fmt: skip
