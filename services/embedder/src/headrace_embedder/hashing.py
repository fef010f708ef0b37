"""Feature hashing: vectors from words, without a model and without meaning. For load tests only.

Each word and each pair of neighbours adds ±1 at a position that its CRC-32 chooses (Weinberger et al. 2009, "Feature
Hashing for Large Scale Multitask Learning").
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from zlib import crc32

import numpy as np

from headrace_embedder.provider import EmbedResult, Kind, Provider, check_vectors

_WORD = re.compile(r"\w+")


class HashingProvider(Provider):
    """Deterministic vectors of hashed words and pairs of words."""

    def __init__(self, dimensions: int = 384) -> None:
        self.model = f"hashing-{dimensions}"
        self.dimensions = dimensions

    async def embed(self, texts: Sequence[str], kind: Kind) -> EmbedResult:  # noqa: ARG002
        """Return the vectors; queries and passages are treated alike."""
        vectors = np.zeros((len(texts), self.dimensions), np.float32)
        for row, text in enumerate(texts):
            hashes = self._hashes(text)
            signs = np.where(hashes & 0x80000000, np.float32(1), np.float32(-1))
            np.add.at(vectors[row], hashes % self.dimensions, signs)
            if not vectors[row].any():
                vectors[row, 0] = 1.0
        return check_vectors(vectors, len(texts), self.dimensions)

    def _hashes(self, text: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        words = [word.encode("utf-8", "surrogatepass") for word in _WORD.findall(text.lower())]
        pairs = [b"%b %b" % pair for pair in zip(words, words[1:], strict=False)]
        return np.fromiter(map(crc32, [*words, *pairs]), np.int64, 2 * len(words) - 1 if words else 0)
