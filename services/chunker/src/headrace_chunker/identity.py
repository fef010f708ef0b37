"""Identities of texts and chunks: what an edit leaves alone keeps its identity."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

from headrace.embeddings.preparation import text_hash

ID_BYTES = 16


def chunk_ids(tenant: str, document_id: str, parts: Sequence[tuple[tuple[str, ...], str]]) -> tuple[bytes, ...]:
    """Return a 16-byte identity for each part, given as section path and text.

    It derives from tenant, document, section and text hash, and the number of equal parts before, never from the
    ordinal: a part that is inserted elsewhere changes no other identity.
    """
    seen: Counter[tuple[tuple[str, ...], str]] = Counter()
    identities = []
    for section, text in parts:
        occurrence = seen[section, text]
        seen[section, text] += 1
        hasher = hashlib.blake2b(digest_size=ID_BYTES, person=b"headrace.chunk")
        fields = (tenant, document_id, str(len(section)), *section, str(occurrence))
        for data in (*(field.encode() for field in fields), text_hash(text)):
            hasher.update(len(data).to_bytes(4, "big"))
            hasher.update(data)
        identities.append(hasher.digest())
    return tuple(identities)
