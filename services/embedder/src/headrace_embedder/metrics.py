"""Metrics of the embedder."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

TEXTS_EMBEDDED = Counter(
    "headrace_texts_embedded",
    "Texts that went through the model, each distinct one once. More: the cache was lost.",
)
TEXTS_CACHED = Counter(
    "headrace_texts_cached", "Texts whose vector was known already. Near zero on edits: look at the chunking."
)
TEXTS_CUT = Counter(
    "headrace_texts_cut",
    "Texts that were longer than the model reads; what lies behind its limit cannot be found. A rise: lower the "
    "chunk size, or take a model that reads more.",
)
TEXTS_SPLIT = Counter(
    "headrace_texts_split",
    "Texts that were longer than the model reads and were embedded in parts. A rise: as for the texts that are cut.",
)
TEXTS_SKIPPED = Counter(
    "headrace_texts_skipped",
    "Texts without a vector by decision: empty ones, and over-long ones where the setting says so; each time that one "
    "is met. They are found by their words alone; metadata embedder.skipped of the document lists them.",
)
CACHE_EVICTED = Counter(
    "headrace_cache_evicted",
    "Cached vectors that went because their tenant had more than allowed. With more texts embedded at once: raise the "
    "bound.",
)
TOKENS = Counter(
    "headrace_texts_tokens",
    "Tokens that the provider read, as far as it counts them: what a paid one charges for.",
)
RECORDS_DEFERRED = Counter(
    "headrace_records_deferred",
    "Records that stood back because their tenant had its share of the provider's limit, each time that one did. "
    "A rise that never ends: raise the limit, or spread the tenant's flood over time.",
)
CAPPED = Gauge(
    "headrace_spending_capped",
    "Scope `all`: 1 while the stage waits for the cap on all tenants. Scope `tenant`: tenants of the last batch whose "
    "cap was reached, and whose records are held. `headrace embeddings status` says which; raise the cap, or wait.",
    ["scope"],
)
EMBEDDING_ERRORS = Counter(
    "embedding_errors",
    "Texts that could not be embedded, each time. A rise: `headrace dlq list --stage embedder` lists each with its "
    "reason.",
)
PROGRESS = Gauge(
    "embedding_progress_percent",
    "How much of the log the embedders of this generation are done with, all together; each of them tells the same. "
    "Below 100 and not rising: `headrace embeddings status` says what stops it.",
)
TOTAL_ITEMS = Gauge(
    "embedding_total_items", "Records of the log that embedding is about, with those that are read again."
)
PENDING_ITEMS = Gauge(
    "embedding_pending_items",
    "Of those, records that are pending. Growing for long: add embedders, or look at the provider.",
)
