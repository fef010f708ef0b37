"""Ports on the loopback address for servers that are about to start: parts of the local stack, and servers in tests."""

from __future__ import annotations

import os
import random
import socket
from collections import deque
from collections.abc import Collection

from headrace.errors import ConfigurationError

LOOPBACK = "127.0.0.1"
PORTS = range(20000, 32768)
"""Below the ports that Linux uses for outgoing connections. In that range, a client that keeps trying to reach a
stopped server would sooner or later be connected to itself, and occupy the server's port."""
_MOST_HELD = 64
_held: deque[int] = deque()
"""File descriptors of the held ports; those that are left are closed when the process ends."""


def free_port(avoid: Collection[int] = ()) -> int:
    """Return a port without a listener that was not given to another process a moment ago.

    The port stays bound, without a listener, until many more were requested, so other callers get other ports. The
    server can still listen on it, because servers on Linux allow addresses to be reused (SO_REUSEADDR). Raises
    :class:`ConfigurationError` if no port is free.
    """
    for port in random.sample(PORTS, len(PORTS)):
        if port not in avoid and _hold(port, reuse=False):
            return port
    raise ConfigurationError(f"no port from {PORTS.start} to {PORTS.stop - 1} is free", where=LOOPBACK)


def claim(port: int) -> bool:
    """Hold a port that the caller used before, as :func:`free_port` does; return False if a program listens on it."""
    return _hold(port, reuse=True)  # a connection of the previous server may still be closing


def _hold(port: int, *, reuse: bool) -> bool:
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(reuse))
    try:
        holder.bind(
            (LOOPBACK, port)
        )  # without this option, it fails if another socket is bound, even without a listener
    except OSError:
        holder.close()
        return False
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _held.append(holder.detach())
    if len(_held) > _MOST_HELD:
        os.close(_held.popleft())
    return True
