"""The bounds of one lane."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of batches and waits; seconds and bytes."""

    batch_records: int = 500
    batch_bytes: int = 4 * 1024 * 1024
    linger_s: float = 0.0
    backoff_s: float = 0.5
    backoff_max_s: float = 30.0
    drain_s: float = 10.0
    retry_topic: str | None = None
    """Its records wait until they are due."""
    replay_topic: str | None = None
    """Its records wait while the live lane works."""
    replay_share: float = 0.1
    """Part of the time, between 0 and 1, that replayed records get while live ones come."""
    replay_batch_records: int = 8
    replay_batch_bytes: int = 64 * 1024
    """While live records come, batches of replayed ones are no larger than this: so long a live one waits for them."""
    parked_records: int = 1000
    parked_bytes: int = 32 * 1024 * 1024
    """So much may wait until it is due before fetching stops."""
    deaths: int = 3
    """A record that was begun so often alone, without an end, is given up."""
    dead_letter_window: int = 1000
    dead_letter_share: float = 1.0
    """The stage stops above this share of dead letters, other than invalid records, among the newest
    ``dead_letter_window`` records."""
