"""Ports of the loopback address, and whether something answers there."""

from __future__ import annotations

import random
import socket
import struct
import urllib.error
import urllib.request
from collections.abc import Collection
from urllib.parse import urlsplit

import psycopg

from headrace_local.model import External, StackError

LOOPBACK = "127.0.0.1"
PORTS = range(20000, 32768)
"""Below the ports that Linux gives to outgoing connections: a client that tries again and again to reach a server
that is down would, in that range, sooner or later be connected to itself, and hold the server's port."""
_API_VERSIONS = struct.pack(">ihhih", 10, 18, 0, 1, -1)
"""Kafka's ApiVersions request, version 0: length, key, version, correlation id, no client id."""


def free_port(avoid: Collection[int]) -> int:
    """Return a port that nobody listens on; raises :class:`StackError` where there is none."""
    for port in random.sample(PORTS, len(PORTS)):
        if port not in avoid and port_is_free(port):
            return port
    raise StackError(f"no port from {PORTS.start} to {PORTS.stop - 1} is free", where=LOOPBACK)


def port_is_free(port: int) -> bool:
    """Whether nobody listens on the port of the loopback address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def healthy(health: str | None) -> bool:
    """Whether what :class:`headrace_local.model.Command` names as health answers; None is always healthy."""
    if health is None:
        return True
    address = urlsplit(health)
    match address.scheme:
        case "tcp":
            return _accepts(address.hostname or "", address.port or 0)
        case "kafka":
            return _speaks_kafka(address.hostname or "", address.port or 0)
        case _:
            return _answers_200(health)


def require_reachable(external: External) -> None:
    """Raise :class:`StackError` naming the first given system that does not answer."""
    if external.kafka is not None and not accepts_any(external.kafka):
        raise _unreachable("Kafka", external.kafka, "none of its bootstrap servers accepts connections")
    if external.registry is not None and not _answers_200(f"{external.registry.rstrip('/')}/subjects"):
        raise _unreachable("the schema registry", external.registry, "GET /subjects does not answer 200")
    if external.postgres is not None:
        try:
            psycopg.connect(external.postgres, connect_timeout=5).close()
        except psycopg.OperationalError as error:
            place = urlsplit(external.postgres)
            raise _unreachable("PostgreSQL", f"{place.hostname}:{place.port or 5432}", str(error)) from error


def accepts_any(servers: str) -> bool:
    """Whether one of the bootstrap servers, separated by commas, accepts connections."""
    return any(_accepts(*_host_and_port(server)) for server in servers.split(","))


def _unreachable(part: str, where: str, why: str) -> StackError:
    return StackError(
        f"{part} was given by its address and does not answer: {why}",
        where=where,
        remedy="Start it, correct the address, or leave the setting out to have the local stack start its own.",
    )


def _host_and_port(server: str) -> tuple[str, int]:
    address = urlsplit(f"//{server.strip().rpartition('://')[2]}")
    return address.hostname or "", address.port or 9092


def _accepts(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 2).close()
    except OSError:
        return False
    return True


def _speaks_kafka(host: str, port: int) -> bool:
    """Whether a broker answers there; its listener accepts a moment before it does."""
    try:
        with socket.create_connection((host, port), 2) as connection:
            connection.sendall(_API_VERSIONS)
            head = connection.recv(10, socket.MSG_WAITALL)
    except OSError:
        return False
    return len(head) == 10 and struct.unpack(">iih", head)[1:] == (1, 0)


def _answers_200(url: str) -> bool:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=3) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError, ValueError):
        return False
