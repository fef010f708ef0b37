"""Errors that several operations share."""

from __future__ import annotations

from headrace.errors import HeadraceError


class NotThere(HeadraceError):
    """The named object does not exist."""

    code = "not-there"


class Refused(HeadraceError):
    """The operation was refused, and nothing was changed."""

    code = "refused"
