"""Checks whether a server answers at an address."""

from __future__ import annotations

import socket
import struct
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import psycopg

from headrace_local.model import External, StackError

_API_VERSIONS = struct.pack(">ihhih", 10, 18, 0, 1, -1)
"""Kafka's ApiVersions request, version 0: length, key, version, correlation id, no client id."""


def healthy(health: str | None) -> bool:
    """Whether the health address of a :class:`headrace_local.model.Command` answers; None is always healthy."""
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
        raise _unreachable("the schema registry", external.registry, "GET /subjects did not return status 200")
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
        f"{part} at the given address does not answer: {why}",
        where=where,
        remedy="Start it, correct the address, or omit the setting, so that the local stack starts its own.",
    )


def _host_and_port(server: str) -> tuple[str, int]:
    address = urlsplit(f"//{server.strip().rpartition('://')[2]}")
    try:
        return address.hostname or "", address.port or 9092
    except ValueError:
        return "", 0  # its port is not a number, so it does not answer


def _accepts(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 2).close()
    except OSError:
        return False
    return True


def _speaks_kafka(host: str, port: int) -> bool:
    """Whether a broker answers; its listener accepts connections a moment before it speaks the protocol."""
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
