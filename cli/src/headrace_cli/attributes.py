"""Attributes of documents on the command line."""

from __future__ import annotations

from collections.abc import Sequence

from headrace_cli.failures import UsageError


def attributes_of(given: Sequence[str], option: str = "--attribute") -> dict[str, str]:
    """Return attributes from ``NAME=VALUE``; raises :class:`UsageError`."""
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"{text!r} is no attribute", where=option, remedy="Write NAME=VALUE.")
        found[name] = value
    return found
