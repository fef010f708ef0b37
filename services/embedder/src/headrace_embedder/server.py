"""The internal endpoint: OpenAI's ``/v1/embeddings`` for queries, so that the gateway and the generator need no torch."""

from __future__ import annotations

import base64
import hmac
from collections import OrderedDict
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import FastAPI, Header, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, SecretStr, StringConstraints

from headrace.errors import DependencyDown
from headrace_embedder.provider import Kind, Provider, Vectors

CACHED_QUERIES = 1024
Text = Annotated[str, StringConstraints(max_length=32_768)]


class EmbeddingRequest(BaseModel):
    """OpenAI's request; ``kind`` is our extension."""

    input: Text | Annotated[list[Text], Field(min_length=1, max_length=256)]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    kind: Kind = Kind.QUERY


class ApiError(Exception):
    """An error in OpenAI's form."""

    def __init__(self, status: int, message: str, kind: str) -> None:
        self.status = status
        self.kind = kind
        super().__init__(message)


def create_app(provider: Provider, *, token: SecretStr | None) -> FastAPI:
    """Return the application; with a token, only requests that carry it are served."""
    app = FastAPI(title="Headrace embedder", docs_url=None, redoc_url=None)
    cache: OrderedDict[tuple[Kind, str], Any] = OrderedDict()

    def authorize(header: str | None) -> None:
        if token is not None and not hmac.compare_digest(
            (header or "").encode(), f"Bearer {token.get_secret_value()}".encode()
        ):
            raise ApiError(401, "a bearer token is required", "invalid_request_error")

    @app.get("/v1/models")
    async def models(authorization: Annotated[str | None, Header()] = None) -> dict[str, Any]:
        authorize(authorization)
        return {"object": "list", "data": [{"id": provider.model, "object": "model", "owned_by": "headrace"}]}

    @app.post("/v1/embeddings")
    async def embeddings(
        request: EmbeddingRequest, authorization: Annotated[str | None, Header()] = None
    ) -> dict[str, Any]:
        authorize(authorization)
        if request.model not in (None, "default", provider.model):
            raise ApiError(
                404, f"there is no model {request.model!r}, only {provider.model!r}", "invalid_request_error"
            )
        texts = [request.input] if isinstance(request.input, str) else request.input
        vectors = await _embed(provider, cache, texts, request.kind)
        data = [
            {"object": "embedding", "index": index, "embedding": _encoded(vector, request.encoding_format)}
            for index, vector in enumerate(vectors)
        ]
        return {
            "object": "list",
            "model": provider.model,
            "data": data,
            "usage": {"prompt_tokens": 0, "total_tokens": 0},
        }

    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> JSONResponse:
        return JSONResponse({"error": {"message": str(error), "type": error.kind}}, error.status)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        message = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        return JSONResponse({"error": {"message": message, "type": "invalid_request_error"}}, 400)

    @app.exception_handler(DependencyDown)
    async def down(_: Request, error: DependencyDown) -> JSONResponse:
        return JSONResponse({"error": {"message": error.message, "type": "server_error"}}, 503)

    return app


async def _embed(
    provider: Provider, cache: OrderedDict[tuple[Kind, str], Any], texts: list[str], kind: Kind
) -> list[Vectors]:
    """Return the vectors; texts asked for lately are not computed again."""
    missing = [text for text in dict.fromkeys(texts) if (kind, text) not in cache]
    found = {text: cache[kind, text] for text in texts if (kind, text) in cache}
    if missing:
        result = await provider.embed(missing, kind)
        if result.errors:
            raise ApiError(422, str(next(iter(result.errors.values()))), "invalid_request_error")
        for text, vector in zip(missing, result.vectors, strict=True):
            found[text] = cache[kind, text] = vector
    while len(cache) > CACHED_QUERIES:
        cache.popitem(last=False)
    return [found[text] for text in texts]


def _encoded(vector: Vectors, encoding: str) -> str | list[float]:
    little_endian = np.asarray(vector, "<f4")
    if encoding == "base64":
        return base64.b64encode(little_endian.tobytes()).decode()
    return [float(number) for number in little_endian]
