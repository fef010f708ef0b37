"""A flood of one tenant under a provider's limit, and a neighbour who sends little, over a real stream."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable

import pytest

from headrace.topology.stages import DOCUMENT_STAGES
from headrace_bench.outage import small_documents
from headrace_testing.deployment import Deployment
from headrace_testing.fold import fold, read_store
from headrace_testing.http_servers import serving
from headrace_testing.model_server import ModelServer, settings
from headrace_testing.oracle import versions
from headrace_testing.stream import dead_letters, metric, publish, wait_until_stored

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

FLOOD, LIGHT = 300, 5
TOKENS_A_MINUTE = 4200
"""About two thirds of what the flood has: the bucket holds those at once, the rest takes half a minute."""
MUCH_LEFT = 20
"""Documents of the flood that still wait when its neighbour is done; about six seconds of the limit."""


def stored(deployment: Deployment) -> Counter[str]:
    """Return how many documents each tenant has in the store."""
    store = read_store(deployment.place.postgres, schema=deployment.place.schema)
    return Counter(tenant for tenant, _ in store.documents)


def wait_for(deployment: Deployment, enough: Callable[[Counter[str]], bool]) -> Counter[str]:
    """Return what is stored as soon as it is enough."""
    deadline = time.monotonic() + 120
    while not enough(found := stored(deployment)):
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    return found


def test_a_tenant_that_sends_little_does_not_wait_behind_another_s_flood(deployment: Deployment, seed: int) -> None:
    """Broken: one tenant's flood uses up the limit for everybody, or ends in the dead letters."""
    flood, light = small_documents("flood", FLOOD), small_documents("light", LIGHT)
    kafka = deployment.place.kafka_settings()
    with serving(ModelServer(random.Random(seed))) as server:
        env = {
            **settings(server.server_port, deployment.model),
            "HEADRACE_EMBEDDER_TOKENS_PER_MINUTE": str(TOKENS_A_MINUTE),
        }
        deployment.start_all(*(flow.name for flow in DOCUMENT_STAGES if flow.name != "embedder"))
        embedder = deployment.start("embedder", env=env)
        publish(kafka, flood, "flood")
        # The neighbour comes when the minute that the bucket held is used up, and the flood waits for more.
        wait_for(deployment, lambda _: metric(embedder, "headrace_records_deferred_total") > 0)
        publish(kafka, light, "light")
        found = wait_for(deployment, lambda found: found["light"] == LIGHT)
        assert found["flood"] <= FLOOD - MUCH_LEFT, found
        wait_until_stored(deployment, fold([*versions("flood", flood), *versions("light", light)]), 120, print)
        assert dead_letters(kafka) == 0
        assert metric(embedder, "headrace_retries_total") == 0
