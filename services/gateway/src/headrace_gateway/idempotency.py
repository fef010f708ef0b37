"""Idempotent requests: requests with the same key count as one request and get the same answer."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4, uuid5

from cachetools import TTLCache

from headrace.access.readers import Reader
from headrace_gateway.problems import Problem

_NAMESPACE = UUID("5f1d6c1e-0f0b-5b0e-9c55-6c1f6f1f7a10")
_MAX_KEY_LENGTH = 255


def request_id(tenant: str, reader: Reader, kind: str, key: str | None) -> str:
    """Return the request ID: derived from tenant, reader and key, or random without a key.

    The same key from another reader is another request, so that no reader gets an answer that was made for another.
    """
    if key is None:
        return str(uuid4())
    return str(uuid5(_NAMESPACE, "\x00".join((tenant, kind, key, *reader.names))))


@dataclass(slots=True)
class _Entry:
    digest: bytes
    packed: bytes | None = None
    """The answer as compressed JSON: as objects, the answer to a thousand changes takes half a megabyte."""


class AnswerCache:
    """Recent answers by request ID, limited in number and age. Correctness never depends on them."""

    def __init__(self, entries: int, seconds: float) -> None:
        self._entries: TTLCache[str, _Entry] = TTLCache(entries, seconds)

    async def once(self, identity: str, body: bytes, work: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        """Return the cached answer to this request, or do the work.

        Raises :class:`Problem` 409 while the same request is in progress, and 422 if its body differs.
        Failures are not cached, so a repeat tries again.
        """
        digest = hashlib.sha256(body).digest()
        known = self._entries.get(identity)
        if known is not None:
            return _repeat(known, digest)
        entry = self._entries[identity] = _Entry(digest)
        try:
            answer = await work()
            entry.packed = zlib.compress(json.dumps(answer).encode(), 1)
        finally:
            if entry.packed is None:
                self._entries.pop(identity, None)
        return answer


def checked_key(key: str | None) -> str | None:
    """Return the Idempotency-Key; raises :class:`Problem` 422 if it is empty or too long."""
    if key is not None and not 1 <= len(key) <= _MAX_KEY_LENGTH:
        raise Problem(
            422,
            "idempotency-key",
            f"Idempotency-Key has {len(key)} characters; it must have 1 to {_MAX_KEY_LENGTH}.",
        )
    return key


def _repeat(known: _Entry, digest: bytes) -> dict[str, Any]:
    if known.digest != digest:
        raise Problem(
            422,
            "idempotency-key",
            "This Idempotency-Key was already used for a request with a different body.",
            remedy="Use a new key for a new request.",
        )
    if known.packed is None:
        raise Problem(
            409,
            "in-progress",
            "The same request is in progress.",
            remedy="Send it again after the time in Retry-After to get the answer.",
            headers={"Retry-After": "1"},
        )
    answer: dict[str, Any] = json.loads(zlib.decompress(known.packed))
    return answer
