"""How much a provider takes in a minute, and the wait for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from aiolimiter import AsyncLimiter

MINUTE_S = 60.0
_CHARACTERS_A_TOKEN = 3
"""Careful: English has about four, Korean about two."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What texts take of the limits; a text among many is a fraction of a request."""

    requests: float = 0.0
    tokens: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        """Return both together."""
        return Cost(self.requests + other.requests, self.tokens + other.tokens)


class Limits(Protocol):
    """What the decision who goes first asks of the limits."""

    def cost(self, texts: Sequence[str], together: int) -> Cost:
        """Return what the texts will take where ``together`` texts share requests."""

    def seconds(self, cost: Cost) -> float:
        """Return how long the limits take to grant so much."""

    def fits(self, cost: Cost) -> bool:
        """Whether so much is free at once, and nobody waits for it."""


class MinuteLimits:
    """Requests and tokens a minute, as token buckets that hold one minute; None is no limit."""

    def __init__(self, *, requests: int | None, tokens: int | None, request_texts: int) -> None:
        self._requests = AsyncLimiter(requests) if requests else None
        self._tokens = AsyncLimiter(tokens) if tokens else None
        self._request_texts = request_texts
        self._waiting = 0

    def cost(self, texts: Sequence[str], together: int) -> Cost:
        """Return an estimate of what the texts will take where ``together`` texts share requests."""
        return Cost(len(texts) / max(1, min(self._request_texts, together)), estimated_tokens(texts))

    def seconds(self, cost: Cost) -> float:
        """Return how long the limits take to grant so much."""
        requests = cost.requests / self._requests.max_rate if self._requests else 0.0
        tokens = cost.tokens / self._tokens.max_rate if self._tokens else 0.0
        return MINUTE_S * max(requests, tokens)

    def fits(self, cost: Cost) -> bool:
        """Whether so much is free at once, and nobody waits for it. Asked on the event loop alone."""
        if self._waiting:
            return False
        requests = self._requests is None or self._requests.has_capacity(cost.requests)
        return requests and (self._tokens is None or self._tokens.has_capacity(cost.tokens))

    async def wait(self, texts: Sequence[str]) -> None:
        """Wait for room for one request; one above a whole minute's tokens waits for a whole minute's."""
        self._waiting += 1
        try:
            if self._requests is not None:
                await self._requests.acquire()
            if self._tokens is not None:
                await self._tokens.acquire(min(estimated_tokens(texts), self._tokens.max_rate))
        finally:
            self._waiting -= 1


def estimated_tokens(texts: Sequence[str]) -> float:
    """Return about how many tokens the texts have."""
    return sum(len(text) for text in texts) / _CHARACTERS_A_TOKEN
