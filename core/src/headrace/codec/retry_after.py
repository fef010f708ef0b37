"""HTTP's Retry-After header: how long another system asks clients to wait (RFC 9110, section 10.2.3)."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Callable


def retry_after(value: str | None, now: Callable[[], float] = time.time) -> float | None:
    """Return the seconds that the header asks for, given as seconds or as a date, or None if it is not valid."""
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - now())
    except (ValueError, OverflowError):
        return None
