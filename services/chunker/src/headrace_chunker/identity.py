"""Identities of chunks: a chunk that an edit does not touch keeps its identity."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

ID_BYTES = 16


def chunk_ids(tenant: str, document_id: str, parts: Sequence[tuple[tuple[str, ...], bytes]]) -> tuple[bytes, ...]:
    """Return a 16-byte identity for each part, given as section path and text hash.

    The identity derives from tenant, document, section, text hash and the number of equal parts before it. It does not
    depend on the ordinal, so inserting a part elsewhere changes no other identity.
    """
    seen: Counter[tuple[tuple[str, ...], bytes]] = Counter()
    identities = []
    for section, hashed in parts:
        occurrence = seen[section, hashed]
        seen[section, hashed] += 1
        hasher = hashlib.blake2b(digest_size=ID_BYTES, person=b"headrace.chunk")
        fields = (tenant, document_id, str(len(section)), *section, str(occurrence))
        for data in (*(field.encode() for field in fields), hashed):
            hasher.update(len(data).to_bytes(4, "big"))
            hasher.update(data)
        identities.append(hasher.digest())
    return tuple(identities)
