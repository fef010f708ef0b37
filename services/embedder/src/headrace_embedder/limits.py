"""A provider's rate limits, and waiting for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from aiolimiter import AsyncLimiter

MINUTE_S = 60.0
_CHARACTERS_A_TOKEN = 3
"""A cautious estimate: English has about four characters per token, Korean about two."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What texts use of the rate limits; one text of a shared request counts as a fraction of the request."""

    requests: float = 0.0
    tokens: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        """Return the sum of both costs."""
        return Cost(self.requests + other.requests, self.tokens + other.tokens)


class Limits(Protocol):
    """What :class:`headrace_embedder.fairness.FairShare` needs to know of the rate limits."""

    def cost(self, texts: Sequence[str], together: int) -> Cost:
        """Return the cost of the texts if ``together`` texts share requests."""

    def seconds(self, cost: Cost) -> float:
        """Return how many seconds the limits take to grant the cost."""

    def fits(self, cost: Cost) -> bool:
        """Whether the limits can grant the cost immediately, and no request is waiting."""


class MinuteLimits:
    """Requests and tokens per minute, as token buckets that hold one minute; None means no limit."""

    def __init__(self, *, requests: int | None, tokens: int | None, request_texts: int) -> None:
        self._requests = AsyncLimiter(requests) if requests else None
        self._tokens = AsyncLimiter(tokens) if tokens else None
        self._request_texts = request_texts
        self._waiting = 0

    def cost(self, texts: Sequence[str], together: int) -> Cost:
        """Return the estimated cost of the texts if ``together`` texts share requests."""
        return Cost(len(texts) / max(1, min(self._request_texts, together)), estimated_tokens(texts))

    def seconds(self, cost: Cost) -> float:
        """Return how many seconds the limits take to grant the cost."""
        requests = cost.requests / self._requests.max_rate if self._requests else 0.0
        tokens = cost.tokens / self._tokens.max_rate if self._tokens else 0.0
        return MINUTE_S * max(requests, tokens)

    def fits(self, cost: Cost) -> bool:
        """Whether the limits can grant the cost immediately, and no request is waiting. Call on the event loop only."""
        if self._waiting:
            return False
        requests = self._requests is None or self._requests.has_capacity(cost.requests)
        return requests and (self._tokens is None or self._tokens.has_capacity(cost.tokens))

    async def wait(self, texts: Sequence[str]) -> None:
        """Wait until the limits grant one request; one above a minute's tokens waits for a minute's tokens."""
        self._waiting += 1
        try:
            if self._requests is not None:
                await self._requests.acquire()
            if self._tokens is not None:
                await self._tokens.acquire(min(estimated_tokens(texts), self._tokens.max_rate))
        finally:
            self._waiting -= 1


def estimated_tokens(texts: Sequence[str]) -> float:
    """Return an estimate of the number of tokens in the texts."""
    return sum(len(text) for text in texts) / _CHARACTERS_A_TOKEN
