"""A request with very many mistakes must not cost more than one with a few."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headrace_gateway.change_models import check_batch

pytestmark = pytest.mark.unit

CHANGE = {"op": "upsert", "id": "a", "content": "text"}
MANY = range(5000)


@pytest.mark.parametrize(
    ("item", "fields"),
    [
        ({**CHANGE, "acl": [1 for _ in MANY]}, ["acl[0]"]),
        ({**CHANGE, "attributes": {f"{number} ": 1 for number in MANY}}, ["attributes"]),
        ({f"x{number}": 1 for number in MANY}, ["(whole)"]),
    ],
)
def test_one_change_of_many_mistakes_makes_few_errors(item: dict[str, Any], fields: list[str]) -> None:
    """If it failed, eight megabytes of them would hold up all clients for half a minute."""
    assert [error.field for error in check_batch([item], "alpha", 1000).errors] == fields


def test_the_errors_of_each_change_are_bounded() -> None:
    """If it failed, the answer to a batch would be ten times as large as the batch."""
    errors = check_batch([{f"x{number}": 1 for number in range(200)}] * 3, "alpha", 1000).errors
    assert [error.index for error in errors] == [0] * 20 + [1] * 20 + [2] * 20


@pytest.mark.parametrize("body", [{"filter": {f"{n}": 1 for n in MANY}}, {f"x{n}": 1 for n in MANY}])
async def test_a_search_with_many_mistakes_makes_one_error(gateway: Any, body: dict[str, Any]) -> None:
    """If it failed, one search would hold up all the others."""
    answer = await gateway.client.post(
        "/v1/search", content=json.dumps({"query": "q", **body}), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert "filter" in body or error["reason"] == f"has {len(body) + 1} members; the limit is 256"
