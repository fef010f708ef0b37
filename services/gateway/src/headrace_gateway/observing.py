"""Gives every request an ID, a log line and metrics, and answers unexpected errors with a 500 without details."""

from __future__ import annotations

import time
from collections.abc import MutableMapping
from typing import Any
from uuid import uuid4

import structlog
from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headrace_gateway import metrics
from headrace_gateway.problems import internal, problem_response

log = structlog.get_logger(__name__)

_METHODS = frozenset(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
_QUIET = ("/healthz", "/readyz", "/metrics")


class Observing:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        identity = str(uuid4())
        begun = time.perf_counter()
        status: list[int] = []

        async def observed(message: Message) -> None:
            if message["type"] == "http.response.start":
                status.append(message["status"])
                message["headers"] = [*message.get("headers", []), (b"x-request-id", identity.encode())]
            await send(message)

        with structlog.contextvars.bound_contextvars(http_request_id=identity):
            try:
                await self._app(scope, receive, observed)
            except Exception:
                log.exception("request failed")
                if status:
                    raise
                await problem_response(Request(scope), internal())(scope, receive, observed)
            finally:
                _note(scope, status[0] if status else 499, time.perf_counter() - begun)


def _note(scope: MutableMapping[str, Any], status: int, seconds: float) -> None:
    route = getattr(scope.get("route"), "path", "unmatched")
    method = scope["method"] if scope["method"] in _METHODS else "other"  # invented methods must not create time series
    metrics.REQUESTS.labels(route, method, str(status)).inc()
    metrics.SECONDS.labels(route).observe(seconds)
    if scope["path"] not in _QUIET:
        log.info("request", method=scope["method"], route=route, status=status, milliseconds=round(seconds * 1000, 1))
