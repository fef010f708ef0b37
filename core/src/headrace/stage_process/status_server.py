"""The service's own endpoint: ``/metrics`` for Prometheus, ``/healthz`` and ``/readyz`` for orchestrators."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

Readiness = Callable[[], tuple[bool, Mapping[str, Any]]]
"""Returns whether the service is ready, and details."""


class StatusServer:
    """Serves the three paths from its own thread; port 0 picks a free one."""

    def __init__(self, host: str, port: int, readiness: Readiness) -> None:
        self._server = ThreadingHTTPServer((host, port), _handler(readiness))
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]

    def start(self) -> None:
        """Begin to serve."""
        threading.Thread(target=self._server.serve_forever, name="status", daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


def _handler(readiness: Readiness) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:  # the library's name
            if self.path == "/metrics":
                self._answer(200, CONTENT_TYPE_LATEST, generate_latest())
            elif self.path == "/healthz":
                self._answer(200, "application/json", b'{"alive": true}')
            elif self.path == "/readyz":
                ready, details = readiness()
                body = json.dumps({"ready": ready, **details}).encode()
                self._answer(200 if ready else 503, "application/json", body)
            else:
                self._answer(404, "application/json", b'{"error": "unknown path; use /metrics, /healthz or /readyz"}')

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the library's name
            """Do not log scrapes."""

        def _answer(self, status: int, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler
