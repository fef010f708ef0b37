"""Feature hashing: vectors computed from words, without a model and without meaning. For load tests only.

Each word and each pair of adjacent words adds ±1 at the position that its CRC-32 selects (Weinberger et al. 2009,
"Feature Hashing for Large Scale Multitask Learning").
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import ClassVar
from zlib import crc32

import numpy as np

from headrace_embedder.provider import EmbedResult, Provider, check_vectors
from headrace_embedder.types import Kind

_WORD = re.compile(r"\w+")
_SIGN = 0x80000000


class HashingProvider(Provider):
    """Computes deterministic vectors from hashed words and pairs of words."""

    name: ClassVar[str] = "hashing"

    def __init__(self, dimensions: int = 384) -> None:
        self.model = f"hashing-{dimensions}"
        self.dimensions = dimensions

    async def embed(
        self, texts: Sequence[str], kind: Kind, lengths: Sequence[int] | None = None,  # noqa: ARG002
    ) -> EmbedResult:  # fmt: skip
        """Return the vectors, the same for queries and passages; a text without words gets a fixed vector."""
        hashes: list[int] = []
        counts = []
        words_seen: list[int] = []
        for text in texts:
            words = [word.encode("utf-8", "surrogatepass") for word in _WORD.findall(text.lower())]
            words_seen.append(len(words))
            hashes += map(crc32, words)
            hashes += map(crc32, map(b"%b %b".__mod__, itertools.pairwise(words)))
            counts.append(max(0, 2 * len(words) - 1))
        hashed = np.array(hashes, np.int64)
        cells = np.repeat(np.arange(len(texts)) * self.dimensions, counts) + hashed % self.dimensions
        signs = np.where(hashed & _SIGN, 1.0, -1.0)
        vectors = np.bincount(cells, signs, len(texts) * self.dimensions).reshape(len(texts), self.dimensions)
        vectors[~vectors.any(axis=1), 0] = 1.0
        checked = check_vectors(vectors.astype(np.float32), len(texts), self.dimensions)
        return EmbedResult(
            checked.vectors, checked.errors, tokens=sum(words_seen), text_tokens=words_seen, calls=int(bool(texts))
        )
