"""Ports for servers that start in a moment."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections import deque

import pytest

from headrace.errors import ConfigurationError
from headrace_local import loopback
from headrace_local.loopback import LOOPBACK, PORTS, claim, free_port

pytestmark = pytest.mark.unit
_ASK = """
import json, sys
from headrace_local import loopback
loopback.PORTS = range(*json.loads(sys.argv[1]))
print(loopback.free_port())
"""


def listener(port: int) -> socket.socket:
    """Return a server that lets its address be used again, as servers on Linux do."""
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((LOOPBACK, port))
    server.listen()
    return server


def test_a_chosen_port_is_below_those_of_outgoing_connections_and_a_server_can_have_it() -> None:
    """Broken: a client that reconnects takes the port of the server it looks for, or no server can start."""
    port = free_port()
    assert port in PORTS
    assert PORTS.stop <= 32768
    with listener(port), socket.create_connection((LOOPBACK, port), 5):
        assert not claim(port)


def test_no_port_is_given_twice_before_its_server_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: two stacks that start together take each other's servers for their own."""
    first = free_port()
    narrow = range(first, first + 2)
    monkeypatch.setattr(loopback, "PORTS", narrow)
    ask = [sys.executable, "-c", _ASK, json.dumps([narrow.start, narrow.stop])]
    other = subprocess.run(ask, capture_output=True, text=True, timeout=60, check=True)
    assert int(other.stdout) == first + 1
    assert free_port() == first + 1, "the other process is gone, and what it held is free again"
    with pytest.raises(ConfigurationError, match=f"no port from {first} to {first + 1} is free"):
        free_port()


def test_a_port_to_avoid_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: two parts of one stack are given one port."""
    port = free_port()
    monkeypatch.setattr(loopback, "PORTS", range(port, port + 1))
    monkeypatch.setattr(loopback, "_held", deque[int]())
    with pytest.raises(ConfigurationError):
        free_port({port})


def test_a_port_is_claimed_again_after_its_server_and_kept_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a stack that starts again gets other ports each time, or one that another stack chose."""
    monkeypatch.setattr(loopback, "_held", deque[int]())
    server = listener(0)
    port = server.getsockname()[1]
    client = socket.create_connection((LOOPBACK, port), 5)
    accepted, _ = server.accept()
    for one in (accepted, client, server):  # what closes first waits for a minute for the other's last packets
        one.close()
    assert claim(port)
    monkeypatch.setattr(loopback, "PORTS", range(port, port + 1))
    with pytest.raises(ConfigurationError):
        free_port()
    with listener(port):
        assert not claim(port)


def test_few_sockets_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a process that asks for ports all day runs out of files."""
    monkeypatch.setattr(loopback, "_MOST_HELD", 3)
    monkeypatch.setattr(loopback, "_held", held := deque[int]())
    for _ in range(9):
        free_port()
    assert len(held) == 3
    for descriptor in held:
        os.close(descriptor)
