"""A TCP proxy on loopback that disturbs connections: cuts, delays, resets, lost replies, a held Kafka request."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

END_TXN = 26
"""Kafka's API key of the request that commits or aborts a transaction."""
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with a time of 0: closing the socket sends RST."""


@dataclass(slots=True)
class Held:
    """One request that is held back, with everything that follows it on its connection."""

    api_key: int
    caught: threading.Event = field(default_factory=threading.Event)
    """Set when the request has arrived."""
    released: threading.Event = field(default_factory=threading.Event)
    """Set it to forward the request, even if its client has disconnected long ago."""


@dataclass(slots=True, eq=False)
class _Pair:
    """The two sides of a connection; while ``mute``, the server's next reply is dropped."""

    client: socket.socket
    server: socket.socket
    mute: bool = False


class Proxy:
    """Forwards ``127.0.0.1:port`` to ``host:port``; each disturbance lasts until it is undone."""

    def __init__(self, host: str, port: int, chance: random.Random | None = None) -> None:
        self._target = (host, port)
        self._chance = chance or random.Random()
        self._open: set[_Pair] = set()
        self._guard = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._down = False
        self._delay_s = 0.0
        self._reset_share = 0.0
        self._lose: bytes | None = None
        self._held: Held | None = None
        self.disturbed = 0
        """Number of resets and lost replies."""
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def cut(self) -> None:
        """Close every connection and refuse new ones until :meth:`restore`."""
        with self._guard:
            self._down = True
            for pair in self._open:
                _shut(pair)

    def restore(self) -> None:
        """Forward normally again, including a held request."""
        with self._guard:
            self._down = False
            self._delay_s = self._reset_share = 0.0
            self._lose = None
            held, self._held = self._held, None
        if held is not None:
            held.released.set()

    def delay(self, seconds: float) -> None:
        """Delay all data by this time, in both directions."""
        self._delay_s = seconds

    def reset(self, share: float) -> None:
        """Reset a connection with this probability, from 0 to 1, each time that data passes."""
        self._reset_share = share

    def lose_reply(self, marker: bytes) -> None:
        """Forward the next request that contains this text, drop its reply, and close the connection."""
        self._lose = marker

    def hold(self, api_key: int) -> Held:
        """Hold the next Kafka request of this kind until the result's ``released`` is set."""
        self._held = Held(api_key)
        return self._held

    def close(self) -> None:
        """Stop the proxy and close all connections."""
        self.cut()
        if self._held is not None:
            self._held.released.set()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._guard:
                down = self._down
            if down:
                client.close()
                continue
            try:
                server = socket.create_connection(self._target, 5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            for side in (client, server):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = _Pair(client, server)
            with self._guard:
                self._open.add(pair)
            for direction in (self._requests, self._replies):
                threading.Thread(target=self._forward, args=(direction, pair), name="proxy", daemon=True).start()

    def _forward(self, direction: Callable[[_Pair], None], pair: _Pair) -> None:
        with suppress(OSError):
            direction(pair)
        _shut(pair)
        with self._guard:
            last = pair not in self._open
            self._open.discard(pair)
        if last:
            pair.client.close()
            pair.server.close()

    def _requests(self, pair: _Pair) -> None:
        frames = Frames()
        for data in _chunks(pair.client):
            self._disturb(pair)
            lose = self._lose
            if lose is not None and lose in data:
                self._lose, pair.mute = None, True
                self.disturbed += 1
            held = self._held
            before = frames.before(data, None if held is None else held.api_key)
            if held is None or before is None:
                pair.server.sendall(data)
                continue
            self._held = None
            pair.server.sendall(data[:before])
            held.caught.set()
            held.released.wait()
            pair.server.sendall(data[before:])

    def _replies(self, pair: _Pair) -> None:
        for data in _chunks(pair.server):
            if pair.mute:
                return
            self._disturb(pair)
            pair.client.sendall(data)

    def _disturb(self, pair: _Pair) -> None:
        if self._delay_s:
            time.sleep(self._delay_s)
        if self._reset_share and self._chance.random() < self._reset_share:
            self.disturbed += 1
            for side in (pair.client, pair.server):
                side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            raise ConnectionResetError("reset on purpose")


class Frames:
    """Finds the starts of Kafka requests in the data of a connection, which arrives in pieces."""

    def __init__(self) -> None:
        self._head = b""
        self._rest = 0
        """Bytes of the current request that have not arrived yet."""

    def before(self, data: bytes, api_key: int | None) -> int | None:
        """Process the next piece; return the offset of the first request of the kind that starts in it, or None.

        A request whose first six bytes arrive in two pieces is not reported, because its first part has already passed.
        """
        found: int | None = None
        at = 0
        while at < len(data):
            if self._rest:
                step = min(self._rest, len(data) - at)
                self._rest -= step
                at += step
                continue
            start = at - len(self._head)
            head = (self._head + data[at:])[:6]
            if len(head) < 6:
                self._head = head
                return found
            length, key = struct.unpack(">ih", head)
            if key == api_key and start >= 0 and found is None:
                found = start
            at += 6 - len(self._head)
            self._head = b""
            self._rest = length - 2
        return found


def _chunks(source: socket.socket) -> Iterator[bytes]:
    while data := source.recv(262_144):
        yield data


def _shut(pair: _Pair) -> None:
    for side in (pair.client, pair.server):
        with suppress(OSError):
            side.shutdown(socket.SHUT_RDWR)
