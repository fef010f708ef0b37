"""The headers in which a key that acts for readers names one: user, groups and projects."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from starlette.datastructures import Headers

from headrace.access.readers import Reader
from headrace_gateway.problems import Problem

USER, GROUPS, PROJECTS = "Headrace-User", "Headrace-Groups", "Headrace-Projects"
MAX_CHARACTERS = 16 * 1024
"""Maximum characters of one of these headers."""


def named_reader(headers: Headers) -> Reader | None:
    """Return the reader that the headers name; None without any of them.

    Names are percent-encoded UTF-8; commas separate groups and projects. An empty header names none. Raises
    :class:`Problem` 422 for a header that is sent twice, too long or not ASCII, and for an invalid name.
    """
    user, groups, projects = (_value(headers, name) for name in (USER, GROUPS, PROJECTS))
    if user is None and groups is None and projects is None:
        return None
    try:
        return Reader.named(_decoded(user) if user else None, _names(groups), _names(projects))
    except ValueError as error:  # UnicodeDecodeError is one, too
        raise _refused(f"The reader is invalid: {error}.") from error


def _value(headers: Headers, name: str) -> str | None:
    values = headers.getlist(name)
    if len(values) > 1:
        raise _refused(f"The header {name} is sent {len(values)} times.")
    if values and len(values[0]) > MAX_CHARACTERS:
        raise _refused(f"The header {name} has {len(values[0])} characters; the limit is {MAX_CHARACTERS}.")
    if values and not values[0].isascii():
        raise _refused(f"The header {name} is not ASCII.")
    return values[0] if values else None


def _names(value: str | None) -> list[str]:
    return [_decoded(one) for one in value.split(",")] if value else []


def _decoded(value: str) -> str:
    return unquote_to_bytes(value.strip(" \t")).decode()


def _refused(detail: str) -> Problem:
    return Problem(
        422, "invalid-reader", detail,
        remedy="Send each header once; percent-encode what is not ASCII, and commas in a name.",
    )  # fmt: skip
