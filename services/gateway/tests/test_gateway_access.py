"""Who may ask, and the problem documents that every error is."""

from __future__ import annotations

import re
from typing import Any

import pytest

from headrace.errors import ConfigurationError, DependencyDown
from headrace.store.keys import KeyOwner
from headrace_gateway.authentication import Authenticator

pytestmark = pytest.mark.unit

PATHS = [
    ("POST", "/v1/changes"),
    ("POST", "/v1/search"),
    ("POST", "/v1/ask"),
    ("GET", "/v1/artifacts/6f1f7a10-0f0b-5b0e-9c55-6c1f6f1f7a10"),
    ("GET", "/v1/documents/x"),
    ("POST", "/v1/documents:lookup"),
]


@pytest.mark.parametrize(("method", "path"), PATHS)
@pytest.mark.parametrize(
    "header", [None, "Bearer hr_unknown", "Bearer alpha", "Basic hr_alpha", "Bearer " + "hr_" * 200]
)
async def test_without_a_good_key_nothing_answers(gateway: Any, method: str, path: str, header: str | None) -> None:
    """If it failed, a route would serve strangers."""
    headers = {"Authorization": header} if header else {"Authorization": ""}
    answer = await gateway.client.request(method, path, headers=headers)
    assert answer.status_code == 401, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.json()["remedy"]


async def test_a_good_key_is_remembered_and_a_bad_one_is_not(gateway: Any) -> None:
    """If it failed, every request would cost a query, or a key made a moment ago would stay unknown."""
    for _ in range(3):
        await gateway.client.get("/v1/documents/x")
    assert gateway.store.lookups == 1
    new = {"Authorization": "Bearer hr_new"}
    assert (await gateway.client.get("/v1/documents/x", headers=new)).status_code == 401
    gateway.store.keys["hr_new"] = "alpha"
    assert (await gateway.client.get("/v1/documents/x", headers=new)).status_code == 404


async def test_a_revoked_key_is_forgotten_after_its_time() -> None:
    """If it failed, a revoked key would work until the gateway restarts."""
    keys = {"hr_a": KeyOwner("alpha")}

    async def find(key: str) -> KeyOwner | None:
        return keys.get(key)

    authenticator = Authenticator(find, remember_s=0.0)
    assert await authenticator.authenticate("hr_a") is not None
    keys.clear()
    assert await authenticator.authenticate("hr_a") is None


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/search", {"query": "q", "tenant": "beta"}),
        ("/v1/ask", {"question": "q", "tenant": "beta"}),
        ("/v1/documents:lookup", {"documents": [{"id": "a"}], "tenant": "beta"}),
    ],
)
async def test_a_body_cannot_name_another_tenant(gateway: Any, path: str, body: dict[str, Any]) -> None:
    """If it failed, a key of one tenant could read another's documents by saying so."""
    answer = await gateway.client.post(path, json=body)
    assert answer.status_code == 403
    assert answer.json()["type"] == "urn:headrace:problem:foreign-tenant"
    assert gateway.store.searches == []
    assert gateway.publisher.messages == []


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/nowhere", 404, "not-found"),
        ("DELETE", "/v1/search", 405, "method-not-allowed"),
        ("GET", "/v1/documents:lookup", 405, "method-not-allowed"),
    ],
)
async def test_unknown_paths_and_methods_are_problems_too(
    gateway: Any, method: str, path: str, status: int, kind: str
) -> None:
    """If it failed, a client would meet the framework's own error format."""
    answer = await gateway.client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == f"urn:headrace:problem:{kind}"


async def test_a_bad_field_is_named(gateway: Any) -> None:
    """If it failed, a client would learn that something is wrong and not what."""
    answer = await gateway.client.post("/v1/search", json={"query": "", "top_k": 101, "mode": "psychic", "x": 1})
    assert answer.status_code == 422
    assert {error["field"] for error in answer.json()["errors"]} == {"query", "top_k", "mode", "x"}


async def test_broken_json_is_400(gateway: Any) -> None:
    """If it failed, a syntax error would be reported as a field's."""
    answer = await gateway.client.post(
        "/v1/search", content=b'{"query": ', headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 400
    assert answer.json()["type"] == "urn:headrace:problem:malformed"


async def test_a_body_over_the_limit_is_413(gateway: Any) -> None:
    """If it failed, one request could fill the memory."""
    answer = await gateway.client.post("/v1/search", json={"query": "q" * 70_000})
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("error", [RuntimeError("secret-host:5432"), ConfigurationError("secret-host refuses")])
async def test_an_unforeseen_error_says_nothing_of_the_inside(gateway: Any, error: Exception) -> None:
    """If it failed, host names, paths or queries would leak to whoever causes an error."""
    gateway.store.broken = error
    answer = await gateway.client.get("/v1/documents/x")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert re.fullmatch(r"[0-9a-f-]{36}", answer.headers["x-request-id"])
    assert "secret" not in answer.text


async def test_a_dependency_that_is_down_is_named(gateway: Any) -> None:
    """If it failed, an outage would look like the client's mistake."""
    gateway.embedder.down = DependencyDown("embedder", "http://10.0.0.9 refused", delay=7)
    answer = await gateway.client.post("/v1/search", json={"query": "q"})
    assert answer.status_code == 503
    assert answer.json()["dependency"] == "embedder"
    assert answer.headers["retry-after"] == "7"
    assert "10.0.0.9" not in answer.text


async def test_health_tells_what_is_down(gateway: Any) -> None:
    """If it failed, traffic would be sent to a gateway that cannot serve it, or an orchestrator kill a sound one."""
    ready = await gateway.client.get("/readyz", headers={"Authorization": ""})
    assert (ready.status_code, ready.json()["ready"]) == (200, True)
    gateway.embedder.down = DependencyDown("embedder", "no answer")
    down = await gateway.client.get("/readyz")
    assert down.status_code == 503
    assert down.json()["dependencies"] == {"embedder": {"up": False, "reason": "no answer"}}
    assert (await gateway.client.get("/healthz")).status_code == 200


async def test_invented_methods_share_one_metric(gateway: Any) -> None:
    """If it failed, a stranger could fill the memory with metrics of made-up methods, which are kept for ever."""
    for number in range(3):
        assert (await gateway.client.request(f"BREW{number}", "/v1/search")).status_code == 405
    text = (await gateway.client.get("/metrics")).text
    assert "BREW" not in text
    assert 'method="other"' in text


async def test_metrics_count_requests_by_route_and_status(gateway: Any) -> None:
    """If it failed, dashboards would be empty, or ids in paths would make a series each."""
    await gateway.client.get("/v1/documents/some/long/id")
    text = (await gateway.client.get("/metrics")).text
    assert 'headrace_gateway_requests_total{method="GET",route="/v1/documents/{identifier:path}",status="404"}' in text
    assert "some/long/id" not in text


async def test_the_openapi_document_has_every_route_with_its_problems(gateway: Any) -> None:
    """If it failed, clients generated from the document could not send changes or read errors."""
    document = (await gateway.client.get("/openapi.json")).json()
    changes = document["paths"]["/v1/changes"]["post"]
    assert set(changes["requestBody"]["content"]) == {"application/json", "application/cloudevents+json"}
    assert {"202", "401", "403", "413", "422", "503"} <= set(changes["responses"])
    assert {parameter["name"] for parameter in changes["parameters"]} == {
        "partial",
        "Idempotency-Key",
        "Headrace-Run",
    }
    assert document["components"]["schemas"]["SearchRequest"]["examples"]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["summary"], path
            if path.startswith("/v1/"):
                assert operation["security"], path
