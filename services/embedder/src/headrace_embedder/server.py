"""The internal endpoint: OpenAI's ``/v1/embeddings`` for queries, so that gateway and generator do not need torch."""

from __future__ import annotations

import asyncio
import base64
import hmac
import math
from collections import OrderedDict
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, BeforeValidator, Field, SecretStr, StringConstraints
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from headrace.errors import DependencyDown
from headrace_embedder.cross_encoder import CrossEncoder
from headrace_embedder.provider import Provider
from headrace_embedder.types import Kind, Vectors

CACHED_QUERIES = 1024
MOST_BYTES = 16 * 1024 * 1024
Text = Annotated[str, StringConstraints(max_length=32_768)]


def _listed(given: Any) -> Any:
    """Return a single text as a list of one."""
    return [given] if isinstance(given, str) else given


class EmbeddingRequest(BaseModel):
    """OpenAI's request with Headrace's extension ``kind``."""

    input: Annotated[list[Text], BeforeValidator(_listed), Field(min_length=1, max_length=256)]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    kind: Kind = Kind.QUERY


class RerankRequest(BaseModel):
    """The request of Cohere, Jina and others: a query, and the passages to score."""

    query: Text = Field(min_length=1)
    documents: list[Text] = Field(min_length=1, max_length=100)
    model: str | None = None
    top_n: int | None = Field(None, ge=1)


class ApiError(Exception):
    """An error in OpenAI's format."""

    def __init__(self, status: int, message: str, kind: str = "invalid_request_error") -> None:
        self.status = status
        self.kind = kind
        super().__init__(message)

    def answer(self, headers: dict[str, str] | None = None) -> JSONResponse:
        """Return the error as a response in OpenAI's format."""
        return JSONResponse({"error": {"message": str(self), "type": self.kind}}, self.status, headers)


class Guard:
    """Rejects requests without a valid token and requests that are too large, before reading their body."""

    def __init__(self, app: ASGIApp, *, token: SecretStr | None) -> None:
        self._app = app
        self._expected = f"Bearer {token.get_secret_value()}".encode() if token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or reject it."""
        if scope["type"] == "http" and scope["path"].startswith("/v1/"):
            refusal = self._refusal(dict(scope["headers"]))
            if refusal is not None:
                await refusal.answer()(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, headers: dict[bytes, bytes]) -> ApiError | None:
        given = headers.get(b"authorization", b"")
        if self._expected is not None and not hmac.compare_digest(given, self._expected):
            return ApiError(401, "missing or wrong bearer token; send the header Authorization: Bearer TOKEN")
        if b"transfer-encoding" in headers:
            return ApiError(411, "chunked transfer encoding is not supported; send Content-Length")
        if int(headers.get(b"content-length", b"0")) > MOST_BYTES:
            return ApiError(413, f"the request body exceeds {MOST_BYTES} bytes")
        return None


class QueryEmbedder:
    """Embeds queries, with a cache of recent texts."""

    def __init__(self, provider: Provider, capacity: int = CACHED_QUERIES) -> None:
        self._provider = provider
        self._capacity = capacity
        self._known: OrderedDict[tuple[Kind, str], Vectors] = OrderedDict()

    async def embed(self, texts: list[str], kind: Kind) -> tuple[list[Vectors], int]:
        """Return a vector for each text, and the number of computed tokens; raises :class:`ApiError` for a bad text."""
        found = {text: self._known[kind, text] for text in texts if (kind, text) in self._known}
        missing = [text for text in dict.fromkeys(texts) if text not in found]
        tokens = 0
        if missing:
            result = await self._provider.embed(missing, kind)
            if result.errors:
                raise ApiError(422, str(next(iter(result.errors.values()))))
            if result.skipped:
                raise ApiError(422, next(iter(result.skipped.values())))
            if not all(result.vectors[position].any() for position in result.cut):
                raise ApiError(422, "a text exceeds the model's input limit; shorten it")
            tokens = result.tokens
            found |= zip(missing, map(np.copy, result.vectors), strict=True)
        for text, vector in found.items():
            self._known[kind, text] = vector
            self._known.move_to_end((kind, text))
        while len(self._known) > self._capacity:
            self._known.popitem(last=False)
        return [found[text] for text in texts], tokens


def create_app(provider: Provider, *, token: SecretStr | None, reranker: CrossEncoder | None = None) -> FastAPI:
    """Return the application; if a token is set, it serves only requests with that token."""
    app = FastAPI(title="Headrace embedder", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, token=token)
    _answer_errors(app)
    queries = QueryEmbedder(provider)

    @app.get("/readyz")
    async def ready() -> dict[str, str]:
        return {"status": "ready"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": provider.model, "object": "model", "owned_by": "headrace"}]}

    @app.post("/v1/embeddings")
    async def embeddings(request: EmbeddingRequest) -> dict[str, Any]:
        if request.model not in (None, "default", provider.model):
            raise ApiError(404, f"unknown model {request.model!r}; allowed: {provider.model!r}, 'default'")
        vectors, tokens = await queries.embed(request.input, request.kind)
        data = [
            {"object": "embedding", "index": index, "embedding": _encoded(vector, request.encoding_format)}
            for index, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "model": provider.model, "data": data, "usage": usage}

    if reranker is not None:
        _serve_reranker(app, reranker)
    return app


def _serve_reranker(app: FastAPI, reranker: CrossEncoder) -> None:
    @app.post("/v1/rerank")
    async def rerank(request: RerankRequest) -> dict[str, Any]:
        if request.model not in (None, "default", reranker.name):
            raise ApiError(404, f"unknown model {request.model!r}; allowed: {reranker.name!r}, 'default'")
        scores = await asyncio.to_thread(reranker.scores, request.query, request.documents)
        best = sorted(range(len(scores)), key=lambda place: (-scores[place], place))[: request.top_n]
        results = [{"index": place, "relevance_score": scores[place]} for place in best]
        return {"model": reranker.name, "results": results}


def _answer_errors(app: FastAPI) -> None:
    """Return every error in OpenAI's format."""

    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> JSONResponse:
        return error.answer()

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        return ApiError(error.status_code, str(error.detail)).answer()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return ApiError(400, f"{'.'.join(map(str, first['loc']))}: {first['msg']}").answer()

    @app.exception_handler(DependencyDown)
    async def down(_: Request, error: DependencyDown) -> JSONResponse:
        headers = None if error.delay is None else {"Retry-After": str(math.ceil(error.delay))}
        return ApiError(503, error.message, "server_error").answer(headers)


def _encoded(vector: Vectors, encoding: str) -> str | list[float]:
    little_endian = np.asarray(vector, "<f4")
    if encoding == "base64":
        return base64.b64encode(little_endian.tobytes()).decode()
    return [float(number) for number in little_endian]
