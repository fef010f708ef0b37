"""Ranks the best hits again by a model that reads question and passage together, within a bounded time.

The model runs on a server with ``POST {url}/rerank`` as Cohere, Jina, vLLM, Infinity and the embedder
(``HEADRACE_EMBEDDER_RERANKER``) have it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import httpx
import structlog
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from headrace.errors import describe
from headrace.store.search import MAXIMUM_HITS, Hit

log = structlog.get_logger(__name__)

_TOO_LATE = "the reranker did not rank all of them in time"
_FAILED = "the reranker failed"


class RerankSettings(BaseSettings):
    """Which server ranks the best hits again; for the gateway and the generator alike."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_RERANK_", frozen=True)

    url: str | None = Field(
        None,
        description="Base URL of a server with /rerank, including /v1, e.g. that of the embedder with "
        "HEADRACE_EMBEDDER_RERANKER. Unset, nothing is ranked again.",
    )
    api_key: SecretStr | None = Field(None, description="Bearer token for that server, if it requires one.")
    model: str | None = Field(None, description="Name of the model on that server, if it has several.")
    timeout_s: float = Field(
        1.0, gt=0, le=30,
        description="Maximum time to rank the hits of one search, in seconds. Hits that are not ranked in time keep "
        "their places.",
    )  # fmt: skip
    answers: bool = Field(False, description="Whether the passages of an answer are ranked again, too.")
    hits: int = Field(20, ge=2, le=MAXIMUM_HITS, description="How many of the best hits are ranked again.")
    slice_hits: int = Field(
        5, ge=1, le=MAXIMUM_HITS,
        description="How many hits one request to that server has. Smaller ones waste less when time runs out.",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reranked:
    """The hits in their new order, how many of them were ranked, and why not all that should have been."""

    hits: Sequence[Hit]
    ranked: int
    wanted: int
    missing: str = ""


class Reranker:
    """A client of the server that the settings name."""

    def __init__(self, settings: RerankSettings, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._settings = settings
        key = settings.api_key
        self._http = httpx.AsyncClient(
            timeout=settings.timeout_s,
            headers={"Authorization": f"Bearer {key.get_secret_value()}"} if key else {},
            transport=transport,
            trust_env=False,
        )

    @property
    def enabled(self) -> bool:
        """Whether a server is named."""
        return self._settings.url is not None

    @property
    def for_answers(self) -> bool:
        """Whether the passages of an answer are to be ranked again."""
        return self.enabled and self._settings.answers

    def depth(self, top_k: int) -> int:
        """Return how many hits to search for, so that the best of them can be ranked again."""
        return max(top_k, self._settings.hits) if self.enabled else top_k

    async def rerank(self, query: str, hits: Sequence[Hit]) -> Reranked:
        """Return the hits with the best ones ranked again; never raises for a server that fails or is slow.

        The hits that were ranked share out their own places among themselves; the others keep theirs. The best hits are
        ranked first.
        """
        wanted = hits[: self._settings.hits]
        scores: dict[int, float] = {}
        missing = ""
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                for start in range(0, len(wanted), self._settings.slice_hits):
                    part = wanted[start : start + self._settings.slice_hits]
                    found = await self._scores(query, [_passage(hit) for hit in part])
                    scores |= {start + place: score for place, score in found.items()}
        except (TimeoutError, httpx.TimeoutException):
            missing = _TOO_LATE
        except (httpx.HTTPError, ValueError, LookupError, TypeError, RecursionError) as error:
            log.warning("reranking failed", error=describe(error))
            missing = _FAILED
        return Reranked(in_new_order(hits, scores), len(scores), len(wanted), missing)

    async def _scores(self, query: str, passages: Sequence[str]) -> dict[int, float]:
        """Return the score of each passage by its place; raises ValueError and the like for a malformed answer."""
        body = {"query": query, "documents": list(passages), "top_n": len(passages)}
        if self._settings.model is not None:
            body["model"] = self._settings.model
        answer = await self._http.post(f"{(self._settings.url or '').rstrip('/')}/rerank", json=body)
        answer.raise_for_status()
        scores = {int(one["index"]): float(one["relevance_score"]) for one in answer.json()["results"]}
        if not all(0 <= place < len(passages) and math.isfinite(score) for place, score in scores.items()):
            raise ValueError(f"results outside of the {len(passages)} documents, or scores that are no numbers")
        return scores

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


def in_new_order(hits: Sequence[Hit], scores: Mapping[int, float]) -> list[Hit]:
    """Return the hits with those that have a score in its order, at the places that they had together; pure."""
    places = sorted(scores)
    ordered = sorted(scores, key=lambda place: (-scores[place], place))
    found = list(hits)
    for place, source in zip(places, ordered, strict=True):
        found[place] = replace(hits[source], relevance=scores[source])
    return found


def _passage(hit: Hit) -> str:
    """Return what the model reads: title, section path and text."""
    heading = " > ".join((hit.title, *hit.section) if hit.title else hit.section)
    return f"{heading}\n{hit.text}" if heading else hit.text
