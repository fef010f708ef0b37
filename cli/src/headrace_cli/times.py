"""Times on the command line: points in time, and ages."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from headrace_cli.failures import UsageError

_AGO = re.compile(r"(\d{1,6})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def moment(text: str | None, where: str, now: datetime) -> datetime | None:
    """Parse a time, None for None; raises :class:`UsageError`.

    ``90m``, ``12h`` and ``7d`` are relative to ``now``; ISO 8601 without an offset is UTC.
    """
    if text is None:
        return None
    try:
        if ago := _AGO.fullmatch(text):
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        found = datetime.fromisoformat(text)
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"invalid time {text!r}",
            where=where,
            remedy="Use 2026-11-21T10:00, or an age such as 90m, 12h or 7d.",
        ) from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)
