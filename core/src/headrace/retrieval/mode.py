"""The mode of a search."""

from __future__ import annotations

from enum import StrEnum


class Mode(StrEnum):
    """Which legs of the index to search."""

    HYBRID = "hybrid"
    """Meaning and words together."""
    VECTOR = "vector"
    """Meaning alone: the nearest vectors."""
    LEXICAL = "lexical"
    """Words alone: the best BM25 scores. It needs no embedder."""
