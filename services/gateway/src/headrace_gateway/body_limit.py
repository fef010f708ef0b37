"""Limits request bodies: rejects a too large declared length at once, or a body as soon as it exceeds the limit."""

from __future__ import annotations

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headrace_gateway.problems import Problem, problem_response


class BodyLimit:
    """ASGI middleware. Starlette's own limit bypasses the exception handlers and answers in plain text."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > self._max_bytes:
            await problem_response(Request(scope), self._refusal())(scope, receive, send)
            return
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise self._refusal()
            return message

        await self._app(scope, limited, send)

    def _refusal(self) -> Problem:
        return Problem(
            413,
            "too-large",
            f"The request body exceeds {self._max_bytes} bytes.",
            remedy="Send fewer or smaller items per request.",
        )
