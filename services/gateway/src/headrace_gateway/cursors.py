"""Cursors: where the next page of a search begins.

A cursor lists what its pages have shown, as fingerprints, so that no hit appears twice, whatever changed in between and
however deep the index is read. It is bound to its search by digests. It is checked, not signed: the tenant always comes
from the API key and every search asks PostgreSQL again, so a forged cursor can only hide hits from its maker.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Collection, Mapping

from headrace.errors import InvalidRecord
from headrace.store.search import FINGERPRINT_BYTES

MAX_DEPTH = 1000
"""Hits, or documents of a grouped search, that the pages of one search can show."""
_VERSION = b"\x01"
_DIGEST = 8
MAX_CURSOR = 4 * ((len(_VERSION) + _DIGEST * 8 + FINGERPRINT_BYTES * MAX_DEPTH) // 3 + 1)
"""Characters."""


class InvalidCursor(InvalidRecord):
    """The cursor is none of this search."""

    code = "invalid-cursor"

    def __init__(self, reason: str) -> None:
        super().__init__("cursor", reason, remedy="Search without a cursor to begin at the first page.")


def encode(tenant: str, search: Mapping[str, str], seen: Collection[bytes]) -> str:
    """Return the cursor after these fingerprints; ``search`` names the parts of the search that it is bound to."""
    body = b"".join([_VERSION, *_digests(tenant, search), *sorted(seen)])
    return base64.urlsafe_b64encode(body + _digest(tenant, "cursor", body)).rstrip(b"=").decode()


def decode(tenant: str, search: Mapping[str, str], cursor: str) -> frozenset[bytes]:
    """Return the fingerprints of a cursor; raises :class:`InvalidCursor` for one of another search or of no search."""
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidCursor("is not a cursor of this API") from error
    body, check = raw[:-_DIGEST], raw[-_DIGEST:]
    if body[:1] != _VERSION or check != _digest(tenant, "cursor", body):
        raise InvalidCursor("is damaged, or was made for another API key's tenant")
    digests, seen = body[1 : 1 + _DIGEST * len(search)], body[1 + _DIGEST * len(search) :]
    for at, (name, expected) in enumerate(zip(search, _digests(tenant, search), strict=True)):
        if digests[at * _DIGEST : (at + 1) * _DIGEST] != expected:
            raise InvalidCursor(f"was made for another search: {name} differs")
    if len(seen) >= MAX_DEPTH * FINGERPRINT_BYTES:
        raise InvalidCursor(f"is behind {MAX_DEPTH} hits, the most that one search shows")
    return frozenset(seen[at : at + FINGERPRINT_BYTES] for at in range(0, len(seen), FINGERPRINT_BYTES))


def _digests(tenant: str, search: Mapping[str, str]) -> list[bytes]:
    return [_digest(tenant, name, value.encode()) for name, value in search.items()]


def _digest(tenant: str, name: str, value: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=_DIGEST, person=b"headrace.cursor")
    for part in (tenant.encode(), name.encode(), value):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()
