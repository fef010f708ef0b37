"""When a record that failed temporarily is retried, and the message that carries it until then."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.errors import Deferred, TemporaryError
from headrace.kafka import headers
from headrace.kafka.broker_contract import Message, Record
from headrace.kafka.constants import NO_KEY
from headrace.runtime.backoff import backoff


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Maximum attempts and delays between them, in seconds."""

    attempts: int = 8
    first_s: float = 1.0
    longest_s: float = 60.0

    def delay(self, attempt: int, asked: float | None, jitter: float) -> float:
        """Return the seconds between attempt ``attempt`` (from 1) and the next.

        The delay follows :func:`headrace.runtime.backoff.backoff`. It is at least what the failure ``asked`` for, up to
        the maximum.
        """
        return max(backoff(self.first_s, self.longest_s, attempt, jitter), min(asked or 0.0, self.longest_s))


def retry_message(
    record: Record, error: TemporaryError, *, first: headers.Origin, attempt: int, topic: str, policy: RetryPolicy,
    now_ms: int, jitter: float,
) -> Message | None:  # fmt: skip
    """Return the message that retries the record after a failed attempt, or None after the last attempt.

    A deferred record did not fail: it is read again as the same attempt, however often it gives way.
    """
    if isinstance(error, Deferred):
        following, wait_s = attempt, min(error.delay or 0.0, policy.longest_s)
    elif attempt < policy.attempts:
        following, wait_s = attempt + 1, policy.delay(attempt, error.delay, jitter)
    else:
        return None
    again = headers.for_retry(record.headers, first, attempt=following, due_ms=now_ms + int(1000 * wait_s))
    return Message(topic, record.key or NO_KEY, record.value, again)
