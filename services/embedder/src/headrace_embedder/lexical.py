"""The lexical vectors of documents, with a cache: an edit changes few of a document's chunks."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from cachetools import LRUCache

from headrace.envelope import Context
from headrace.lexical import weights
from headrace.lexical.analyzer import Analyzer
from headrace.payloads import ChunkedDocument

CACHED_CHUNKS = 20_000
"""Lexical vectors to keep; one has about a kilobyte."""

_Key = tuple[str, str, tuple[str, ...], bytes]


class LexicalVectors:
    """Makes the lexical vectors of chunks from title, section path and text."""

    def __init__(self, analyzer: str, capacity: int = CACHED_CHUNKS) -> None:
        self._analyzer = Analyzer(analyzer)
        # Neither analyzer nor cache may be used by two threads at once, and an abandoned batch may still be analyzed.
        self._one = threading.Lock()
        self._known: LRUCache[_Key, bytes] = LRUCache(capacity)

    def of(self, documents: Sequence[Context[ChunkedDocument]]) -> list[tuple[bytes, ...]]:
        """Return the lexical vector of each chunk of each document, packed, in order."""
        with self._one:
            return [self._of(context.change.tenant, context.payload) for context in documents]

    def _of(self, tenant: str, document: ChunkedDocument) -> tuple[bytes, ...]:
        found: list[bytes] = []
        for chunk in document.chunks:
            key = (tenant, document.facts.title, chunk.section, chunk.text_hash)
            packed = self._known.get(key)
            if packed is None:
                texts = (document.facts.title, *chunk.section, chunk.text)
                packed = weights.pack(weights.passage(self._analyzer, tenant, texts))
                self._known[key] = packed
            found.append(packed)
        return tuple(found)
