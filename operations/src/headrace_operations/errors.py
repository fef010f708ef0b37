"""Errors that several operations share."""

from __future__ import annotations

from headrace.errors import HeadraceError


class NotThere(HeadraceError):
    """What was named does not exist."""

    code = "not-there"


class Refused(HeadraceError):
    """The operation was not carried out; nothing was changed."""

    code = "refused"
