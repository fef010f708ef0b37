"""Ports of the loopback address for servers that start in a moment: the local stack's parts, and those of tests."""

from __future__ import annotations

import os
import random
import socket
from collections import deque
from collections.abc import Collection

from headrace.errors import ConfigurationError

LOOPBACK = "127.0.0.1"
PORTS = range(20000, 32768)
"""Below the ports that Linux gives to outgoing connections: a client that tries again and again to reach a server
that is down would, in that range, sooner or later be connected to itself, and hold the server's port."""
_MOST_HELD = 64
_held: deque[int] = deque()
"""File descriptors of the ports that are held; the process's end closes those that are left."""


def free_port(avoid: Collection[int] = ()) -> int:
    """Return a port without a listener that no process was given a moment ago.

    It stays bound here, without a listener, until many more were asked for: who asks meanwhile is given another. The
    server that it is for can listen on it all the same, since servers on Linux let addresses be used again
    (SO_REUSEADDR). Raises :class:`ConfigurationError` if there is none.
    """
    for port in random.sample(PORTS, len(PORTS)):
        if port not in avoid and _hold(port, reuse=False):
            return port
    raise ConfigurationError(f"no port from {PORTS.start} to {PORTS.stop - 1} is free", where=LOOPBACK)


def claim(port: int) -> bool:
    """Hold a port that the caller had before, as :func:`free_port` does; False if a program listens on it."""
    return _hold(port, reuse=True)  # a connection of the server before may still be closing


def _hold(port: int, *, reuse: bool) -> bool:
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(reuse))
    try:
        holder.bind((LOOPBACK, port))  # without reuse it fails where another is bound, be it without a listener
    except OSError:
        holder.close()
        return False
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _held.append(holder.detach())
    if len(_held) > _MOST_HELD:
        os.close(_held.popleft())
    return True
