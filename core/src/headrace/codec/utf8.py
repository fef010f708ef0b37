"""Finds the field of a record whose text is not UTF-8."""

from __future__ import annotations

from typing import Any


def escaped_field(value: Any, path: str = "") -> str | None:
    """Return the path (``name``, ``outer.inner``, ``names[0]``) of the first text with an escaped byte, or None.

    ``value`` was decoded with the error handler ``surrogateescape``, which turns each invalid byte into a lone
    surrogate. ``path`` is the path of ``value`` itself.
    """
    if isinstance(value, str):
        return path if any("\udc80" <= character <= "\udcff" for character in value) else None
    parts: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        parts = [(f"{path}.{name}" if path else str(name), part) for name, part in value.items()]
    elif isinstance(value, list):
        parts = [(f"{path}[{index}]", part) for index, part in enumerate(value)]
    return next((found for name, part in parts if (found := escaped_field(part, name)) is not None), None)
