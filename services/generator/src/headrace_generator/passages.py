"""Passages for a question: its vector from the embedder, then a search in the tenant's index."""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import openai

from headrace.errors import DependencyDown
from headrace.records import GenerationRequest
from headrace.store.errors import postgresql_errors
from headrace.store.generations import active_generation
from headrace.store.records import BYTES_PER_FLOAT, Generation
from headrace.store.search import Hit, search
from headrace_generator.openai_errors import translated
from headrace_generator.settings import GeneratorSettings

if TYPE_CHECKING:
    from headrace.store.pool import Pool

FindPassages = Callable[[str, GenerationRequest], Awaitable[list[Hit]]]
"""Returns the passages of this tenant for the request, the best first."""

_GENERATION_S = 5.0


class QuestionEmbedder:
    """Asks the embedder's OpenAI-compatible endpoint for the vectors of questions."""

    def __init__(self, settings: GeneratorSettings, http: openai.DefaultAsyncHttpxClient | None = None) -> None:
        token = settings.embedder_token
        self._client = openai.AsyncOpenAI(
            base_url=f"{settings.embedder_url.rstrip('/')}/v1",
            api_key=token.get_secret_value() if token else "none",
            timeout=settings.embedder_timeout_s,
            max_retries=0,
            http_client=http or openai.DefaultAsyncHttpxClient(trust_env=False),
        )
        self._model = settings.embedder_model

    async def embed(self, text: str) -> bytes:
        """Return the vector, float32 little endian.

        Raises :class:`DependencyDown`, and :class:`headrace.errors.PermanentError` for a question that is refused.
        """
        with translated("embedder", "HEADRACE_GENERATOR_EMBEDDER_…"):
            answer = await self._client.embeddings.create(
                input=[text],
                model=self._model or "",
                encoding_format="float",
                extra_body={"kind": "query", "model": self._model},  # null: whichever model it runs
            )
        try:
            values = answer.data[0].embedding
            if not all(map(math.isfinite, values)):
                raise ValueError("a number in it is not finite")
            return struct.pack(f"<{len(values)}f", *values)
        except (LookupError, AttributeError, TypeError, ValueError, OverflowError, struct.error) as error:
            raise DependencyDown("embedder", f"the embedder's answer holds no vector: {error!r}") from error

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


class Retriever:
    """Finds passages in the active generation of the index."""

    def __init__(self, pool: Pool, embedder: QuestionEmbedder) -> None:
        self._pool = pool
        self._embedder = embedder
        self._generation: tuple[float, Generation] | None = None

    async def find(self, tenant: str, request: GenerationRequest) -> list[Hit]:
        """Return the tenant's passages by meaning and words, the best first; raises :class:`DependencyDown`."""
        generation = await self._active()
        vector = await self._embedder.embed(request.question)
        if len(vector) != generation.dimensions * BYTES_PER_FLOAT:
            raise DependencyDown(
                "embedder",
                f"it gives {len(vector) // BYTES_PER_FLOAT} dimensions; generation {generation.name!r} has "
                f"{generation.dimensions}",
                remedy="Start the embedder with the model of the generation that is searched.",
            )
        return await search(
            self._pool,
            tenant,
            generation,
            vector,
            top_k=request.top_k,
            document_ids=list(request.document_ids) or None,
            attributes=request.attributes or None,
            query_text=request.question,
        )

    async def _active(self) -> Generation:
        if self._generation is None or time.monotonic() - self._generation[0] > _GENERATION_S:
            with postgresql_errors():
                async with self._pool.acquire() as connection:
                    found = await active_generation(connection)
            if found is None:
                raise DependencyDown(
                    "index", "no generation of the index is active", remedy="Run `headrace bootstrap`."
                )
            self._generation = (time.monotonic(), found)
        return self._generation[1]
