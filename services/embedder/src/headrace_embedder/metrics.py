"""Metrics of the embedder."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

TEXTS_EMBEDDED = Counter(
    "headrace_texts_embedded",
    "Texts that the model embedded, each distinct text once. A text that is counted again was lost from the cache.",
)
TEXTS_CACHED = Counter(
    "headrace_texts_cached", "Texts whose vector was already known. If it stays near zero on edits, check the chunking."
)
TEXTS_CUT = Counter(
    "headrace_texts_cut",
    "Texts that exceeded the model's input limit and were cut; vector search cannot find the part after the limit. If "
    "it rises, reduce the chunk size or use a model with a higher limit.",
)
TEXTS_SPLIT = Counter(
    "headrace_texts_split",
    "Texts that exceeded the model's input limit and were embedded in parts. If it rises, reduce the chunk size or use "
    "a model with a higher limit.",
)
TEXTS_SKIPPED = Counter(
    "headrace_texts_skipped",
    "Texts that get no vector by design, counted each time: empty ones, and over-long ones with "
    "HEADRACE_EMBEDDER_OVER_LONG=skip. They are found by lexical search only; the metadata embedder.skipped of the "
    "document lists them.",
)
DOCUMENTS_UNREAD = Counter(
    "headrace_documents_unread",
    "Documents in a language that the model does not know; the metadata embedder.unread_language of the document names "
    "it. Lexical search finds them, vector search does not. Use a multilingual model, such as multilingual-e5-small.",
)
CACHE_EVICTED = Counter(
    "headrace_cache_evicted",
    "Vectors evicted because their tenant's cache was above its limit. If the number of embedded texts rises at the "
    "same time, raise HEADRACE_EMBEDDER_CACHE_ROWS.",
)
TOKENS = Counter(
    "headrace_texts_tokens",
    "Tokens that the provider processed, as far as it counts them. A paid provider charges for them.",
)
RECORDS_DEFERRED = Counter(
    "headrace_records_deferred",
    "Records deferred because their tenant had used its share of the provider's rate limit, counted each time. If it "
    "keeps rising, raise the limit or spread the tenant's load over time.",
)
CAPPED = Gauge(
    "headrace_spending_capped",
    "Scope `all`: 1 while the stage waits because the cap on all tenants is reached. Scope `tenant`: number of tenants "
    "in the last batch whose cap is reached and whose records are held. `headrace embeddings status` lists them; raise "
    "the cap, or wait for the next period.",
    ["scope"],
)
EMBEDDING_ERRORS = Counter(
    "embedding_errors",
    "Texts that could not be embedded, counted each time. If it rises, run `headrace dlq list --stage embedder` for "
    "the reasons.",
)
PROGRESS = Gauge(
    "embedding_progress_percent",
    "Share of the log that all embedders of this generation together have processed; each embedder reports the same "
    "value. If it is below 100 and does not rise, run `headrace embeddings status` for the cause.",
)
TOTAL_ITEMS = Gauge(
    "embedding_total_items",
    "Records in the log that the embedder has to process, including retried and replayed records.",
)
PENDING_ITEMS = Gauge(
    "embedding_pending_items",
    "Records of embedding_total_items that are pending. If it keeps growing, add embedders or check the provider.",
)
