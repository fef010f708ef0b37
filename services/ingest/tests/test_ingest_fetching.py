"""Fetching by http and https, from a server of the test's own."""

from __future__ import annotations

import gzip
import re
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any, TypeVar

import pytest

from headrace.errors import ConfigurationError, HeadraceError, PermanentError, TemporaryError
from headrace_ingest.fetching import Fetched, Fetcher, FetchSettings, ForbiddenReference, ReferenceGone, Unfetchable
from headrace_ingest.fetching.addresses import Resolve, resolve

pytestmark = pytest.mark.unit

Refusal = TypeVar("Refusal", bound=HeadraceError)

CERTIFICATE = Path(__file__).with_name("data") / "docs.test.pem"
"""Signed by itself, for docs.test only, until 2126; its key stands in it and protects nothing."""


class QuietServer(ThreadingHTTPServer):
    """Prints nothing when a client goes away."""

    def handle_error(self, request: object, client_address: object) -> None:
        pass


class Server:
    """Answers each path with what was put there, and keeps the headers it was asked with."""

    def __init__(self, tls: bool = False) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.sent = 0
        self.ended = Event()
        self._http = QuietServer(("127.0.0.1", 0), self._handler())
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(CERTIFICATE)
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        self.port: int = self._http.server_address[1]
        Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        """Stop, and end what still sends."""
        self.ended.set()
        self._http.shutdown()
        self._http.server_close()

    def put(self, path: str, body: bytes = b"", status: int = 200, **headers: str) -> None:
        """Answer a path with this; the length is stated unless a header says otherwise."""

        def answer(request: BaseHTTPRequestHandler) -> None:
            request.send_response(status)
            for name, value in {"Content_Length": str(len(body)), **headers}.items():
                request.send_header(name.replace("_", "-"), value)
            request.end_headers()
            request.wfile.write(body)

        self.answers[path] = answer

    def drip(self, path: str, piece: bytes, pause: float) -> None:
        """Answer a path with pieces without end."""

        def answer(request: BaseHTTPRequestHandler) -> None:
            request.send_response(200)
            request.end_headers()
            while not self.ended.wait(pause):
                request.wfile.write(piece)
                self.sent += len(piece)

        self.answers[path] = answer

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                server.answers[self.path](self)
                self.close_connection = True

            def log_message(self, *_args: object) -> None:
                pass

        return Handler


@contextmanager
def serving(tls: bool = False) -> Iterator[Server]:
    """Run a server for the length of a block."""
    server = Server(tls)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def server() -> Iterator[Server]:
    """Run a server without TLS for the length of a test."""
    with serving() as started:
        yield started


async def home(_host: str, _port: int) -> Sequence[str]:
    """Resolve every name to the test's server."""
    return ["127.0.0.1"]


async def fetched(reference: str, resolver: Resolve = home, **settings: Any) -> Fetched:
    """Fetch once; the test's server is allowed unless the settings say otherwise."""
    port = re.search(r":(\d+)", reference.partition("//")[2])
    allowed = f"docs.test:{port[1]},127.0.0.1:{port[1]}" if port else "docs.test"
    defaults = {"hosts": allowed, "internal": "127.0.0.0/8", "plain_http": True, "timeout_s": 5}
    fetcher = Fetcher(FetchSettings(**{**defaults, **settings}), resolver=resolver, now=lambda: 1000.0)
    try:
        return await fetcher.fetch(reference)
    finally:
        await fetcher.close()


async def refused(reference: str, error: type[Refusal], match: str, **settings: Any) -> Refusal:
    """Return the error that a fetch must end with."""
    with pytest.raises(error, match=match) as caught:
        await fetched(reference, **settings)
    return caught.value


async def test_a_file_arrives_with_its_type_and_nothing_but_the_name_is_told(server: Server) -> None:
    """Broken: bytes or type differ from what is served, or the server is asked by address or for a compressed file."""
    server.put("/a%20b.pdf?v=1", b"\x00pdf", Content_Type='Application/PDF; Charset="UTF-8"; x=y')
    found = await fetched(f"http://docs.test:{server.port}/a%20b.pdf?v=1#page=2")
    assert found == Fetched(b"\x00pdf", "application/pdf", "utf-8")
    headers = server.asked[0][1]
    assert (headers["host"], headers["accept-encoding"]) == (f"docs.test:{server.port}", "identity")
    assert not {"cookie", "authorization", "referer"} & set(headers)


@pytest.mark.parametrize(
    ("stated", "media_type", "charset"),
    [
        ("text/html", "text/html", None), ("", None, None), ("nonsense; charset=utf-8", None, "utf-8"),
        ("a/b/c", None, None),
    ],
)  # fmt: skip
async def test_a_type_that_is_none_is_left_out(
    server: Server, stated: str, media_type: str | None, charset: str | None
) -> None:
    """Broken: a malformed Content-Type is handed on as if it were a type, or ends the fetch."""
    server.put("/", b"x", Content_Type=stated)
    assert await fetched(f"http://docs.test:{server.port}") == Fetched(b"x", media_type, charset)


async def test_the_environment_names_no_proxy(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: HTTP_PROXY sends the request elsewhere, past the check of addresses."""
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    server.put("/a", b"direct")
    assert (await fetched(f"http://docs.test:{server.port}/a")).data == b"direct"


async def test_the_address_that_was_checked_is_the_one_that_is_connected_to(server: Server) -> None:
    """Broken: the name is resolved once more for the connection, and then leads inside (DNS rebinding)."""
    asked = []

    async def rebinding(host: str, port: int) -> Sequence[str]:
        asked.append((host, port))
        return ["127.0.0.1"] if len(asked) == 1 else ["10.0.0.1"]

    server.put("/a", b"first")
    assert (await fetched(f"http://docs.test:{server.port}/a", rebinding)).data == b"first"
    assert asked == [("docs.test", server.port)]


async def test_one_address_inside_among_public_ones_refuses_the_name(server: Server) -> None:
    """Broken: a name with a public and a private address is connected to, by whichever comes first."""

    async def mixed(_host: str, _port: int) -> Sequence[str]:
        return ["127.0.0.1", "192.168.1.1"]

    server.put("/a", b"x")
    await refused(
        f"http://docs.test:{server.port}/a",
        ForbiddenReference,
        "192.168.1.1 is neither public nor in HEADRACE_FETCH_INTERNAL",
        resolver=mixed,
    )
    assert server.asked == []


async def test_the_next_address_is_tried_where_one_does_not_answer(server: Server) -> None:
    """Broken: a host with one dead address among several cannot be fetched from."""

    async def two(_host: str, _port: int) -> Sequence[str]:
        return ["127.7.7.7", "127.0.0.1"]

    server.put("/a", b"x")
    assert (await fetched(f"http://docs.test:{server.port}/a", two)).data == b"x"


async def test_a_name_that_does_not_resolve_is_tried_again() -> None:
    """Broken: an outage of the resolver sends documents to the dead letters at once."""

    async def nobody(_host: str, _port: int) -> Sequence[str]:
        raise OSError("no answer")

    await refused("https://docs.test/", TemporaryError, "docs.test does not resolve: no answer", resolver=nobody)


async def test_the_systems_resolver_is_asked_and_checked_like_any_other(server: Server) -> None:
    """Broken: only an injected resolver works, or what the system's own says is not checked."""
    server.put("/a", b"x")
    url, hosts = f"http://localhost:{server.port}/a", f"localhost:{server.port}"
    found = await fetched(url, resolve, hosts=hosts, internal="127.0.0.0/8,::1/128")
    assert found.data == b"x"
    await refused(url, ForbiddenReference, "localhost resolves to", resolver=resolve, hosts=hosts, internal="")


async def test_fetches_that_were_broken_off_hold_no_connection(server: Server) -> None:
    """Broken: a fetch that was refused or broken off leaves the fetcher unable to fetch anything else."""
    server.put("/large", b"x" * 100)
    server.put("/small", b"x")
    settings = FetchSettings(hosts=f"docs.test:{server.port}", internal="127.0.0.0/8", plain_http=True, max_bytes=10)
    fetcher = Fetcher(settings, resolver=home)
    for _ in range(40):
        with pytest.raises(Unfetchable):
            await fetcher.fetch(f"http://docs.test:{server.port}/large")
    assert (await fetcher.fetch(f"http://docs.test:{server.port}/small")).data == b"x"
    await fetcher.close()


@pytest.mark.parametrize(
    ("status", "error", "delay"),
    [
        (404, ReferenceGone, None), (410, ReferenceGone, None), (401, Unfetchable, None), (403, Unfetchable, None),
        (400, Unfetchable, None), (206, Unfetchable, None), (304, Unfetchable, None), (408, TemporaryError, 7),
        (425, TemporaryError, 7), (429, TemporaryError, 7), (500, TemporaryError, 7), (503, TemporaryError, 7),
    ],
)  # fmt: skip
async def test_a_status_says_whether_it_can_pass(
    server: Server, status: int, error: type[HeadraceError], delay: float | None
) -> None:
    """Broken: a missing file is tried for hours, or a busy server's file is dead-lettered; Retry-After is ignored."""
    server.put("/a", b"", status, Retry_After="7")
    caught = await refused(f"http://docs.test:{server.port}/a", error, f"HTTP {status}")
    assert getattr(caught, "delay", None) == delay
    assert isinstance(caught, PermanentError) == (error is not TemporaryError)


async def test_retry_after_may_be_a_date(server: Server) -> None:
    """Broken: a server that names a time instead of seconds is asked again at once."""
    server.put("/a", b"", 503, Retry_After="Thu, 01 Jan 1970 00:17:10 GMT")
    assert (await refused(f"http://docs.test:{server.port}/a", TemporaryError, "503")).delay == 30


async def test_a_refused_connection_is_tried_again() -> None:
    """Broken: a server that restarts costs the documents that refer to it."""
    with serving() as closed:
        port = closed.port
    await refused(f"http://docs.test:{port}/a", TemporaryError, f"cannot fetch from docs.test:{port}: ConnectError")


async def test_redirects_are_followed_as_far_as_allowed(server: Server) -> None:
    """Broken: a relative redirect is lost, or a chain is cut short or followed without end."""
    for step in range(3):
        server.put(f"/{step}", b"", 302, Location=f"{step + 1}")
    server.put("/3", b"end")
    assert (await fetched(f"http://docs.test:{server.port}/0", max_redirects=3)).data == b"end"
    await refused(f"http://docs.test:{server.port}/0", Unfetchable, "more than 2 times", max_redirects=2)


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://127.0.0.1/", "127.0.0.1 is not in HEADRACE_FETCH_HOSTS"),
        ("http://169.254.169.254/latest/meta-data/", "169.254.169.254 is not in HEADRACE_FETCH_HOSTS"),
        ("//inside.test/", "inside.test is not in"),
        ("https://docs.test:8443/", "docs.test:8443 is not in"),
        ("file:///etc/passwd", "a redirect may lead only to https or http, not to 'file'"),
        ("s3://bucket/key", "a redirect may lead only to https or http, not to 's3'"),
        ("gopher://docs.test/", "a redirect may lead only to https or http, not to 'gopher'"),
        ("http://docs.test@127.0.0.1/", "credentials"),
        ("/\\127.0.0.1/", "backslash"),
        ("https://[nonsense/", "is not a URL"),
        ("/" + "a" * 5000, "5[0-9]+ characters"),
    ],
)
async def test_each_redirect_is_checked_anew(server: Server, location: str, reason: str) -> None:
    """Broken: an allowed server, or who can write redirects there, leads ingest wherever it wants."""
    server.put("/a", b"", 302, Location=location)
    await refused(f"http://docs.test:{server.port}/a", ForbiddenReference, f"redirects to .*: .*{reason}")
    assert [path for path, _ in server.asked] == ["/a"]


async def test_a_redirect_to_a_name_that_resolves_inside_is_refused(server: Server) -> None:
    """Broken: the addresses of a redirect's host are not checked."""

    async def split(host: str, _port: int) -> Sequence[str]:
        return ["10.0.0.5"] if host == "inside.test" else ["127.0.0.1"]

    server.put("/a", b"", 302, Location="https://inside.test/")
    hosts = f"docs.test:{server.port},inside.test"
    caught = await refused(
        f"http://docs.test:{server.port}/a",
        ForbiddenReference,
        "10.0.0.5 is neither public nor in HEADRACE_FETCH_INTERNAL",
        hosts=hosts,
        resolver=split,
    )
    assert "redirects to https://inside.test/" in str(caught)


async def test_a_body_stops_at_the_limit(server: Server) -> None:
    """Broken: a body without end fills the memory of the worker."""
    server.drip("/a", b"x" * 65536, 0)
    begun = time.perf_counter()
    await refused(
        f"http://docs.test:{server.port}/a", Unfetchable, "too many bytes; the limit is 100000", max_bytes=100_000
    )
    assert time.perf_counter() - begun < 4
    assert server.sent < 50_000_000


async def test_a_stated_length_above_the_limit_is_not_read(server: Server) -> None:
    """Broken: a file that is said to be too large is read up to the limit all the same."""
    server.put("/a", b"x" * 11, Content_Length="11")
    assert len((await fetched(f"http://docs.test:{server.port}/a", max_bytes=11)).data) == 11
    await refused(f"http://docs.test:{server.port}/a", Unfetchable, "has 11 bytes; the limit is 10", max_bytes=10)


async def test_a_body_shorter_than_stated_is_no_file(server: Server) -> None:
    """Broken: a connection that breaks in the middle gives half a file for a whole one."""
    server.put("/a", b"half", Content_Length="8")
    await refused(f"http://docs.test:{server.port}/a", TemporaryError, "peer closed connection")


async def test_a_body_longer_than_stated_ends_where_stated(server: Server) -> None:
    """Broken: what follows the body is taken for a part of it."""
    server.put("/a", b"12345678", Content_Length="4")
    assert (await fetched(f"http://docs.test:{server.port}/a")).data == b"1234"


async def test_a_compressed_body_is_refused(server: Server) -> None:
    """Broken: a bomb of some kilobytes expands to gigabytes, or compressed bytes pass for the file."""
    server.put("/a", gzip.compress(bytes(10_000_000)), Content_Encoding="gzip")
    await refused(f"http://docs.test:{server.port}/a", Unfetchable, "compressed .Content-Encoding 'gzip'")
    server.put("/a", b"plain", Content_Encoding="identity")
    assert (await fetched(f"http://docs.test:{server.port}/a")).data == b"plain"


async def test_a_body_that_drips_ends_with_the_whole_time(server: Server) -> None:
    """Broken: one byte now and then keeps a worker for hours, because each read is in time."""
    server.drip("/a", b"x", 0.02)
    begun = time.perf_counter()
    await refused(f"http://docs.test:{server.port}/a", TemporaryError, "not fetched within 0.4 s", timeout_s=0.4)
    assert 0.3 < time.perf_counter() - begun < 3


async def test_tls_keeps_the_name_and_a_wrong_certificate_is_refused() -> None:
    """Broken: a certificate for nobody, for somebody else, or for the address instead of the name is good enough."""
    with serving(tls=True) as server:
        server.put("/a", b"safe")
        url = f"https://docs.test:{server.port}/a"
        assert (await fetched(url, ca_file=CERTIFICATE, plain_http=False)).data == b"safe"
        await refused(url, TemporaryError, "CERTIFICATE_VERIFY_FAILED")
        other, by_address = f"https://other.test:{server.port}/a", f"https://127.0.0.1:{server.port}/a"
        await refused(other, TemporaryError, "mismatch", ca_file=CERTIFICATE, hosts=f"other.test:{server.port}")
        await refused(by_address, TemporaryError, "mismatch", ca_file=CERTIFICATE)
        assert len(server.asked) == 1


async def test_https_leads_to_http_only_where_http_is_allowed(server: Server) -> None:
    """Broken: a redirect takes TLS off."""
    server.put("/b", b"plain")
    with serving(tls=True) as safe:
        safe.put("/a", b"", 301, Location=f"http://docs.test:{server.port}/b")
        hosts = f"docs.test:{safe.port},docs.test:{server.port}"
        url = f"https://docs.test:{safe.port}/a"
        await refused(url, ForbiddenReference, "without TLS", ca_file=CERTIFICATE, hosts=hosts, plain_http=False)
        assert server.asked == []
        assert (await fetched(url, ca_file=CERTIFICATE, hosts=hosts)).data == b"plain"


@pytest.mark.parametrize(
    "settings",
    [
        {"hosts": "*"}, {"hosts": "https://docs.test/"}, {"hosts": "docs.test:0"}, {"hosts": "::1"},
        {"internal": "10.1.0.1/16"}, {"internal": "inside"}, {"folders": "docs"}, {"buckets": "/docs"},
        {"buckets": "docs", "s3_access_key_id": "id"}, {"ca_file": Path(__file__)}, {"ca_file": Path("/nowhere")},
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused_at_the_start(settings: dict[str, Any]) -> None:
    """Broken: a misspelt allow-list is found out when the first document is dead-lettered."""
    with pytest.raises(ConfigurationError, match="HEADRACE_FETCH_"):
        Fetcher(FetchSettings(**settings))
