"""The gateway's metrics; each description says what to do when the figure moves."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

REQUESTS = Counter(
    "headrace_gateway_requests",
    "Requests by route, method and status. A rise of 503: /readyz says which dependency is down.",
    ["route", "method", "status"],
)
SECONDS = Histogram(
    "headrace_gateway_request_seconds",
    "Time to answer by route. High on /v1/search: look at the embedder first, then at PostgreSQL.",
    ["route"],
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
)
CHANGES = Counter(
    "headrace_gateway_changes",
    "Changes published, by operation. Flat while upstream sends: look at the rate of 4xx and 503.",
    ["operation"],
)
CHANGES_REFUSED = Counter(
    "headrace_gateway_changes_refused",
    "Changes refused as invalid. Any rise: upstream sends what breaks the rules; the answers say which.",
)
