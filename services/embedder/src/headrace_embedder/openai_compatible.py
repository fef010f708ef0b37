"""The provider for any server with OpenAI's ``/embeddings``.

It does not retry: the runtime makes the stage wait and processes the batch again.
"""

from __future__ import annotations

import asyncio
import base64
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import httpx
import numpy as np

from headrace.codec.retry_after import retry_after
from headrace.embeddings.costs import split_exactly
from headrace.embeddings.preparation import OverLong
from headrace.errors import ConfigurationError, DependencyDown, HeadraceError, InvalidRecord
from headrace_embedder.batching import narrowed, request_slices
from headrace_embedder.fairness import FairShare
from headrace_embedder.limits import MinuteLimits, estimated_tokens
from headrace_embedder.loaded import TokenCounter
from headrace_embedder.provider import EmbedResult, Provider, check_vectors
from headrace_embedder.settings import EmbedderSettings
from headrace_embedder.types import Kind

_NAME = "embedding provider"
_PASSING = frozenset({408, 409, 425, 429})
_MISCONFIGURED = frozenset({401, 403, 404, 405})
_PROBE = "Water flows."
"""A text that every working model accepts: a server that rejects it is out of order."""
_MOST_REFUSED = 1000
"""Maximum number of rejected requests to remember; a forgotten one is sent once more."""


class OpenAICompatibleProvider(Provider):
    """Sends texts in requests of limited size, and checks the responses."""

    name: ClassVar[str] = "openai-compatible"
    local: ClassVar[bool] = False

    def __init__(self, settings: EmbedderSettings, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.model = settings.served_model
        self.dimensions = settings.dimensions
        self.counter = remote_counter(settings)
        self._cuts = {Kind.QUERY: True, Kind.PASSAGE: settings.over_long is OverLong.CUT}
        self._body: dict[str, Any] = {"model": settings.model, "encoding_format": settings.encoding_format}
        if settings.send_dimensions:
            self._body["dimensions"] = settings.dimensions
        self._most_tokens = settings.request_tokens
        self._most_texts = settings.request_texts
        self._most_characters = settings.request_characters
        self.prompts = {Kind.QUERY: settings.query_prompt, Kind.PASSAGE: settings.passage_prompt}
        self._refused: OrderedDict[int, None] = OrderedDict()
        headers = {"Authorization": f"Bearer {settings.api_key.get_secret_value()}"} if settings.api_key else {}
        self._limits = MinuteLimits(
            requests=settings.requests_per_minute, tokens=settings.tokens_per_minute,
            request_texts=settings.request_texts,
        )  # fmt: skip
        if settings.requests_per_minute or settings.tokens_per_minute:
            self.fair = FairShare(
                self._limits, window_s=settings.fair_window_s, passes=settings.fair_passes,
                tenants=settings.fair_tenants,
            )  # fmt: skip
        self._http = httpx.AsyncClient(
            base_url=(settings.base_url or "").rstrip("/"), headers=headers, timeout=settings.timeout_s,
            transport=transport,
        )  # fmt: skip

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def embed(self, texts: Sequence[str], kind: Kind, lengths: Sequence[int] | None = None) -> EmbedResult:
        """Return the vectors of all texts, request by request.

        Raises :class:`DependencyDown` if the server does not answer, returns 5xx or 429 (with the delay of
        Retry-After), rejects the API key, or returns anything but JSON of the right form. If the server rejects a
        request or returns a different number of vectors, the request is halved until the text at fault is alone. That
        text gets an :class:`InvalidRecord`, unless the server rejects a harmless text too: then the server is at fault.
        """
        result = await self.attempt(texts, kind, lengths)
        if result.failure is not None:
            raise result.failure
        return result

    async def attempt(self, texts: Sequence[str], kind: Kind, lengths: Sequence[int] | None = None) -> EmbedResult:
        """Do the same as :meth:`embed`, but keep the vectors that were returned before a failure."""
        full, weights, over = await self._fitted(texts, kind, lengths)
        sent = list(range(len(full))) if self._cuts[kind] else [at for at in range(len(full)) if at not in over]
        slices = request_slices([len(full[at]) for at in sent], self._most_texts, self._most_characters)
        if self._most_tokens is not None:
            slices = narrowed(slices, [weights[at] for at in sent], self._most_tokens)
        result = await self._in_turn([[full[at] for at in sent[part]] for part in slices])
        if sent and len(result.errors) == len(sent):
            await self._probe()
        vectors = np.zeros((len(full), self.dimensions), np.float32)
        vectors[sent] = result.vectors
        errors = {sent[row]: error for row, error in result.errors.items()}
        text_tokens = [0] * len(full)
        for at, tokens in zip(sent, result.text_tokens, strict=True):
            text_tokens[at] = tokens
        unanswered = frozenset(sent[row] for row in result.unanswered)
        return EmbedResult(
            vectors, errors, result.tokens, tuple(sorted(over)), text_tokens=text_tokens, calls=result.calls,
            failure=result.failure, unanswered=unanswered,
        )  # fmt: skip

    async def _in_turn(self, requests: Sequence[list[str]]) -> EmbedResult:
        """Return the results of the requests; after a failed request, do not send the remaining ones."""
        results: list[EmbedResult] = []
        failure: DependencyDown | None = None
        for texts in requests:
            results.append(await self._request(texts) if failure is None else self._unanswered(texts, failure))
            failure = results[-1].failure
        return _joined(results, self.dimensions)

    def _unanswered(self, texts: Sequence[str], failure: DependencyDown) -> EmbedResult:
        nothing = np.zeros((len(texts), self.dimensions), np.float32)
        none = frozenset(range(len(texts)))
        return EmbedResult(nothing, text_tokens=[0] * len(texts), failure=failure, unanswered=none)

    async def _fitted(
        self, texts: Sequence[str], kind: Kind, lengths: Sequence[int] | None
    ) -> tuple[list[str], Sequence[float], frozenset[int]]:
        """Return the texts with their prompt (cut if configured), their tokens, and the positions of over-long texts.

        An over-long text that is not cut is not sent: the caller embeds its parts or skips it.
        """
        full, counter = self.prompted(texts, kind), self.counter
        if counter is None:
            return full, [estimated_tokens([text]) for text in full], frozenset()
        read, over = counter.read(await self.lengths(texts, kind) if lengths is None else lengths)
        if self._cuts[kind]:
            for position in over:
                full[position] = await asyncio.to_thread(counter.cut, full[position])
        return full, read, frozenset(over)

    async def _probe(self) -> None:
        """Raise :class:`DependencyDown` if the server cannot embed a harmless text either."""
        probe = await self._request([_PROBE])
        if probe.failure is not None:
            raise probe.failure
        if probe.errors:
            raise DependencyDown(
                _NAME, f"the server fails for every text: {probe.errors[0].message}",
                remedy="Check HEADRACE_EMBEDDER_MODEL, HEADRACE_EMBEDDER_DIMENSIONS and the server. No record is lost "
                "while the stage waits.",
            )  # fmt: skip

    async def _request(self, texts: list[str]) -> EmbedResult:
        if len(texts) > 1 and hash(tuple(texts)) in self._refused:
            return await self._halves(texts, InvalidRecord("text", "was in a request that the provider rejected"))
        try:
            return await self._answered(texts)
        except DependencyDown as failure:
            return self._unanswered(texts, failure)

    async def _answered(self, texts: list[str]) -> EmbedResult:
        answer = await self._post(texts)
        if answer.is_client_error:
            reason = f"the provider rejected the text: HTTP {answer.status_code} {answer.text[:200]}"
            return await self._halves(texts, InvalidRecord("text", reason))
        try:
            body = answer.json()
            vectors = [_decoded(item["embedding"]) for item in sorted(body["data"], key=lambda item: item["index"])]
            indexes = sorted(item["index"] for item in body["data"])
            tokens = int((body.get("usage") or {}).get("prompt_tokens") or math.ceil(estimated_tokens(texts)))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            raise DependencyDown(
                _NAME, f"the server's response is not a list of embeddings: {type(error).__name__}: {error}",
                remedy="Check HEADRACE_EMBEDDER_BASE_URL: it must be an OpenAI-compatible server, including /v1.",
            ) from error  # fmt: skip
        if indexes != list(range(len(texts))):
            reason = f"the provider returned {len(vectors)} vectors for {len(texts)} texts"
            return await self._halves(texts, InvalidRecord("vector", reason), tokens)
        checked = check_vectors(vectors, len(texts), self.dimensions)
        return EmbedResult(checked.vectors, checked.errors, tokens, text_tokens=_shares(tokens, texts), calls=1)

    async def _post(self, texts: list[str]) -> httpx.Response:
        """Return a response that concerns the texts; raise :class:`DependencyDown` for all others."""
        await self._limits.wait(texts)
        try:
            answer = await self._http.post("/embeddings", json={**self._body, "input": texts})
        except httpx.HTTPError as error:
            raise DependencyDown(_NAME, f"{type(error).__name__}: {error}") from error
        status = answer.status_code
        if status in _PASSING or answer.is_server_error:
            raise DependencyDown(_NAME, f"HTTP {status}", delay=retry_after(answer.headers.get("retry-after")))
        if status in _MISCONFIGURED:
            raise DependencyDown(
                _NAME, f"HTTP {status}",
                remedy="Check HEADRACE_EMBEDDER_BASE_URL, HEADRACE_EMBEDDER_MODEL and HEADRACE_EMBEDDER_API_KEY. No "
                "record is lost while the stage waits.",
            )  # fmt: skip
        return answer

    async def _halves(self, texts: list[str], error: HeadraceError, tokens: int = 0) -> EmbedResult:
        """Find the text at fault by halving the request; the others get their vectors.

        ``tokens`` were charged without a result. Rejected requests are remembered: otherwise, with a low rate limit,
        each attempt would start from the beginning and end before the first result.
        """
        if len(texts) == 1:
            nothing = np.zeros((1, self.dimensions), np.float32)
            return EmbedResult(nothing, {0: error}, tokens, text_tokens=(tokens,), calls=1)
        self._refused[hash(tuple(texts))] = None
        if len(self._refused) > _MOST_REFUSED:
            self._refused.popitem(last=False)
        middle = len(texts) // 2
        found = await self._in_turn([texts[:middle], texts[middle:]])
        charged = [own + more for own, more in zip(found.text_tokens, _shares(tokens, texts), strict=True)]
        return replace(found, tokens=found.tokens + tokens, text_tokens=charged, calls=found.calls + 1)


def remote_counter(settings: EmbedderSettings) -> TokenCounter | None:
    """Return a counter that counts tokens as the server's model does, or None if no tokenizer is set.

    Raises :class:`ConfigurationError` for a token limit without a tokenizer, and for an unreadable tokenizer.
    """
    if settings.tokenizer is None:
        if settings.max_tokens is None:
            return None
        raise ConfigurationError(
            "HEADRACE_EMBEDDER_MAX_TOKENS requires the model's tokenizer", where="HEADRACE_EMBEDDER_TOKENIZER",
            remedy="Set it to the model's tokenizer.json or to the folder that contains it.",
        )  # fmt: skip
    file = settings.tokenizer / "tokenizer.json" if settings.tokenizer.is_dir() else settings.tokenizer
    try:
        return TokenCounter.of(file.read_text(encoding="utf-8"), settings.max_tokens)
    except Exception as error:  # tokenizers raises plain Exception
        raise ConfigurationError(
            f"cannot read the tokenizer {file}: {error}", where="HEADRACE_EMBEDDER_TOKENIZER",
            remedy="Set it to the model's tokenizer.json or to the folder that contains it.",
        ) from error  # fmt: skip


def _joined(results: Sequence[EmbedResult], dimensions: int) -> EmbedResult:
    errors: dict[int, HeadraceError] = {}
    unanswered: set[int] = set()
    start = 0
    for result in results:
        errors |= {start + index: error for index, error in result.errors.items()}
        unanswered.update(start + index for index in result.unanswered)
        start += len(result.vectors)
    vectors = np.concatenate([np.zeros((0, dimensions), np.float32), *(result.vectors for result in results)])
    return EmbedResult(
        vectors, errors, sum(result.tokens for result in results),
        text_tokens=[count for result in results for count in result.text_tokens],
        calls=sum(result.calls for result in results),
        failure=next((result.failure for result in results if result.failure is not None), None),
        unanswered=frozenset(unanswered),
    )  # fmt: skip


def _shares(tokens: int, texts: Sequence[str]) -> list[int]:
    """Split a request's tokens between its texts by length; the sum is exact."""
    return split_exactly(tokens, [len(text) for text in texts])


def _decoded(embedding: Any) -> Any:
    """Return the numbers of a vector, or None for invalid base64, which :func:`check_vectors` rejects."""
    if not isinstance(embedding, str):
        return embedding
    try:
        return np.frombuffer(base64.b64decode(embedding, validate=True), "<f4")
    except ValueError:
        return None
