"""OpenAPI parts that FastAPI cannot derive: the body of changes, which is parsed by hand, and problem documents."""

from __future__ import annotations

from typing import Any

from headrace_gateway.change_models import ChangeItem
from headrace_gateway.problems import MEDIA_TYPE

_MEANINGS = {
    400: "The body is not JSON.",
    401: "The API key is missing, unknown or revoked.",
    403: "The body names a tenant other than the API key's.",
    404: "Not found.",
    409: "The same request is in progress.",
    413: "The body, batch or content is too large.",
    415: "The body is not JSON.",
    422: "A field is invalid; `errors` lists item, field and reason.",
    502: "The generator dead-lettered the request; see `reason` and `remedy`.",
    503: "A dependency does not answer; see `dependency` and Retry-After.",
}
_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "description": "Type of the problem for programs: urn:headrace:problem:…."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What happened."},
        "instance": {"type": "string"},
        "remedy": {"type": "string", "description": "What to do."},
        "errors": {"type": "array", "items": {"type": "object"}, "description": "Item, field and reason."},
        "dependency": {"type": "string", "description": "The dependency that does not answer."},
    },
}

_CHANGE = ChangeItem.model_json_schema(by_alias=True)
_EXAMPLE = {
    "op": "upsert",
    "id": "guides/start.md",
    "version": 7,
    "title": "Start",
    "content": "# Start\nOpen the gate slowly.",
    "media_type": "text/markdown",
    "source": "https://example.com/guides/start.md",
    "attributes": {"lang": "en"},
}

CHANGES_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "oneOf": [
                        _CHANGE,
                        {"type": "array", "items": _CHANGE},
                        {"type": "object", "properties": {"changes": {"type": "array", "items": _CHANGE}}},
                    ]
                },
                "examples": {
                    "one": {"value": _EXAMPLE},
                    "batch": {"value": {"changes": [_EXAMPLE, {"op": "delete", "id": "guides/old.md", "version": 3}]}},
                },
            },
            "application/cloudevents+json": {
                "schema": {"type": "object"},
                "examples": {
                    "structured": {
                        "value": {
                            "specversion": "1.0",
                            "id": "41",
                            "source": "/wiki",
                            "type": "com.example.page.updated",
                            "subject": "guides/start.md",
                            "data": {"version": 7, "content": "# Start"},
                        }
                    }
                },
            },
        },
    },
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "schema": {"type": "string", "maxLength": 255},
            "description": "Requests with the same key count as one request and get the same answer.",
        }
    ],
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the entries of these problem documents for a route's ``responses``."""
    return {
        status: {"description": _MEANINGS[status], "content": {MEDIA_TYPE: {"schema": _PROBLEM}}} for status in statuses
    }
