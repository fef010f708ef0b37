"""The types that the indexer passes to the store and gets back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np

from headrace.embeddings.preparation import BODY, OverLong, Preparation
from headrace.errors import InvalidRecord
from headrace.lexical.analyzer import DEFAULT
from headrace.payloads import DocumentFacts
from headrace.store.fence import Fence

BYTES_PER_FLOAT = 4
CHUNK_ID_BYTES = 16
NO_FACTS = DocumentFacts("", "", b"")
"""The facts of a deleted document."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One embedding model's complete set of vectors; ``distance`` is cosine, l2 or inner_product.

    ``template``, ``passage_prompt`` and ``over_long`` say how its texts are prepared; see
    :attr:`preparation`. ``analyzer`` names what splits texts into terms (:mod:`headrace.lexical.analyzer`).
    ``storage`` is how vectors are kept: see :data:`headrace.store.generations.STORAGES`. ``embedder_url`` is where its
    embedder answers queries; None means where the settings of gateway and generator say. ``ef_search`` and ``probes``
    are how many candidates of HNSW and how many lists of IVFFlat a search reads first.
    """

    name: str
    model: str
    dimensions: int
    distance: str = "cosine"
    state: str = "building"
    template: str = BODY
    passage_prompt: str = ""
    over_long: str = OverLong.CUT
    analyzer: str = DEFAULT
    storage: str = "vector"
    embedder_url: str | None = None
    ef_search: int = 100
    probes: int = 1

    @property
    def preparation(self) -> Preparation:
        """How its texts are prepared."""
        return Preparation(self.template, self.passage_prompt, OverLong(self.over_long))


@dataclass(frozen=True, slots=True)
class IndexChunk:
    """A chunk of a document: characters ``start`` up to ``end`` of the source text.

    ``chunk_id`` has 16 bytes. ``vector`` is float32, little-endian, or None if the store already has one for ``key`` or
    for this chunk. ``vector_key`` is the hash of the prepared text, or None if that is the chunk's text. An empty key
    means that the chunk is not embedded and gets a row without a vector.
    """

    chunk_id: bytes
    section: tuple[str, ...]
    start: int
    end: int
    text: str
    text_hash: bytes
    vector: bytes | None = None
    tokens: int | None = None
    vector_key: bytes | None = None

    @property
    def key(self) -> bytes:
        """The key of the chunk's vector; empty if it has none."""
        return self.text_hash if self.vector_key is None else self.vector_key


@dataclass(frozen=True, slots=True)
class IndexDocument:
    """One version of a document with its chunks in the order of the text; a deletion has neither facts nor chunks."""

    tenant: str
    document_id: str
    version: int
    facts: DocumentFacts = NO_FACTS
    deleted: bool = False
    pipeline_id: str = ""
    pipeline_version: str = ""
    request_id: str = ""
    history: Sequence[Mapping[str, Any]] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    chunks: tuple[IndexChunk, ...] = ()

    def lexical_texts(self, chunk: IndexChunk) -> tuple[str, ...]:
        """Return the texts whose terms find a chunk: title, section path and text."""
        return (self.facts.title, *chunk.section, chunk.text)

    def lexical_key(self, chunk: IndexChunk, analyzer: str) -> bytes:
        """Return the key of a chunk's lexical vector: 16 bytes that differ if its terms may differ."""
        digest = hashlib.blake2b(chunk.text_hash, digest_size=CHUNK_ID_BYTES, person=b"headrace.lexical")
        for part in (analyzer, self.facts.title, *chunk.section):
            digest.update(f"\0{part}".encode())
        return digest.digest()

    def fence(self, generation: str) -> Fence:
        """Return this version as the fence sees it when it is written to ``generation``."""
        return Fence(self.version, self.facts.content_hash, self.deleted, frozenset((generation,)))


class Outcome(Enum):
    """The outcome of one document in a batch."""

    INDEXED = "indexed"
    DELETED = "deleted"
    UNCHANGED = "unchanged"
    SUPERSEDED = "superseded"
    CONFLICT = "conflict"
    MISSING_VECTORS = "missing-vectors"


@dataclass(frozen=True, slots=True)
class IndexResult:
    """The outcome of one document, and how many rows of ``chunk`` were inserted, deleted and left unchanged.

    ``weighed`` counts the lexical vectors that were written, in this generation; it is no part of the outcome, so it is
    not compared.
    ``missing`` has the keys without a known vector. The outcome is then MISSING_VECTORS, nothing is written, and the
    document must be embedded again.
    """

    outcome: Outcome
    inserted: int = 0
    deleted: int = 0
    kept: int = 0
    weighed: int = field(default=0, compare=False)
    missing: tuple[bytes, ...] = ()


def validate(document: IndexDocument, generation: Generation) -> None:
    """Reject a document that the tables would refuse, naming the field.

    Raises :class:`InvalidRecord` for an empty tenant or ID, a negative version, a deletion with chunks, a NUL or a lone
    surrogate in a text, a chunk ID that does not have 16 bytes, offsets out of order, and a vector that has the wrong
    size, contains a value that is not finite, is zero, or has no key.
    """
    where = f"tenant={document.tenant} document={document.document_id} version={document.version}"
    if not document.tenant or not document.document_id:
        raise InvalidRecord("tenant" if not document.tenant else "document_id", "is empty", where=where)
    if not 0 <= document.version < 2**63:
        raise InvalidRecord("version", f"{document.version} is not between 0 and 2^63 - 1", where=where)
    if document.deleted and document.chunks:
        raise InvalidRecord("chunks", "must be empty for a deleted document", where=where)
    _validate_text((document.facts.title,), "title", where)
    pages = document.facts.pages
    if list(pages) != sorted(pages) or not all(0 <= page < 2**31 for page in pages):
        raise InvalidRecord("pages", "must be offsets in ascending order", where=where)
    for ordinal, chunk in enumerate(document.chunks):
        _validate_chunk(chunk, f"chunks[{ordinal}]", generation.dimensions, where)


def _validate_text(texts: Sequence[str], path: str, where: str) -> None:
    for text in texts:
        if "\0" in text:
            raise InvalidRecord(path, "contains a NUL character, which PostgreSQL cannot store", where=where)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidRecord(path, "contains a lone surrogate, which UTF-8 cannot encode", where=where) from error


def _validate_chunk(chunk: IndexChunk, path: str, dimensions: int, where: str) -> None:
    if len(chunk.chunk_id) != CHUNK_ID_BYTES:
        raise InvalidRecord(f"{path}.chunk_id", f"has {len(chunk.chunk_id)} bytes, not 16", where=where)
    if not 0 <= chunk.start <= chunk.end < 2**31:
        raise InvalidRecord(f"{path}.start", f"{chunk.start} to {chunk.end} is not a valid range", where=where)
    _validate_text((chunk.text, *chunk.section), f"{path}.text", where)
    if chunk.vector is None:
        return
    if not chunk.key:
        raise InvalidRecord(f"{path}.vector", "is present, although the chunk's vector key is empty", where=where)
    if len(chunk.vector) != dimensions * BYTES_PER_FLOAT:
        raise InvalidRecord(
            f"{path}.vector",
            f"has {len(chunk.vector)} bytes, but {dimensions} dimensions need {dimensions * BYTES_PER_FLOAT}",
            where=where,
            remedy="The embedder and the generation must use the same model.",
        )
    numbers = np.frombuffer(chunk.vector, dtype="<f4")
    if not np.isfinite(numbers).all():
        raise InvalidRecord(f"{path}.vector", "contains a value that is not finite", where=where)
    if not numbers.any():
        raise InvalidRecord(f"{path}.vector", "has no direction: all its values are 0", where=where)
