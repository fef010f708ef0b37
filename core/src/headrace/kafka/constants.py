"""Values that every reader and writer of the log shares."""

from __future__ import annotations

NO_KEY = b"-"
"""Key of a record that is carried on without one of its own: a message's key is never empty."""
LATEST_MS = 253_402_300_799_000
"""Newest time that a record's timestamp can be shown as: the last second of the year 9999, in ms since 1970."""
