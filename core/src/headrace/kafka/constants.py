"""Values shared by all readers and writers of the log."""

from __future__ import annotations

NO_KEY = b"-"
"""Key for a record that has none, because the key of a message is never empty."""
LATEST_MS = 253_402_300_799_000
"""Latest timestamp that can be shown: the last second of the year 9999, in milliseconds since 1970."""
