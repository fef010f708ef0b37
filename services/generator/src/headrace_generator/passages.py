"""Passages for a question: its vector from the embedder, then a search in the tenant's index."""

from __future__ import annotations

import math
import struct
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import openai

from headrace.errors import DependencyDown
from headrace.payloads import GenerationRequest
from headrace.store.generations import ActiveGeneration, check_query
from headrace.store.rows import Generation
from headrace.store.search import Hit, search
from headrace_generator.openai_errors import translated
from headrace_generator.settings import GeneratorSettings

if TYPE_CHECKING:
    from headrace.store.pool import Pool

FindPassages = Callable[[str, GenerationRequest], Awaitable[list[Hit]]]
"""Returns the passages of this tenant for the request, the best first."""


class QuestionEmbedder:
    """Asks the embedder's OpenAI-compatible endpoint for the vectors of questions."""

    def __init__(self, settings: GeneratorSettings, http: openai.DefaultAsyncHttpxClient | None = None) -> None:
        token = settings.embedder_token
        self._url = settings.embedder_url.rstrip("/")
        self._client = openai.AsyncOpenAI(
            base_url="http://embedder",  # the generation's own comes with each request
            api_key=token.get_secret_value() if token else "none",
            timeout=settings.embedder_timeout_s,
            max_retries=0,
            http_client=http or openai.DefaultAsyncHttpxClient(trust_env=False),
        )

    async def embed(self, text: str, generation: Generation) -> bytes:
        """Return the vector by the generation's model, float32 little endian.

        Raises :class:`DependencyDown`, and :class:`headrace.errors.PermanentError` for a question that is refused.
        """
        with translated("embedder", "HEADRACE_GENERATOR_EMBEDDER_…"):
            client = self._client.with_options(base_url=f"{self._url.replace('{generation}', generation.name)}/v1")
            answer = await client.embeddings.create(
                input=[text], model=generation.model, encoding_format="float", extra_body={"kind": "query"}
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
        self._active = ActiveGeneration(self._connected)

    async def find(self, tenant: str, request: GenerationRequest) -> list[Hit]:
        """Return the tenant's passages by meaning and words, the best first; raises :class:`DependencyDown`."""
        generation = await self._active()
        vector = await self._embedder.embed(request.question, generation)
        check_query(vector, generation)
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

    async def _connected(self) -> Pool:
        return self._pool
