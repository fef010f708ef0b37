"""Metrics of the embedder."""

from __future__ import annotations

from prometheus_client import Counter

TEXTS_EMBEDDED = Counter(
    "headrace_texts_embedded",
    "Texts that went through the model, each distinct one once. More: the cache was lost.",
)
TEXTS_CACHED = Counter(
    "headrace_texts_cached", "Texts whose vector was known already. Near zero on edits: look at the chunking."
)
