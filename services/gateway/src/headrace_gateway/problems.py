"""Problem documents (RFC 9457). Every error is answered with one, which says what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from headrace.errors import ConfigurationError, DependencyDown, HeadraceError, InvalidRecord, PermanentError
from headrace_gateway.texts import printable

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:headrace:problem:"
_MAX_ERRORS = 1000


class Problem(HTTPException):
    """An error for the client.

    ``kind`` is its type for programs, ``remedy`` tells people what to do, and ``members`` are the document's extension
    members.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        remedy: str = "",
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.kind = kind
        self.members = {**({"remedy": remedy} if remedy else {}), **members}

    def document(self, instance: str) -> dict[str, Any]:
        """Return the problem document."""
        return {
            "type": TYPE_PREFIX + self.kind,
            "title": HTTPStatus(self.status_code).phrase,
            "status": self.status_code,
            "detail": self.detail,
            "instance": instance,
            **self.members,
        }


def problem_response(request: Request, problem: Problem) -> JSONResponse:
    """Return the response for the problem."""
    return JSONResponse(
        problem.document(request.url.path), problem.status_code, dict(problem.headers or {}), MEDIA_TYPE
    )


def unavailable(error: DependencyDown, retry_after_s: int) -> Problem:
    """Return the 503 for a dependency that does not answer."""
    delay = retry_after_s if error.delay is None else max(1, round(error.delay))
    return Problem(
        503,
        "dependency-down",
        f"{error.dependency} does not answer. The request is not the cause.",
        remedy=error.remedy or "Send the request again after the time in Retry-After.",
        headers={"Retry-After": str(delay)},
        dependency=error.dependency,
    )


def field_errors(errors: Sequence[Any], *, skip: int = 0) -> list[dict[str, str]]:
    """Return pydantic's errors as field and reason; ``skip`` drops the first parts of the location."""
    found = [
        {
            "field": printable(_place(error["loc"][skip:])) or "(whole)",
            "reason": "is not a known field" if error["type"] == "extra_forbidden" else _reason(error),
        }
        for error in errors
    ]
    return found[:_MAX_ERRORS]


def _place(parts: Sequence[str | int]) -> str:
    """Return the place of an error as in `changes[0].id`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")


def _reason(error: Any) -> str:
    return printable(str(error["msg"]).removeprefix("Value error, "))


def internal() -> Problem:
    """Return the 500 without internal details; the log has them under the same X-Request-Id."""
    return Problem(
        500,
        "internal",
        "An unexpected error occurred in the gateway.",
        remedy="Report the X-Request-Id of this answer to the operator of the gateway, whose log has the details.",
    )


def install(app: FastAPI, retry_after_s: int) -> None:
    """Make the application answer every error with a problem document."""

    async def plain(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, StarletteHTTPException)
        return problem_response(request, error if isinstance(error, Problem) else _from_http(error))

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return problem_response(request, _from_validation(error))

    async def ours(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HeadraceError)
        return problem_response(request, _from_headrace(error, retry_after_s))

    app.add_exception_handler(StarletteHTTPException, plain)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HeadraceError, ours)


def _from_http(error: StarletteHTTPException) -> Problem:
    kinds = {
        404: ("not-found", "This path does not exist.", "GET /openapi.json lists all paths."),
        405: ("method-not-allowed", "This path does not support this method.", "Use a method from the header Allow."),
    }
    kind, detail, remedy = kinds.get(error.status_code, ("http", str(error.detail), ""))
    return Problem(error.status_code, kind, detail, remedy=remedy, headers=error.headers)


def _from_validation(error: RequestValidationError) -> Problem:
    errors = error.errors()
    if any(found["type"] == "json_invalid" for found in errors):
        context = errors[0].get("ctx", {}).get("error", "")
        return Problem(400, "malformed", f"The body is not JSON: {context} at character {errors[0]['loc'][-1]}.")
    return Problem(422, "invalid", "The request has invalid fields; see `errors`.", errors=field_errors(errors, skip=1))


def _from_headrace(error: HeadraceError, retry_after_s: int) -> Problem:
    if isinstance(error, DependencyDown):
        log.warning("dependency down", dependency=error.dependency, error=str(error))
        return unavailable(error, retry_after_s)
    if isinstance(error, InvalidRecord):
        errors = [{"field": printable(error.field), "reason": printable(error.reason)}]
        return Problem(422, error.code, printable(error.message), remedy=error.remedy, errors=errors)
    if isinstance(error, PermanentError):
        return Problem(422, error.code, printable(error.message), remedy=error.remedy)
    if isinstance(error, ConfigurationError):
        log.error("invalid configuration", error=str(error))
        return internal()
    log.error("unexpected error", error=str(error))
    return internal()
