"""Where references may not lead, files below folders, and objects of buckets."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import pytest
from structlog.testing import capture_logs

from headrace.errors import ConfigurationError, HeadraceError, TemporaryError
from headrace_ingest.fetching import Fetched, Fetcher, FetchSettings, ForbiddenReference, ReferenceGone, Unfetchable
from headrace_ingest.fetching.addresses import AddressRule
from headrace_ingest.fetching.outcomes import shown

pytestmark = pytest.mark.unit

Refusal = TypeVar("Refusal", bound=HeadraceError)
LITERALS = "127.0.0.1,169.254.169.254,10.0.0.1,0.0.0.0,[::1],[::],[::ffff:10.0.0.1],[fd00:ec2::254],[fe80::1]"


async def inside(host: str, _port: int) -> Sequence[str]:
    """Answer as a resolver does that an attacker's zone, or the cloud's own, has something to say to."""
    known = {"public.test": "8.8.8.8", "metadata.google.internal": "169.254.169.254", "localhost": "127.0.0.1"}
    return [known.get(host, "10.0.0.1")]


async def fetched(reference: str, **settings: Any) -> Fetched:
    """Fetch once, with these settings and nothing else allowed."""
    fetcher = Fetcher(FetchSettings(**{"timeout_s": 5, **settings}), resolver=inside)
    try:
        return await fetcher.fetch(reference)
    finally:
        await fetcher.close()


async def refused(reference: str, error: type[Refusal], match: str, **settings: Any) -> Refusal:
    """Return the error that a fetch must end with."""
    with pytest.raises(error, match=match) as caught:
        await fetched(reference, **settings)
    return caught.value


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("http://127.0.0.1", "127.0.0.1 is neither public nor in HEADRACE_FETCH_INTERNAL"),
        ("https://[::1]/", "::1 is neither public nor in HEADRACE_FETCH_INTERNAL"),
        ("https://[0:0:0:0:0:0:0:1]/", "::1 is neither public nor in HEADRACE_FETCH_INTERNAL"),
        ("https://[::]/", "is an unspecified or multicast address"),
        ("https://0.0.0.0/", "is an unspecified or multicast address"),
        ("https://[::ffff:10.0.0.1]/", "10.0.0.1 is neither public nor in HEADRACE_FETCH_INTERNAL"),
        ("https://[::ffff:a00:1]/", "10.0.0.1 is neither public nor in HEADRACE_FETCH_INTERNAL"),
        ("https://[fd00:ec2::254]/", "neither public nor"),
        ("https://[fe80::1]/", "neither public nor"),
        ("https://[fe80::1%25eth0]/", "zone"),
        ("https://[fe80::1%eth0]/", "zone"),
        (
            "https://169.254.169.254/latest/meta-data/",
            "169.254.169.254 is neither public nor in HEADRACE_FETCH_INTERNAL",
        ),
        ("https://0x7f000001/", "not an IPv4 address in dotted decimal notation"),
        ("https://0x7f.1/", "not an IPv4 address in dotted decimal notation"),
        ("https://2130706433/", "not an IPv4 address in dotted decimal notation"),
        ("https://017700000001/", "not an IPv4 address in dotted decimal notation"),
        ("https://0177.0.0.1/", "not an IPv4 address in dotted decimal notation"),
        ("https://127.1/", "not an IPv4 address in dotted decimal notation"),
        ("https://127。0。0。1/", "127.0.0.1 is neither public nor in HEADRACE_FETCH_INTERNAL"),
        ("https://１２７.0.0.1/", "127.0.0.1 is neither public nor in HEADRACE_FETCH_INTERNAL"),
        ("https://①②⑦.0.0.1/", "127.0.0.1 is neither public nor in HEADRACE_FETCH_INTERNAL"),
        ("https://metadata.google.internal/", "169.254.169.254 is neither public nor in HEADRACE_FETCH_INTERNAL"),
        ("https://localhost/", "127.0.0.1 is neither public nor in HEADRACE_FETCH_INTERNAL"),
        ("https://localhost./", "not a valid host name"),
        ("https://inside.allowed.test/", "10.0.0.1 is neither public nor in HEADRACE_FETCH_INTERNAL"),
        ("https://inside.allowed.test./", "not a valid host name"),
        ("https://allowed.test/", "not in HEADRACE_FETCH_HOSTS"),
        ("https://notallowed.test/", "not in HEADRACE_FETCH_HOSTS"),
        ("https://public.test.evil.test/", "not in HEADRACE_FETCH_HOSTS"),
        ("https://рublic.test/", "xn--.*[.]test is not in"),
        ("https://pub\u00adlic.test.evil.test/", "public.test.evil.test is not in"),
        ("https://xn--/\u202e", "not a valid host name"),
        ("https://public.test:22/", "public.test:22 is not in"),
        ("https://public.test:80/", "public.test:80 is not in"),
        ("http://public.test:443/", "public.test:443 is not in"),
        ("https://public.test:0/", "invalid port 0"),
        ("https://public.test:65536/", "invalid port 65536"),
        ("https://public.test:/", "malformed"),
        ("https://public.test:٤٤٣/", "malformed"),
        ("https://public.test:443:22/", "malformed"),
        ("https:///path", "malformed"),
        ("https://[::1/", "malformed"),
        ("https://public.test@127.0.0.1/", "credentials"),
        ("https://user:pass@public.test/", "credentials"),
        ("https://127.0.0.1\\@public.test/", "backslash"),
        ("https:\\\\127.0.0.1/", "backslash"),
        ("https://public.test%2f@127.0.0.1/", "credentials"),
        ("https://127.0.0.1%2f.public.test/", "not a valid host name"),
        ("https://127.0.0.1#@public.test/", "127.0.0.1 is neither public nor in HEADRACE_FETCH_INTERNAL"),
        ("https://127.0.0.1?@public.test/", "127.0.0.1 is neither public nor in HEADRACE_FETCH_INTERNAL"),
        ("https://public.test\r\nHost: x/", "control characters"),
        ("https://public.test/\x00", "control characters"),
        ("https://public.test/\ud800", "control characters"),
        ("https://public.test /", "space"),
        (" https://public.test/", "is not a URL"),
        ("https://public.test/" + "a" * 4096, "4116 characters"),
        ("https:public.test", "is not a URL"),
        ("//public.test/", "is not a URL"),
        ("", "is not a URL"),
        ("ftp://public.test/", "scheme 'ftp'"),
        ("gopher://127.0.0.1:6379/_x", "scheme 'gopher'"),
        ("data://text/plain,x", "scheme 'data'"),
        ("jar:https://public.test/!/", "is not a URL"),
    ],
)
async def test_hostile_references_are_refused_and_put_on_record(reference: str, reason: str) -> None:
    """Broken: a change event makes ingest read from the machine itself, the cloud's metadata or the network inside."""
    hosts = f"{LITERALS},public.test,*.allowed.test,metadata.google.internal,localhost"
    with capture_logs() as lines:
        caught = await refused(reference, ForbiddenReference, reason, hosts=hosts, plain_http=True)
    assert caught.code == "forbidden-reference"
    assert [(line["event"], line["log_level"]) for line in lines] == [("fetch refused", "warning")]
    assert (lines[0]["reference"], lines[0]["reason"]) == (shown(reference), caught.reason)


async def test_nothing_is_fetched_unless_it_is_allowed(tmp_path: Path) -> None:
    """Broken: a worker without settings reads what events name."""
    (tmp_path / "a").write_text("x")
    await refused("https://public.test/", ForbiddenReference, "HEADRACE_FETCH_HOSTS")
    await refused("http://public.test/", ForbiddenReference, "HEADRACE_FETCH_PLAIN_HTTP", hosts="public.test")
    await refused("s3://bucket/key", ForbiddenReference, "HEADRACE_FETCH_BUCKETS")
    await refused(f"file://{tmp_path}/a", ForbiddenReference, "HEADRACE_FETCH_FOLDERS")


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("https://user:secret@host/a?token=secret#secret", "https://host/a"),
        ("https://user:pa/secret@host/a", "https://host/a"),
        ("secret@host", "host"),
        ("https://host/@name/a", "https://host/@name/a"),
        ("https://host/\x1b[31m\n", "https://host/\\x1b[31m\\x0a"),
        ("https://host/" + "a" * 5000, "https://host/" + "a" * 287 + "…"),
    ],
)
def test_what_is_shown_of_a_reference_holds_no_secret(reference: str, expected: str) -> None:
    """Broken: credentials or a signed query stand in the log and in the dead letter, or an event forges a line."""
    assert shown(reference) == expected


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "127.0.0.1", "169.254.0.1", "172.16.0.1", "172.31.255.255",
        "192.0.0.1", "192.0.0.9", "192.0.2.1", "192.88.99.1", "192.168.0.1", "198.18.0.1", "198.51.100.1",
        "203.0.113.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "::", "::1", "::10.0.0.1",
        "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:0:10.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::7f00:1",
        "64:ff9b:1::1", "100::1", "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:db8::1", "2002:7f00:1::1",
        "2002:808:808::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1",
        "ff0e::1", "fe80::1%eth0", "2606:4700::1%1", "10.0.0", "nonsense",
    ],
)  # fmt: skip
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    """Broken: Python 3.11 takes multicast, site-local, 6to4 and NAT64 for global, and so would ingest."""
    with pytest.raises(ForbiddenReference):
        AddressRule("").checked(address)


@pytest.mark.parametrize(
    ("address", "connected"),
    [
        ("8.8.8.8", "8.8.8.8"), ("::ffff:8.8.8.8", "8.8.8.8"), ("2606:4700:4700::1111", "2606:4700:4700::1111"),
        ("64:ff9b::8.8.8.8", "64:ff9b::808:808"), ("10.1.2.3", "10.1.2.3"), ("::ffff:10.1.2.3", "10.1.2.3"),
        ("fd00:1::5", "fd00:1::5"),
    ],
)  # fmt: skip
def test_public_addresses_and_named_networks_are_allowed(address: str, connected: str) -> None:
    """Broken: nothing can be fetched, or the network inside that the operator named is refused."""
    assert AddressRule("10.1.0.0/16, fd00:1::/32").checked(address) == connected


def test_networks_named_allow_no_more_than_themselves() -> None:
    """Broken: one internal network opens its neighbours, or the address that means the machine itself."""
    rule = AddressRule("10.1.0.0/16")
    for address in ("10.2.0.1", "127.0.0.1", "64:ff9b::10.1.0.1"):
        with pytest.raises(ForbiddenReference, match="neither public nor"):
            rule.checked(address)
    with pytest.raises(ForbiddenReference, match="unspecified or multicast"):
        AddressRule("0.0.0.0/0").checked("0.0.0.0")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file, beside one that is not allowed."""
    (tmp_path / "docs" / "inner").mkdir(parents=True)
    (tmp_path / "docs" / "inner" / "a b?.txt").write_bytes(b"inside")
    (tmp_path / "docs-2").mkdir()
    (tmp_path / "docs-2" / "secret").write_bytes(b"outside")
    (tmp_path / "linked").symlink_to(tmp_path / "docs")
    return tmp_path / "docs"


@pytest.mark.parametrize("allowed", ["docs", "linked", "nothing:docs", "nothing, docs"])
async def test_a_file_below_an_allowed_folder_is_read(folder: Path, allowed: str) -> None:
    """Broken: escapes in the path are not decoded, or a folder that is a link itself allows nothing."""
    folders = allowed.replace("docs", str(folder)).replace("linked", str(folder.parent / "linked"))
    folders = folders.replace("nothing", "/nothing")
    for host in ("", "localhost"):
        found = await fetched(f"file://{host}{folder}/inner/a%20b%3f.txt", folders=folders)
        assert found == Fetched(b"inside")


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("file:///etc/passwd", "not below a folder"),
        ("file:///proc/self/environ", "not below a folder"),
        ("file:///dev/zero", "not below a folder"),
        ("file://{folder}/../docs-2/secret", "not below a folder"),
        ("file://{folder}/inner/%2e%2e/%2E%2E/docs-2/secret", "not below a folder"),
        ("file://{folder}/..%2Fdocs-2%2fsecret", "not below a folder"),
        ("file://{folder}-2/secret", "not below a folder"),
        ("file://{folder}", "not below a folder"),
        ("file://{folder}/link", "not below a folder"),
        ("file://{folder}/folder-link/secret", "not below a folder"),
        ("file://{folder}/proc-link", "not below a folder"),
        ("file://{folder}/inner", "not a regular file"),
        ("file://{folder}/pipe", "not a regular file"),
        ("file://{folder}/circle", "not a regular file"),
        ("file://../etc/passwd", "must not name another host"),
        ("file://server/share", "must not name another host"),
        ("file://{folder}/a%00b", "must be absolute"),
        ("file://localhost", "must be absolute"),
        ("file://{folder}/a?b", "no query"),
        ("file:/etc/passwd", "is not a URL"),
    ],
)
async def test_no_other_file_is_read(folder: Path, reference: str, reason: str) -> None:
    """Broken: a path or a link leads out of the folder, or a pipe or device holds the worker."""
    (folder / "link").symlink_to(folder.parent / "docs-2" / "secret")
    (folder / "folder-link").symlink_to(folder.parent / "docs-2")
    (folder / "proc-link").symlink_to("/proc/self/environ")
    (folder / "circle").symlink_to(folder / "circle")
    os.mkfifo(folder / "pipe")
    await refused(reference.format(folder=folder), ForbiddenReference, reason, folders=str(folder))


async def test_devices_are_refused_even_in_an_allowed_folder() -> None:
    """Broken: /dev/zero below an allowed folder is read up to the limit."""
    await refused("file:///dev/zero", ForbiddenReference, "not a regular file", folders="/dev")


async def test_a_file_without_honest_size_stops_at_the_limit() -> None:
    """Broken: a file of /proc, which says it has no bytes, is read without end."""
    await refused("file:///proc/cpuinfo", Unfetchable, "too many bytes; the limit is 10", folders="/proc", max_bytes=10)


async def test_a_file_that_is_missing_or_too_large_says_so(folder: Path) -> None:
    """Broken: a missing file is tried for hours; an unmounted folder gives up every document that refers into it."""
    allowed = str(folder)
    await refused(f"file://{folder}/none", ReferenceGone, "the file does not exist", folders=allowed)
    await refused(f"file://{folder}/inner/a%20b%3f.txt/c", ReferenceGone, "the file does not exist", folders=allowed)
    await refused(f"file://{folder}/{'a' * 300}", ReferenceGone, "the file does not exist", folders=allowed)
    await refused(
        f"file://{folder}/inner/a%20b%3f.txt", Unfetchable, "6 bytes; the limit is 5", folders=allowed, max_bytes=5
    )
    await refused(f"file://{folder}/gone/a", TemporaryError, "cannot open the folder", folders=f"{folder}/gone")


class FakeS3(ThreadingHTTPServer):
    """Serves objects of one bucket, by path as S3 does."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Message]] = []
        self.objects: dict[str, tuple[int, bytes, dict[str, str]]] = {}
        super().__init__(("127.0.0.1", 0), FakeS3Handler)
        self.daemon_threads = True
        Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


class FakeS3Handler(BaseHTTPRequestHandler):
    """One request."""

    server: FakeS3

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers))
        status, body, headers = self.server.objects.get(self.path, (404, b"<Error><Code>NoSuchKey</Code></Error>", {}))
        self.send_response(status)
        stated = {"Content-Length": str(len(body)), "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT", "ETag": '"e"'}
        for name, value in {**stated, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeS3]:
    """Run the service for the length of a test, without the machine's own settings of S3."""
    for name in [name for name in os.environ if name.startswith("AWS_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    server = FakeS3()
    yield server
    server.shutdown()
    server.server_close()


def s3_settings(server: FakeS3, **others: object) -> dict[str, object]:
    """Return settings that allow one whole bucket and one folder of another."""
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    settings = {
        "buckets": "docs, team/public",
        "s3_endpoint": endpoint,
        "s3_allow_http": True,
        "s3_region": "eu-west-1",
    }
    return {**settings, "s3_access_key_id": "key-id", "s3_secret_access_key": "hidden", **others}


async def test_an_object_arrives_with_its_type(s3: FakeS3) -> None:
    """Broken: key, type or signature differ from what the service has and asks for."""
    s3.objects["/docs/a%20b/c.pdf"] = (200, b"pdf" * 1_000_000, {"Content-Type": "application/pdf; charset=utf-8"})
    found = await fetched("s3://docs/a b/c.pdf", **s3_settings(s3))
    assert found == Fetched(b"pdf" * 1_000_000, "application/pdf", "utf-8")
    assert "Credential=key-id/" in s3.asked[0][1]["Authorization"]
    assert "/eu-west-1/s3/" in s3.asked[0][1]["Authorization"]


async def test_the_settings_go_before_the_environment_of_aws(s3: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a variable meant for another program sends the access key to another service, or spoils the signature."""
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1", "AWS_REGION": "x",
        "AWS_ACCESS_KEY_ID": "other", "AWS_SECRET_ACCESS_KEY": "other", "AWS_SESSION_TOKEN": "other",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    s3.objects["/docs/a"] = (200, b"x", {})
    assert (await fetched("s3://docs/a", **s3_settings(s3))).data == b"x"
    headers = s3.asked[0][1]
    assert "Credential=key-id/" in headers["Authorization"]
    assert "/eu-west-1/s3/" in headers["Authorization"]
    assert headers["X-Amz-Security-Token"] is None


@pytest.mark.parametrize(
    "reference",
    [
        "s3://other/a", "s3://team/private/a", "s3://team/public", "s3://team/public2/a", "s3://team/public/../private/a",
        "s3://team/public/%2e%2e/private/a", "s3://docs/../other/a", "s3://docs/./a", "s3://docs//a", "s3://docs/",
        "s3://docs", "s3://Docs/a", "s3://docs:80/a", "s3://user@docs/a", "s3://docs/a?versionId=1", "s3://docs/a#b",
        "s3://127.0.0.1/a", "s3:///docs/a",
    ],
)  # fmt: skip
async def test_no_other_bucket_or_folder_is_read(s3: FakeS3, reference: str) -> None:
    """Broken: an event reads what the access key may read and the operator did not name."""
    await refused(reference, ForbiddenReference, "reference refused", **s3_settings(s3))
    assert s3.asked == []


@pytest.mark.parametrize(
    ("status", "headers", "error", "match"),
    [
        (404, {}, ReferenceGone, "the object or its bucket does not exist"),
        (403, {}, Unfetchable, "rejected the access key"),
        (401, {}, Unfetchable, "rejected the access key"),
        (503, {}, TemporaryError, "cannot read from"),
        (200, {"Content-Encoding": "gzip"}, Unfetchable, "compressed"),
        (200, {"Content-Length": "11"}, Unfetchable, "11 bytes; the limit is 10"),
        (200, {"Content-Length": "9"}, TemporaryError, "cannot read from"),
    ],
)
async def test_what_s3_answers_says_whether_it_can_pass(
    s3: FakeS3, status: int, headers: dict[str, str], error: type[HeadraceError], match: str
) -> None:
    """Broken: a missing object is tried for hours, an outage gives documents up, half an object passes for a whole."""
    s3.objects["/team/public/a"] = (status, b"x" * 6, headers)
    await refused("s3://team/public/a", error, match, **s3_settings(s3, max_bytes=10))


async def test_an_s3_service_that_is_away_is_tried_again(s3: FakeS3) -> None:
    """Broken: a refused connection to the S3 service gives documents up."""
    settings = s3_settings(s3, s3_endpoint="http://127.0.0.1:1")
    await refused("s3://docs/a", TemporaryError, "cannot read from", **settings)


def test_half_an_access_key_is_refused() -> None:
    """Broken: a forgotten secret has ingest ask with the machine's own role instead."""
    with pytest.raises(ConfigurationError, match="an ID and a secret"):
        Fetcher(FetchSettings(buckets="docs", s3_secret_access_key="hidden"))
