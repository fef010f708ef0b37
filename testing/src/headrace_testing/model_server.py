"""An OpenAI-compatible model server for tests: correct answers, seeded wrong ones, or a port without a listener."""

from __future__ import annotations

import base64
import json
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any

import numpy as np

DIMENSIONS = 384
FAULTS = ("429", "500", "503", "hang", "not json", "cut json", "html", "hang up")
HANG_S = 2.0


class ModelServer(ThreadingHTTPServer):
    """Answers correctly or, with the probability ``share``, like a faulty server; ``calls`` counts both."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, chance: Random, port: int = 0, *, share: float = 0.0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.chance = chance
        self.share = share
        self.calls: Counter[str] = Counter()


class _Handler(BaseHTTPRequestHandler):
    server: ModelServer

    def do_POST(self) -> None:
        """Answer a request for embeddings."""
        texts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["input"]
        chance = self.server.chance
        fault = chance.choice(FAULTS) if chance.random() < self.server.share else "right"
        self.server.calls[fault] += 1
        if fault == "hang":
            time.sleep(HANG_S)  # longer than the client's timeout
            return
        if fault == "hang up":
            self.close_connection = True
            return
        right = json.dumps({"data": [_vector(index, text) for index, text in enumerate(texts)], "model": "stub"})
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
        """Log nothing."""


def _vector(index: int, text: str) -> dict[str, Any]:
    numbers = np.random.default_rng(len(text)).standard_normal(DIMENSIONS).astype("<f4")
    return {"index": index, "embedding": base64.b64encode(numbers.tobytes()).decode()}


def settings(port: int, model: str) -> dict[str, str]:
    """Return the environment of an embedder that uses this server."""
    return {
        "HEADRACE_EMBEDDER_PROVIDER": "openai-compatible",
        "HEADRACE_EMBEDDER_MODEL": model,
        "HEADRACE_EMBEDDER_BASE_URL": f"http://127.0.0.1:{port}/v1",
        "HEADRACE_EMBEDDER_TIMEOUT_S": str(HANG_S / 2),
    }
