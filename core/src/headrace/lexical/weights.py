"""Lexical vectors: BM25, divided into the side of the passage and the side of the query.

BM25 (Robertson and Zaragoza, The Probabilistic Relevance Framework, 2009) is a sum over the terms that a query and a
passage share of ``idf(term) * tf * (k1 + 1) / (tf + k1 * (1 - b + b * length / average length))``. The second factor
depends on the passage alone and is stored with it; the first depends on all passages of the tenant and is the weight of
the term in the query. Their inner product is the score. A learned sparse model fills in the same two vectors.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

from headrace.lexical.analyzer import Analyzer

DIMENSIONS = 1_000_000_000
"""Terms are hashed to so many numbers, the most that pgvector's ``sparsevec`` allows."""
K1 = 1.2
B = 0.75
"""The parameters of BM25, as Lucene and Elasticsearch have them."""
AVERAGE_LENGTH = 150.0
"""Terms of a passage. A constant, because stored weights must not depend on later passages; the chunker keeps passages
close to one length, so the average hardly moves."""
MAX_TERMS = 16_000
"""Different terms of a passage, the most that pgvector stores in a ``sparsevec``."""
MAX_QUERY_TERMS = 1_024
"""Different terms of a query that are looked up; the store uses the rarest of them."""


def passage(analyzer: Analyzer, tenant: str, texts: Iterable[str]) -> dict[int, float]:
    """Return the weights of a passage that consists of these texts: title, section path and body.

    Single characters of scripts without spaces are terms too, but do not count for the length.
    """
    counts: Counter[str] = Counter()
    singles: Counter[str] = Counter()
    for text in texts:
        counts.update(analyzer.terms(text))
        singles.update(analyzer.singles(text))
    norm = K1 * (1 - B + B * counts.total() / AVERAGE_LENGTH)
    counts.update(singles)
    return {
        term_number(tenant, term): count * (K1 + 1) / (count + norm)
        for term, count in counts.most_common(MAX_TERMS)
    }  # fmt: skip


def query(analyzer: Analyzer, tenant: str, text: str) -> dict[int, str]:
    """Return the different terms of a query by number, in the order of the text; at most :data:`MAX_QUERY_TERMS`."""
    found: dict[int, str] = {}
    for term in analyzer.terms(text):
        if len(found) == MAX_QUERY_TERMS:
            break
        found.setdefault(term_number(tenant, term), term)
    return found


def sequence(analyzer: Analyzer, text: str) -> tuple[str, ...]:
    """Return the terms of a query in the order of the text, up to the last one that :func:`query` returns."""
    found: list[str] = []
    different: set[str] = set()
    for term in analyzer.terms(text):
        if term not in different and len(different) == MAX_QUERY_TERMS:
            break
        different.add(term)
        found.append(term)
    return tuple(found)


@lru_cache(maxsize=1 << 17)
def term_number(tenant: str, term: str) -> int:
    """Return the term's number among the tenant's: tenants share no terms, so an index of terms divides by tenant."""
    digest = hashlib.blake2b(f"{tenant}\0{term}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") % DIMENSIONS
