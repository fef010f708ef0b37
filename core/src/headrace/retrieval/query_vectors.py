"""Vectors of queries, from the embedder's internal endpoint, with a small cache."""

from __future__ import annotations

import base64
import math
from array import array
from dataclasses import dataclass
from typing import Any, Protocol

import httpx
from cachetools import TTLCache
from pydantic import SecretStr

from headrace.codec.retry_after import retry_after
from headrace.errors import DependencyDown, InvalidRecord, describe
from headrace.store.rows import Generation

_DEPENDENCY = "embedder"
_REFUSED = (400, 413, 422)
_OURS_TO_REPAIR = (401, 403, 404)
_LONGEST_TEXT = 200


class QueryVectors(Protocol):
    """Turns a query into a vector."""

    async def embed(self, text: str, generation: Generation) -> bytes:
        """Return the vector from the generation's model (float32, little-endian); raises :class:`DependencyDown`."""

    async def ping(self, generation: Generation) -> None:
        """Raise :class:`DependencyDown` if the embedder does not answer."""


@dataclass(frozen=True, slots=True)
class EmbedderAccess:
    """How to reach the embedder of the generation that is searched, unless the generation itself names an address.

    ``{generation}`` in ``url`` is replaced by its name.

    ``settings`` is the prefix of the variables that hold these values; errors contain it. ``cache`` is the maximum
    number of cached vectors (0 for none), and ``cache_s`` their lifetime in seconds.
    """

    url: str
    token: SecretStr | None
    timeout_s: float
    settings: str
    cache: int = 1024
    cache_s: float = 60.0


class EmbedderClient:
    """A client of ``POST {url}/v1/embeddings``, in OpenAI's format with ``kind: query``.

    Each generation has its own embedder, so a question is embedded by the model of the tables that it is compared with,
    also while search is switched. An embedder that runs another model refuses the request. Vectors are cached by
    generation, model and text.
    """

    def __init__(self, access: EmbedderAccess, transport: httpx.AsyncBaseTransport | None = None) -> None:
        token = access.token
        self._http = httpx.AsyncClient(
            timeout=access.timeout_s,
            headers={"Authorization": f"Bearer {token.get_secret_value()}"} if token else {},
            transport=transport,
            trust_env=False,
        )
        self._url = access.url
        self._settings = access.settings
        self._known: TTLCache[tuple[str, str, str], bytes] = TTLCache(access.cache, access.cache_s)

    async def embed(self, text: str, generation: Generation) -> bytes:
        """Return the query's vector (float32, little-endian).

        Raises :class:`DependencyDown`, and :class:`InvalidRecord` for a query that the embedder rejects.
        """
        key = (generation.name, generation.model, text)
        vector = self._known.get(key)
        if vector is None:
            vector = await self._ask(text, generation)
            if self._known.maxsize:
                self._known[key] = vector
        return vector

    async def ping(self, generation: Generation) -> None:
        """Raise :class:`DependencyDown` if the embedder does not answer, or runs another model."""
        answer = await self._call("GET", "/v1/models", generation)
        try:
            models = [one["id"] for one in answer.json()["data"]]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise DependencyDown(_DEPENDENCY, f"the embedder does not report which model it runs: {error!r}") from error
        if generation.model not in models:
            raise DependencyDown(
                _DEPENDENCY, f"the embedder runs {', '.join(map(str, models))}, but generation {generation.name} needs "
                             f"{generation.model}",
                remedy=f"Set {self._settings}URL to that generation's embedder. In the URL, {{generation}} "
                       "stands for the generation's name. Or run `headrace reindex start` with --embedder-url.",
            )  # fmt: skip

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _ask(self, text: str, generation: Generation) -> bytes:
        body = {"model": generation.model, "input": [text], "kind": "query", "encoding_format": "base64"}
        answer = await self._call("POST", "/v1/embeddings", generation, json=body)
        try:
            vector = base64.b64decode(answer.json()["data"][0]["embedding"], validate=True)
            if not vector or not all(map(math.isfinite, array("f", vector))):
                raise ValueError("the vector is empty, or contains a number that is not finite")
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise DependencyDown(
                _DEPENDENCY, f"the embedder's answer does not contain a valid vector: {error!r}"
            ) from error
        return vector

    async def _call(self, method: str, path: str, generation: Generation, **arguments: Any) -> httpx.Response:
        url = (generation.embedder_url or self._url).rstrip("/").replace("{generation}", generation.name)
        try:
            answer = await self._http.request(method, f"{url}{path}", **arguments)
        except httpx.HTTPError as error:
            raise DependencyDown(_DEPENDENCY, f"{method} {path}: {describe(error)}") from error
        if not answer.is_error:
            return answer
        said = f"HTTP {answer.status_code} {answer.text[:_LONGEST_TEXT]}"
        if answer.status_code in _REFUSED:
            raise InvalidRecord(
                "query", f"was rejected by the embedder: {said}", remedy="Shorten the query and use plain words."
            )
        raise DependencyDown(
            _DEPENDENCY,
            f"{method} {path}: {said}",
            delay=retry_after(answer.headers.get("Retry-After")),
            remedy=f"Check {self._settings}URL and {self._settings}TOKEN."
            if answer.status_code in _OURS_TO_REPAIR
            else "",
        )
