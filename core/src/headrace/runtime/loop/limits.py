"""The limits of one lane."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of batches and waits, in seconds and bytes."""

    batch_records: int = 500
    batch_bytes: int = 4 * 1024 * 1024
    linger_s: float = 0.0
    backoff_s: float = 0.5
    backoff_max_s: float = 30.0
    drain_s: float = 10.0
    retry_topic: str | None = None
    """Its records wait until they are due."""
    retry_longest_s: float = float("inf")
    """Maximum wait of a record after it is read: the worker that wrote its due time may have a wrong clock."""
    replay_topic: str | None = None
    """Its records wait while the live lane works."""
    replay_share: float = 0.1
    """Share of the time, between 0 and 1, for replayed records while live records arrive."""
    replay_batch_records: int = 8
    replay_batch_bytes: int = 64 * 1024
    """Maximum bytes in a batch of replayed records while live records arrive, because live records wait for it."""
    parked_records: int = 1000
    parked_bytes: int = 32 * 1024 * 1024
    """Maximum bytes of parked records; then fetching stops."""
    deaths_alone: int = 3
    """A record that crashed the worker this often while alone in its batch is dead-lettered."""
    dead_letter_window: int = 1000
    dead_letter_share: float = 1.0
    """The stage stops above this share of dead letters, other than invalid records, among the newest
    ``dead_letter_window`` records."""

    @property
    def is_side(self) -> bool:
        """Whether the lane is the side lane, for retries and replays."""
        return self.retry_topic is not None
