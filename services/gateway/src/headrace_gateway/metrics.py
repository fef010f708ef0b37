"""The gateway's metrics. Each description says what to do when the value changes."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

REQUESTS = Counter(
    "headrace_gateway_requests",
    "Requests by route, method and status. If status 503 rises, /readyz names the dependency that is down.",
    ["route", "method", "status"],
)
SECONDS = Histogram(
    "headrace_gateway_request_seconds",
    "Response time by route. If it is high on /v1/search, check the embedder first, then PostgreSQL.",
    ["route"],
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
)
CHANGES = Counter(
    "headrace_gateway_changes",
    "Published changes by operation. If it is flat while upstream sends, check the rates of status 4xx and 503.",
    ["operation"],
)
CHANGES_REFUSED = Counter(
    "headrace_gateway_changes_refused",
    "Changes rejected as invalid. If it rises, upstream sends invalid changes; the answers name field and reason.",
)
