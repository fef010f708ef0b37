"""Row 18: a model server that limits, fails, hangs or answers rubbish."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any

import numpy as np
import pytest

from headrace_bench.data import reference_with_edits
from headrace_bench.oracle import versions
from headrace_testing.deployment import Deployment
from headrace_testing.fold import fold
from headrace_testing.stream import TENANT, dead_letters, publish, wait_until_stored

pytestmark = [pytest.mark.faults, pytest.mark.timeout(200)]

DIMENSIONS = 384
FAULTS = ("429", "500", "503", "hang", "not json", "cut json", "html", "hang up")


class Server(ThreadingHTTPServer):
    """Answers right or, by chance, as servers do on bad days; ``calls`` counts both."""

    daemon_threads = True

    def __init__(self, chance: Random) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.chance = chance
        self.share = 0.6
        self.calls: Counter[str] = Counter()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        texts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["input"]
        chance = self.server.chance
        fault = chance.choice(FAULTS) if chance.random() < self.server.share else "right"
        self.server.calls[fault] += 1
        right = json.dumps({"data": [_vector(index, text) for index, text in enumerate(texts)], "model": "stub"})
        if fault == "hang":
            time.sleep(2)  # longer than the client waits
            return
        if fault == "hang up":
            self.close_connection = True
            return
        status, body = {
            "429": (429, "{}"), "500": (500, "oops"), "503": (503, ""), "not json": (200, "\x00\x01 nothing"),
            "cut json": (200, right[: len(right) // 2]), "html": (200, "<html>502 Bad Gateway</html>"),
        }.get(fault, (200, right))  # fmt: skip
        self.send_response(status)
        if fault == "429":
            self.send_header("Retry-After", "1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


def _vector(index: int, text: str) -> dict[str, Any]:
    numbers = np.random.default_rng(len(text)).standard_normal(DIMENSIONS).astype("<f4")
    return {"index": index, "embedding": base64.b64encode(numbers.tobytes()).decode()}


@pytest.fixture
def server(chance: Random) -> Iterator[Server]:
    """The model server."""
    found = Server(chance)
    thread = threading.Thread(target=found.serve_forever, name="model server")
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


def test_row_18_a_provider_on_a_bad_day(
    store: Deployment, server: Server, chance: Random, figures: dict[str, Any]
) -> None:
    """Broken: a server's bad day costs dead letters, or a rubbish answer is stored as a vector."""
    changes = reference_with_edits(edits=15, seed=chance.randrange(2**32), documents=12)
    env = {
        "HEADRACE_EMBEDDER_PROVIDER": "openai-compatible",
        "HEADRACE_EMBEDDER_MODEL": store.model,
        "HEADRACE_EMBEDDER_BASE_URL": f"http://127.0.0.1:{server.server_port}/v1",
        "HEADRACE_EMBEDDER_TIMEOUT_S": "1",
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
