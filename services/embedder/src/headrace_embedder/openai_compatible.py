"""Any server with OpenAI's ``/embeddings``. No retries here: the runtime pauses the stage and computes again."""

from __future__ import annotations

import base64
import binascii
import email.utils
import time
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np

from headrace.errors import DependencyDown, HeadraceError, PermanentError
from headrace_embedder.provider import EmbedResult, Kind, Provider, check_vectors
from headrace_embedder.settings import EmbedderSettings

_NAME = "embedding provider"


class OpenAICompatibleProvider(Provider):
    """Sends texts in requests of bounded size, and checks what comes back."""

    def __init__(self, settings: EmbedderSettings, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.model = settings.model
        self.dimensions = settings.dimensions
        self._most = settings.request_texts
        self._prompts = {Kind.QUERY: settings.query_prompt, Kind.PASSAGE: settings.passage_prompt}
        headers = {"Authorization": f"Bearer {settings.api_key.get_secret_value()}"} if settings.api_key else {}
        self._http = httpx.AsyncClient(
            base_url=(settings.base_url or "").rstrip("/"), headers=headers, timeout=settings.timeout_s,
            transport=transport,
        )  # fmt: skip

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def embed(self, texts: Sequence[str], kind: Kind) -> EmbedResult:
        """Return the vectors of all texts, request by request."""
        prompt = self._prompts[kind]
        vectors = np.zeros((len(texts), self.dimensions), np.float32)
        errors: dict[int, HeadraceError] = {}
        for start in range(0, len(texts), self._most):
            part = [prompt + text for text in texts[start : start + self._most]]
            result = await self._request(part)
            vectors[start : start + len(part)] = result.vectors
            errors |= {start + index: error for index, error in result.errors.items()}
        return EmbedResult(vectors, errors)

    async def _request(self, texts: list[str]) -> EmbedResult:
        try:
            answer = await self._http.post(
                "/embeddings", json={"model": self.model, "input": texts, "encoding_format": "base64"}
            )
        except httpx.HTTPError as error:
            raise DependencyDown(_NAME, f"{type(error).__name__}: {error}") from error
        if answer.status_code in (408, 409, 425, 429) or answer.status_code >= 500:
            raise DependencyDown(
                _NAME, f"HTTP {answer.status_code}", delay=retry_after(answer.headers.get("retry-after"))
            )
        if answer.status_code in (401, 403, 404):
            raise DependencyDown(
                _NAME, f"HTTP {answer.status_code}",
                remedy="Check HEADRACE_EMBEDDER_BASE_URL, _MODEL and _API_KEY; nothing is lost meanwhile.",
            )  # fmt: skip
        if answer.status_code >= 400:
            return await self._refused(texts, f"the provider refused it: HTTP {answer.status_code} {answer.text[:200]}")
        try:
            return check_vectors(_vectors(answer.json(), len(texts)), len(texts), self.dimensions)
        except (ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
            raise DependencyDown(_NAME, f"the answer makes no sense: {type(error).__name__}: {error}") from error

    async def _refused(self, texts: list[str], reason: str) -> EmbedResult:
        """Find the text at fault by halves; the others get their vectors."""
        if len(texts) == 1:
            error: HeadraceError = PermanentError(reason)
            return EmbedResult(np.zeros((1, self.dimensions), np.float32), {0: error})
        middle = len(texts) // 2
        first, second = await self._request(texts[:middle]), await self._request(texts[middle:])
        errors = {**first.errors, **{middle + index: error for index, error in second.errors.items()}}
        return EmbedResult(np.concatenate([first.vectors, second.vectors]), errors)


def retry_after(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for (seconds or a date), or None."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _vectors(answer: dict[str, Any], texts: int) -> list[Any]:
    """Return the vectors in the order of the texts, whether they came as base64 or as numbers."""
    by_index = {item["index"]: item["embedding"] for item in answer["data"]}
    if sorted(by_index) != list(range(texts)):
        raise InvalidAnswer(f"{len(by_index)} vectors for {texts} texts")
    decoded = [by_index[index] for index in range(texts)]
    return [
        np.frombuffer(base64.b64decode(item, validate=True), "<f4") if isinstance(item, str) else item
        for item in decoded
    ]


class InvalidAnswer(ValueError):
    """The answer does not match the request."""
