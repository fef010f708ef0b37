"""When a record that failed for now is tried again, and the message that carries it until then."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.errors import Deferred, TemporaryError
from headrace.kafka import headers
from headrace.kafka.broker_contract import Message, Record
from headrace.runtime.backoff import backoff

_NO_KEY = b"-"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a record is tried, and how long it waits; seconds."""

    attempts: int = 8
    first_s: float = 1.0
    longest_s: float = 60.0

    def delay(self, attempt: int, asked: float | None, jitter: float) -> float:
        """Return the seconds between attempt ``attempt`` (from 1) and the next.

        They follow :func:`headrace.runtime.backoff.backoff`, and are never fewer than the failure ``asked`` for, up to
        the longest.
        """
        return max(backoff(self.first_s, self.longest_s, attempt, jitter), min(asked or 0.0, self.longest_s))


def retry_message(
    record: Record, error: TemporaryError, *, first: headers.Origin, attempt: int, topic: str, policy: RetryPolicy,
    now_ms: int, jitter: float,
) -> Message | None:  # fmt: skip
    """Return the message that has the record tried again after its attempt failed, or None after the last attempt.

    A record that was deferred did not fail: the same attempt is made again, however often it stands back.
    """
    if isinstance(error, Deferred):
        following, wait_s = attempt, min(error.delay or 0.0, policy.longest_s)
    elif attempt < policy.attempts:
        following, wait_s = attempt + 1, policy.delay(attempt, error.delay, jitter)
    else:
        return None
    again = headers.for_retry(record.headers, first, attempt=following, due_ms=now_ms + int(1000 * wait_s))
    return Message(topic, record.key or _NO_KEY, record.value, again)
