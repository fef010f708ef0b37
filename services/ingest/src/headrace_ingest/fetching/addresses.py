"""Checks hosts and networks against the allow-lists. A connection uses exactly the address that was checked."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import httpcore

from headrace.errors import ConfigurationError, TemporaryError, describe
from headrace_ingest.fetching.outcomes import ForbiddenReference
from headrace_ingest.fetching.references import PORTS, WebAddress, host_and_port

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns all addresses of a name; raises OSError if it has none or the lookup fails."""

_MOST_ADDRESSES = 8
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_NEVER_V4 = (IPv4Network("192.0.0.0/24"), IPv4Network("192.88.99.0/24"))
_NEVER_V6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments, including Teredo, which embeds an IPv4 address
        "2001:db8::/32",
        "2002::/16",  # 6to4: embeds an IPv4 address
        "3fff::/20",
    )
)
"""Not public, although Python 3.11 treats some of them as public."""


class Hosts:
    """The allow-list of hosts; raises :class:`ConfigurationError` for an invalid entry."""

    def __init__(self, listed: str) -> None:
        entries = [_entry(text.strip()) for text in listed.split(",") if text.strip()]
        self._exact = {(host, port) for host, port, below in entries if not below}
        self._below = {(host, port) for host, port, below in entries if below}

    def check(self, address: WebAddress) -> None:
        """Raise :class:`ForbiddenReference` for other hosts and ports. An entry without a port means the default."""
        port = None if address.port == PORTS[address.scheme] else address.port
        labels = address.host.split(".")
        suffixes = {".".join(labels[start:]) for start in range(1, len(labels))}
        for ports in {port, address.port}:
            if (address.host, ports) in self._exact or any((suffix, ports) in self._below for suffix in suffixes):
                return
        raise ForbiddenReference(f"{address.authority} is not in HEADRACE_FETCH_HOSTS")


def _entry(text: str) -> tuple[str, int | None, bool]:
    below = text.startswith("*.")
    try:
        host, port = host_and_port(text.removeprefix("*."))
    except ForbiddenReference as error:
        raise ConfigurationError(
            f"invalid host {text!r}: {error.reason}", where="HEADRACE_FETCH_HOSTS",
            remedy="Use hosts such as docs.example.org, *.example.org or docs.example.org:8443, separated by commas.",
        ) from error  # fmt: skip
    return host, port, below


class AddressRule:
    """Allows public addresses, and the addresses of networks that the operator lists."""

    def __init__(self, internal: str) -> None:
        self._internal = [_network(text.strip()) for text in internal.split(",") if text.strip()]

    def checked(self, text: str) -> str:
        """Return the address to connect to; raises :class:`ForbiddenReference`."""
        try:
            address = ip_address(text)
        except ValueError as error:
            raise ForbiddenReference(f"{text!r:.100} is not an IP address") from error
        if isinstance(address, IPv6Address):
            if address.scope_id is not None:
                raise ForbiddenReference(f"{text} has a zone ID")
            address = address.ipv4_mapped or address
        if address.is_unspecified or address.is_multicast:
            raise ForbiddenReference(f"{address} is an unspecified or multicast address")
        if not any(address in network for network in self._internal) and not _public(address):
            raise ForbiddenReference(f"{address} is neither public nor in HEADRACE_FETCH_INTERNAL")
        return str(address)


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise ConfigurationError(
            f"invalid network {text!r}: {error}", where="HEADRACE_FETCH_INTERNAL",
            remedy="Use networks such as 10.1.0.0/16, separated by commas.",
        ) from error  # fmt: skip


def _public(address: IPv4Address | IPv6Address) -> bool:
    """Return whether the address is public. An embedded IPv4 address decides for the IPv6 address around it."""
    if address.is_multicast or not (address.is_global or (address.version == 6 and address in _NAT64)):
        return False
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NEVER_V4)
    if address in _NAT64:
        return _public(IPv4Address(int(address) & 0xFFFFFFFF))
    return address in _GLOBAL_UNICAST and not any(address in network for network in _NEVER_V6)


async def resolve(host: str, port: int) -> Sequence[str]:
    """Return the addresses of the name from the system's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """Makes every connection: resolves the name once, checks all of its addresses, and connects to one of them.

    TLS and the header ``Host`` keep the name, because the layer above takes them from the URL. The base class supports
    no other way to connect.
    """

    def __init__(self, rule: AddressRule, resolver: Resolve) -> None:
        self._rule = rule
        self._resolve = resolver
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the library's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address that answers; raises :class:`ForbiddenReference` if any is not allowed."""
        failure: Exception | None = None
        for address in (await self._addresses(host, port))[:_MOST_ADDRESSES]:
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure or httpcore.ConnectError("the host name has no address")

    async def _addresses(self, host: str, port: int) -> list[str]:
        try:
            return [self._rule.checked(str(ip_address(host)))]
        except ValueError:
            pass
        try:
            found = await self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise TemporaryError(
                f"{host} does not resolve: {describe(error)}",
                remedy="Check the host name and the resolver, then run `headrace dlq redrive`.",
            ) from error
        try:
            return list(dict.fromkeys(self._rule.checked(address) for address in found))
        except ForbiddenReference as error:
            raise ForbiddenReference(f"{host} resolves to an address that is not allowed: {error.reason}") from error
