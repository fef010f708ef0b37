"""Fetches files by http and https. It follows redirects itself and checks each one like a new reference."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from urllib.parse import urljoin

import httpcore

from headrace.codec.retry_after import retry_after
from headrace.errors import ConfigurationError, TemporaryError, describe
from headrace_ingest.fetching.addresses import AddressRule, CheckedBackend, Hosts, Resolve
from headrace_ingest.fetching.outcomes import (
    Fetched,
    ForbiddenReference,
    ReferenceGone,
    Unfetchable,
    check_encoding,
    media_type_of,
    shown,
    too_large,
)
from headrace_ingest.fetching.references import PORTS, Reference, WebAddress, parse, web_address
from headrace_ingest.fetching.settings import FetchSettings

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PASSING = frozenset({408, 425, 429})
_GONE = frozenset({404, 410})
_HEADERS = (("Accept", "*/*"), ("Accept-Encoding", "identity"), ("User-Agent", "headrace-ingest"))
_CONNECTIONS = 32
_IDLE_S = 15.0


class Web:
    """Fetches by http and https from allowed hosts, without proxies, cookies or credentials from the environment."""

    def __init__(self, settings: FetchSettings, resolver: Resolve, now: Callable[[], float]) -> None:
        self._settings = settings
        self._now = now
        self._hosts = Hosts(settings.hosts)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=_ssl_context(settings), max_connections=_CONNECTIONS, keepalive_expiry=_IDLE_S,
            network_backend=CheckedBackend(AddressRule(settings.internal), resolver),
        )  # fmt: skip

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.aclose()

    async def fetch(self, reference: Reference) -> Fetched:
        """Return the file; raises the errors of :meth:`headrace_ingest.fetching.Fetcher.fetch`."""
        address = self._checked(reference)
        found = await self._get(address)
        for _ in range(self._settings.max_redirects):
            if isinstance(found, Fetched):
                return found
            try:
                address = self._checked(parse(_joined(address, found)))
                found = await self._get(address)
            except ForbiddenReference as error:
                reason = f"it redirects to {shown(str(found))}: {error.reason}"
                raise ForbiddenReference(reason) from error
        if isinstance(found, Fetched):
            return found
        raise Unfetchable(
            f"the reference redirects more than {self._settings.max_redirects} times",
            remedy="Send the final address instead, or raise HEADRACE_FETCH_MAX_REDIRECTS.",
        )

    def _checked(self, reference: Reference) -> WebAddress:
        if reference.scheme not in PORTS:
            raise ForbiddenReference(f"a redirect may lead only to https or http, not to {reference.scheme!r:.50}")
        if reference.scheme == "http" and not self._settings.plain_http:
            raise ForbiddenReference("http without TLS is not allowed (HEADRACE_FETCH_PLAIN_HTTP)")
        address = web_address(reference)
        self._hosts.check(address)
        return address

    async def _get(self, address: WebAddress) -> Fetched | str:
        """Return the file, or the target of a redirect."""
        url = httpcore.URL(
            scheme=address.scheme.encode(), host=address.host.encode(), port=address.port,
            target=address.target.encode(),
        )  # fmt: skip
        headers = [("Host", address.authority), *_HEADERS]
        longest = self._settings.timeout_s
        waits = {"connect": self._settings.connect_timeout_s, "read": longest, "write": longest, "pool": longest}
        try:
            async with self._pool.stream("GET", url, headers=headers, extensions={"timeout": waits}) as response:
                return await self._answer(response, address)
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.RemoteProtocolError, OSError) as error:
            raise TemporaryError(
                f"cannot fetch from {address.authority}: {type(error).__name__}: {describe(error)}",
                remedy="Check the server and the network, then run `headrace dlq redrive`.",
            ) from error
        except httpcore.LocalProtocolError as error:
            raise Unfetchable(f"cannot send a request for the reference: {describe(error)}") from error

    async def _answer(self, response: httpcore.Response, address: WebAddress) -> Fetched | str:
        headers: dict[str, str] = {}
        for raw_name, raw_value in response.headers:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        status = response.status
        if status in _REDIRECTS and "location" in headers:
            return headers["location"].encode("latin-1").decode(errors="surrogateescape")
        said = f"{address.authority} returned HTTP {status}"
        if status in _PASSING or status >= 500:
            raise TemporaryError(said, delay=retry_after(headers.get("retry-after"), self._now))
        if status in _GONE:
            raise ReferenceGone(said)
        if status != 200:
            raise Unfetchable(said)
        check_encoding(headers.get("content-encoding", ""))
        media_type, charset = media_type_of(headers.get("content-type"))
        return Fetched(await self._body(response, headers.get("content-length")), media_type, charset)

    async def _body(self, response: httpcore.Response, stated: str | None) -> bytes:
        limit = self._settings.max_bytes
        if stated is not None and stated.isdigit() and int(stated) > limit:
            raise too_large(int(stated), limit)
        data = bytearray()
        async for part in response.aiter_stream():
            data += part
            if len(data) > limit:
                raise too_large(None, limit)
        return bytes(data)


def _joined(address: WebAddress, location: str) -> str:
    try:
        return urljoin(str(address), location)
    except ValueError as error:
        raise ForbiddenReference("it is not a URL") from error


def _ssl_context(settings: FetchSettings) -> ssl.SSLContext:
    context = httpcore.default_ssl_context()
    if settings.ca_file is not None:
        try:
            context.load_verify_locations(settings.ca_file)
        except OSError as error:
            raise ConfigurationError(
                f"cannot load certificates from {settings.ca_file}: {describe(error)}", where="HEADRACE_FETCH_CA_FILE",
                remedy="Name a PEM file of certificates that ingest can read.",
            ) from error  # fmt: skip
    return context
