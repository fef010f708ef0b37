"""Vectors of queries, from the embedder's internal endpoint, with a small memory."""

from __future__ import annotations

import math
import struct
from typing import Any, Protocol

import httpx
from cachetools import TTLCache

from headrace.codec.retry_after import retry_after
from headrace.errors import DependencyDown, InvalidRecord, describe
from headrace.store.rows import Generation
from headrace_gateway.settings import GatewaySettings

_DEPENDENCY = "embedder"
_REFUSED = (400, 413, 422)


class QueryEmbedder(Protocol):
    """Turns a query into a vector."""

    async def embed(self, text: str, generation: Generation) -> bytes:
        """Return float32, little endian, by the generation's model; raises :class:`DependencyDown`."""

    async def ping(self, generation: Generation) -> None:
        """Raise :class:`DependencyDown` where the embedder does not answer."""


class HttpEmbedder:
    """Asks ``POST {embedder_url}/v1/embeddings`` (OpenAI's form, with ``kind: query``).

    ``{generation}`` in the URL is the generation that is searched; an embedder that runs another model refuses. Vectors
    are remembered by generation and text.
    """

    def __init__(self, settings: GatewaySettings, transport: httpx.AsyncBaseTransport | None = None) -> None:
        token = settings.embedder_token
        self._http = httpx.AsyncClient(
            timeout=settings.embedder_timeout_s,
            headers={"Authorization": f"Bearer {token.get_secret_value()}"} if token else {},
            transport=transport,
            trust_env=False,
        )
        self._url = settings.embedder_url.rstrip("/")
        self._known: TTLCache[tuple[str, str], bytes] = TTLCache(settings.query_cache, settings.query_cache_s)

    async def embed(self, text: str, generation: Generation) -> bytes:
        """Return the query's vector; raises :class:`DependencyDown`, and :class:`InvalidRecord` for a refused query."""
        vector = self._known.get((generation.name, text))
        if vector is None:
            vector = await self._ask(text, generation)
            if self._known.maxsize:
                self._known[generation.name, text] = vector
        return vector

    async def ping(self, generation: Generation) -> None:
        """Raise :class:`DependencyDown` where the embedder does not answer, or runs another model."""
        answer = await self._call("GET", "/v1/models", generation)
        try:
            models = [one["id"] for one in answer.json()["data"]]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise DependencyDown(_DEPENDENCY, f"the embedder does not say which model it runs: {error!r}") from error
        if generation.model not in models:
            raise DependencyDown(
                _DEPENDENCY, f"it runs {', '.join(map(str, models))}; {generation.name} is of {generation.model}",
                remedy="Name that generation's embedder in HEADRACE_GATEWAY_EMBEDDER_URL ({generation} stands for it).",
            )  # fmt: skip

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _ask(self, text: str, generation: Generation) -> bytes:
        body = {"model": generation.model, "input": [text], "kind": "query", "encoding_format": "float"}
        answer = await self._call("POST", "/v1/embeddings", generation, json=body)
        try:
            values = answer.json()["data"][0]["embedding"]
            if not all(map(math.isfinite, values)):
                raise ValueError("a number in it is not finite")
            return struct.pack(f"<{len(values)}f", *values)
        except (ValueError, LookupError, TypeError, OverflowError, RecursionError, struct.error) as error:
            raise DependencyDown(_DEPENDENCY, f"the embedder's answer holds no vector: {error!r}") from error

    async def _call(self, method: str, path: str, generation: Generation, **arguments: Any) -> httpx.Response:
        url = self._url.replace("{generation}", generation.name)
        try:
            answer = await self._http.request(method, f"{url}{path}", **arguments)
        except httpx.HTTPError as error:
            raise DependencyDown(_DEPENDENCY, f"{method} {path}: {describe(error)}") from error
        if answer.status_code in _REFUSED:
            raise InvalidRecord("query", "is refused by the embedder", remedy="Ask a shorter query in plain words.")
        if answer.is_error:
            raise DependencyDown(
                _DEPENDENCY,
                f"{method} {path}: HTTP {answer.status_code} {answer.text[:200]}",
                delay=retry_after(answer.headers.get("Retry-After")),
            )
        return answer
