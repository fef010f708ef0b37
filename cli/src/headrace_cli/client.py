"""The gateway's HTTP API, on the standard library's client, because importing httpx takes longer than a search.

One :class:`Gateway` serves one thread; its connection is kept open between requests.
"""

from __future__ import annotations

import http.client
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from headrace.runtime.backoff import backoff
from headrace_cli.addresses import http_address
from headrace_cli.failures import NotReachable, ProblemError, UsageError

RETRIED = (429, 502, 503, 504)
"""Status codes after which a request is retried: they do not mean that the request is wrong."""
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 10.0
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer: its status, its headers with lower-case names, and its JSON."""

    status: int
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True, slots=True)
class Clock:
    """Time in seconds; tests replace it."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class Gateway:
    """The API at ``url`` for the holder of ``api_key``, which acts for the reader in ``reader`` if there is one.

    Each method raises :class:`NotReachable` if the gateway does not answer, and :class:`ProblemError` for a refusal.
    ``retry_s`` limits how long a request is retried while the gateway is down or overloaded; ``on_retry`` gets the
    reason.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        retry_s: float = 0.0,
        clock: Clock | None = None,
        on_retry: Callable[[str], None] = lambda _: None,
        reader: Mapping[str, str] | None = None,
    ) -> None:
        address = http_address(url)
        if address is None or not address.hostname:
            raise UsageError(f"invalid gateway URL {url!r}", where="--url", remedy="Use the form http://host:port.")
        self.url = url.rstrip("/")
        self._base = address.path.rstrip("/")
        kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(address.hostname, address.port, timeout=_TIMEOUT_S)
        self._headers = {"Authorization": f"Bearer {api_key}", "Accept": "application/json", "User-Agent": "headrace"}
        self._api_key = api_key
        self._reader = reader
        self._headers.update(reader or {})
        self._retry_s = retry_s
        self._clock = clock or Clock()
        self._on_retry = on_retry

    def another(self) -> Gateway:
        """Return a copy with its own connection, for another thread."""
        return Gateway(
            self.url, self._api_key, retry_s=self._retry_s, clock=self._clock, on_retry=self._on_retry,
            reader=self._reader,
        )  # fmt: skip

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def post_changes(self, body: bytes, idempotency_key: str, run: str) -> Answer:
        """Send ``{"changes": […]}`` as part of a run; the answer lists refused items (``?partial=true``)."""
        headers = {"Idempotency-Key": idempotency_key, "Headrace-Run": run}
        return self._send("POST", "/v1/changes?partial=true", body, headers, repeatable=True)

    def search(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer of ``/v1/search``."""
        return self._checked("POST", "/v1/search", request)

    def ask(self, request: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Return the artifact that answers; raises :class:`NotReachable` with its address if that takes too long."""
        answer = self._send("POST", "/v1/ask", _json(request), timeout_s=timeout_s)
        document = self._good(answer, "/v1/ask")
        return {"pending": True, **document} if answer.status == 202 else document

    def artifact(self, path: str) -> dict[str, Any] | None:
        """Return an artifact, or None if it does not exist yet."""
        answer = self._send("GET", path, repeatable=True)
        return None if answer.status == 404 else self._good(answer, path)

    def document(self, identifier: str) -> dict[str, Any]:
        """Return the status of a document."""
        return self._checked("GET", f"/v1/documents/{quote(identifier, safe='')}")

    def lookup(self, documents: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return for each document (``id`` and ``version``, at most 1,000) whether it has arrived."""
        found: list[dict[str, Any]] = self._checked("POST", "/v1/documents:lookup", {"documents": documents})[
            "documents"
        ]
        return found

    def documents(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return a page of the documents with the given attributes, and ``next`` if there are more."""
        return self._checked("POST", "/v1/documents:search", request)

    def _checked(self, method: str, path: str, request: Mapping[str, Any] | None = None) -> dict[str, Any]:
        body = None if request is None else _json(request)
        return self._good(self._send(method, path, body, repeatable=True), path)

    def _good(self, answer: Answer, path: str) -> dict[str, Any]:
        if answer.status >= 400 or not isinstance(answer.body, dict):
            document = answer.body if isinstance(answer.body, dict) else {"detail": str(answer.body)[:500]}
            raise ProblemError(answer.status, document, where=f"{self.url}{path.partition('?')[0]}")
        return answer.body

    def _send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        repeatable: bool = False,
        timeout_s: float = _TIMEOUT_S,
    ) -> Answer:
        """Send a request; retry it after a pause if that may help and the retry time is not over."""
        until = self._clock.now() + self._retry_s
        failures = 0
        while True:
            answer: Answer | None = None
            failure: Exception | None = None
            try:
                answer = self._once(method, path, body, headers or {}, timeout_s)
                wait = _retry_after(answer) if answer.status in RETRIED else None
                if wait is None:
                    return answer
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                failure, wait = error, 0.0
            failures += 1
            wait = max(wait, backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S, failures, random.random()))
            if not repeatable or self._clock.now() + wait > until:
                if answer is not None:
                    return answer
                raise NotReachable(f"the gateway does not answer: {failure}", where=self.url) from failure
            self._on_retry(f"HTTP {answer.status}" if answer is not None else str(failure))
            self._clock.sleep(wait)

    def _once(self, method: str, path: str, body: bytes | None, extra: Mapping[str, str], timeout_s: float) -> Answer:
        connection = self._connection
        kept = connection.sock is not None
        connection.timeout = timeout_s
        if connection.sock is not None:
            connection.sock.settimeout(timeout_s)
        headers = {**self._headers, **extra}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, f"{self._base}{path}", body, headers)
            response = connection.getresponse()
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            # The server closed an idle connection: nothing was answered, so send the request on a new one.
            connection.close()
            if not kept:
                raise
            connection.request(method, f"{self._base}{path}", body, headers)
            response = connection.getresponse()
        raw = response.read()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, names, _decoded(raw))


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _decoded(raw: bytes) -> Any:
    try:
        return json.loads(raw) if raw else None
    except ValueError:
        return raw.decode(errors="replace")


def _retry_after(answer: Answer) -> float:
    """Return the seconds that the answer asks to wait; 0 for a date, which the gateway never sends."""
    text = answer.headers.get("retry-after", "")
    return float(text) if text.isdecimal() else 0.0
