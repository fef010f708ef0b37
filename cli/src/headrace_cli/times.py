"""Times on the command line: a moment, or how long ago."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from headrace_cli.failures import UsageError

_AGO = re.compile(r"(\d{1,6})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def moment(text: str | None, where: str, now: datetime) -> datetime | None:
    """Return the moment that the text names, None for None; raises :class:`UsageError`.

    ``90m``, ``12h`` and ``7d`` are so long before ``now``; ISO 8601 without an offset is taken as UTC.
    """
    if text is None:
        return None
    try:
        if ago := _AGO.fullmatch(text):
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        found = datetime.fromisoformat(text)
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"{text!r} is no time", where=where, remedy="Write 2026-11-21T10:00, or 90m, 12h, 7d for so long ago."
        ) from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)
