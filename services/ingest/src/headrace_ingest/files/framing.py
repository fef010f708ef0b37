"""Frames requests and answers between the service and the file reader: two lengths, JSON, bytes."""

from __future__ import annotations

import json
import struct
from typing import Any, BinaryIO

HEAD = struct.Struct(">II")
"""Lengths of the JSON and of the bytes after it."""


def framed(head: dict[str, Any], data: bytes = b"") -> bytes:
    """Return one request or answer."""
    encoded = json.dumps(head).encode()
    return HEAD.pack(len(encoded), len(data)) + encoded + data


def is_frame(data: bytes) -> bool:
    """Return whether the bytes are exactly one complete answer."""
    return len(data) >= HEAD.size and len(data) == HEAD.size + sum(HEAD.unpack(data[: HEAD.size]))


def read_frame(stream: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """Return the next request or answer, or None at the end."""
    lengths = stream.read(HEAD.size)
    if len(lengths) < HEAD.size:
        return None
    head_bytes, data_bytes = HEAD.unpack(lengths)
    return json.loads(stream.read(head_bytes)), stream.read(data_bytes)
