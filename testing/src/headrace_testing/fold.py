"""The oracle: what the store must contain, as a pure fold of the change events, and what it contains.

:func:`compare` returns all differences. An empty list proves that nothing was lost, duplicated or left stale.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg

from headrace.payloads import Chunk

MOST_DIFFERENCES = 20


@dataclass(frozen=True, slots=True)
class Expected:
    """The expected state of one version of a document; a deleted one has no chunks."""

    version: int
    deleted: bool
    content_hash: bytes
    chunks: tuple[Chunk, ...] = ()


Key = tuple[str, str]
"""Tenant and document ID."""


def fold(events: Iterable[tuple[Key, Expected]]) -> dict[Key, Expected]:
    """Return the final state: the highest version of each document; among equal versions, the first."""
    state: dict[Key, Expected] = {}
    for key, document in events:
        known = state.get(key)
        if known is None or document.version > known.version:
            state[key] = document
    return state


def distinct_texts(events: Iterable[tuple[Key, Expected]]) -> set[tuple[str, bytes]]:
    """Return tenant and text hash of every chunk of any version; each must be embedded once."""
    return {(tenant, chunk.text_hash) for (tenant, _), document in events for chunk in document.chunks}


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document's row and the rows of its chunks: ``layout`` is (chunk ID, start, end) in the order of the text."""

    version: int
    deleted: bool
    content_hash: bytes
    layout: tuple[tuple[bytes, int, int], ...]
    chunks: Mapping[bytes, tuple[tuple[str, ...], str]]


@dataclass(frozen=True, slots=True)
class Store:
    """All relevant contents, read in one transaction by a role that sees every tenant."""

    documents: Mapping[Key, StoredDocument]
    vectors: frozenset[tuple[str, bytes]]
    cached: frozenset[tuple[str, bytes]]
    duplicates: tuple[str, ...]
    digest: str
    """Digest of every row and its ``xmin``; equal only if no row was written in between."""


def read_store(dsn: str, *, schema: str = "headrace", generation: str = "g1") -> Store:
    """Read the store with the superuser's DSN, to which row-level security does not apply."""
    with psycopg.connect(dsn, options=f"-c search_path={schema},public") as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        hasher = hashlib.sha256()

        def rows(query: str) -> list[tuple[Any, ...]]:
            found = connection.execute(query).fetchall()
            for row in found:
                hasher.update(repr(row).encode("utf-8", "backslashreplace"))
            return found

        documents = rows(
            "SELECT tenant, document_id, version, deleted, content_hash, chunk_ids, starts, ends, xmin::text "
            "FROM document ORDER BY tenant, document_id"
        )
        chunks = rows(
            "SELECT tenant, document_id, chunk_id, section, text, xmin::text FROM chunk ORDER BY tenant, chunk_id"
        )
        vectors = rows(f"SELECT tenant, chunk_id, xmin::text FROM embedding_{generation} ORDER BY tenant, chunk_id")
        rows(f"SELECT tenant, vector_key, xmin::text FROM vector_{generation} ORDER BY tenant, vector_key")
        cached = rows("SELECT tenant, text_hash, xmin::text FROM vector_cache ORDER BY tenant, text_hash")
    by_document: dict[Key, dict[bytes, tuple[tuple[str, ...], str]]] = {}
    for tenant, document_id, chunk_id, section, text, _ in chunks:
        by_document.setdefault((tenant, document_id), {})[chunk_id.bytes] = (tuple(section), text)
    stored = {
        (tenant, document_id): StoredDocument(
            version,
            deleted,
            bytes(content_hash),
            tuple((identity.bytes, start, end) for identity, start, end in zip(ids, starts, ends, strict=True)),
            by_document.pop((tenant, document_id), {}),
        )
        for tenant, document_id, version, deleted, content_hash, ids, starts, ends, _ in documents
    }
    doubled = [f"vector of {chunk_id} twice" for _, chunk_id, _ in _repeated(vectors)]
    doubled += [f"chunks without a document: {key}" for key in by_document]
    return Store(
        stored,
        frozenset((tenant, chunk_id.bytes) for tenant, chunk_id, _ in vectors),
        frozenset((tenant, bytes(text_hash)) for tenant, text_hash, _ in cached),
        tuple(doubled),
        hasher.hexdigest(),
    )


def _repeated(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    seen: set[tuple[str, UUID]] = set()
    return [row for row in rows if (row[0], row[1]) in seen or seen.add((row[0], row[1]))]  # type: ignore[func-returns-value]


def compare(expected: Mapping[Key, Expected], store: Store) -> list[str]:
    """Return the differences, at most :data:`MOST_DIFFERENCES` lines."""
    problems = list(store.duplicates)
    problems += [f"{key}: missing in the store" for key in expected.keys() - store.documents.keys()]
    problems += [f"{key}: in the store and nowhere in the events" for key in store.documents.keys() - expected.keys()]
    wanted_vectors: set[tuple[str, bytes]] = set()
    for key in expected.keys() & store.documents.keys():
        problems += [f"{key}: {problem}" for problem in _differences(expected[key], store.documents[key])]
        wanted_vectors |= {(key[0], chunk.chunk_id) for chunk in expected[key].chunks}
    if missing := wanted_vectors - store.vectors:
        problems.append(f"{len(missing)} chunks have no vector")
    if orphans := store.vectors - wanted_vectors:
        problems.append(f"{len(orphans)} vectors belong to no chunk")
    return sorted(problems)[:MOST_DIFFERENCES]


def _differences(expected: Expected, stored: StoredDocument) -> list[str]:
    problems = []
    if expected.version != stored.version:
        problems.append(f"version {stored.version}, expected {expected.version}")
    if expected.deleted != stored.deleted:
        problems.append(f"deleted is {stored.deleted}, expected {expected.deleted}")
    if not expected.deleted and expected.content_hash != stored.content_hash:
        problems.append("another content hash than the event's")
    if tuple((chunk.chunk_id, chunk.start, chunk.end) for chunk in expected.chunks) != stored.layout:
        problems.append(f"another layout: {len(stored.layout)} chunks, expected {len(expected.chunks)}")
    if {chunk.chunk_id: (chunk.section, chunk.text) for chunk in expected.chunks} != dict(stored.chunks):
        problems.append(
            f"other chunk rows: {len(stored.chunks)}, expected {len({c.chunk_id for c in expected.chunks})}"
        )
    return problems


def expected_documents(
    changes: Iterable[Mapping[str, Any]], tenant: str, expect: Callable[[str, Mapping[str, Any]], Expected]
) -> list[tuple[Key, Expected]]:
    """Return every version of every document in the changes, in order."""
    return [((tenant, change["id"]), expect(tenant, change)) for change in changes]
