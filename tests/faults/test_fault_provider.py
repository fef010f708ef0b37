"""Row 18: a model server that limits, fails, hangs or answers rubbish."""

from __future__ import annotations

import time
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from headrace_testing.data import reference_with_edits
from headrace_testing.deployment import Deployment
from headrace_testing.fold import fold
from headrace_testing.http_servers import serving
from headrace_testing.model_server import FAULTS, ModelServer, settings
from headrace_testing.oracle import versions
from headrace_testing.stream import TENANT, dead_letters, publish, wait_until_stored

pytestmark = [pytest.mark.faults, pytest.mark.timeout(200)]


@pytest.fixture
def server(chance: Random) -> Iterator[ModelServer]:
    """The model server, on a day on which most answers are bad."""
    with serving(ModelServer(chance, share=0.6)) as found:
        yield found


def test_row_18_a_provider_on_a_bad_day(
    store: Deployment, server: ModelServer, chance: Random, figures: dict[str, Any]
) -> None:
    """Broken: a server's bad day costs dead letters, or a rubbish answer is stored as a vector."""
    changes = reference_with_edits(edits=15, seed=chance.randrange(2**32), documents=12)
    env = {
        **settings(server.server_port, store.model),
        "HEADRACE_EMBEDDER_REQUEST_TEXTS": "16",
        "HEADRACE_WORKER_BATCH_RECORDS": "4",
        "HEADRACE_WORKER_BACKOFF_S": "0.1",
        "HEADRACE_WORKER_BACKOFF_MAX_S": "0.5",
    }
    store.start_all("ingest", "chunker", "indexer")
    store.start("embedder", env=env)
    publish(store.place.kafka_settings(), changes)
    time.sleep(chance.uniform(10, 15))
    server.share = 0.1
    wait_until_stored(store, fold(versions(TENANT, changes)), 120, print)
    figures |= {"row": 18, "records": len(changes), "calls": dict(server.calls)}
    assert sum(server.calls[fault] for fault in FAULTS) >= 5, server.calls
    assert dead_letters(store.place.kafka_settings()) == 0
