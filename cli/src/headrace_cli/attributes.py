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
            raise UsageError(f"invalid attribute {text!r}", where=option, remedy="Use the form NAME=VALUE.")
        found[name] = value
    return found
