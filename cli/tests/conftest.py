"""A gateway that answers from a script, in a thread of the test."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from headrace_cli.client import Clock, Gateway
from headrace_testing.http_servers import serving

Reply = tuple[int, dict[str, str], Any]


@dataclass
class Received:
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    size: int


@dataclass
class FakeGateway:
    """Answers each request by ``reply``; without one of its own it accepts every change and finds every document."""

    url: str = ""
    requests: list[Received] = field(default_factory=list)
    reply: Callable[[Received], Reply | None] = lambda _: None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, request: Received) -> Reply:
        with self.lock:
            self.requests.append(request)
        own = self.reply(request)
        if own is not None:
            return own
        if request.path.startswith("/v1/changes"):
            documents = [
                {"id": change["id"], "version": change.get("version", 0), "status_url": ""}
                for change in request.body["changes"]
            ]
            return 202, {}, {"request_id": "r", "accepted": len(documents), "documents": documents, "errors": []}
        if request.path == "/v1/documents:lookup":
            found = [
                {"id": one["id"], "version": one["version"], "indexed": True, "deleted": False, "dead_letter": None}
                for one in request.body["documents"]
            ]
            return 200, {}, {"documents": found}
        return 404, {}, {"detail": "nothing here", "remedy": "look elsewhere"}

    def changes(self) -> list[list[dict[str, Any]]]:
        """The changes of every request, in the order of their arrival."""
        return [one.body["changes"] for one in self.requests if one.path.startswith("/v1/changes")]


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    """Return a gateway that listens on loopback."""
    fake = FakeGateway()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = json.loads(raw) if raw else None
            status, extra, answer = fake.answer(Received(self.command, self.path, headers, body, len(raw)))
            data = json.dumps(answer).encode()
            self.send_response(status)
            for name, value in extra.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST  # noqa: N815  # the library's name

        def log_message(self, *_: object) -> None:
            pass

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as server:
        fake.url = f"http://127.0.0.1:{server.server_port}"
        yield fake


class FakeTime:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.time = 0.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.time, self.sleep)


@pytest.fixture
def fake_time() -> FakeTime:
    """Return a clock at 0."""
    return FakeTime()


@pytest.fixture
def client(gateway: FakeGateway, fake_time: FakeTime) -> Iterator[Gateway]:
    """Return a client of the gateway that tries again for 30 s of the fake clock."""
    made = Gateway(gateway.url, "hr_test", retry_s=30.0, clock=fake_time.clock)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep variables of the machine out of the tests."""
    import os

    for name in list(os.environ):
        if name.startswith("HEADRACE_"):
            monkeypatch.delenv(name)


@pytest.fixture
def contents(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what the cluster holds that every command finds; see :class:`headrace_testing.cluster.FakeCluster`."""
    from headrace_cli.context import Operator
    from headrace_testing.cluster import FakeCluster

    fake = FakeCluster()
    monkeypatch.setattr(Operator, "cluster", lambda _, generation=None: fake.of(generation))
    return fake.contents
