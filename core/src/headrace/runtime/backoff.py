"""The rule for every back-off: how long to wait before the next attempt."""

from __future__ import annotations


def backoff(first_s: float, longest_s: float, failures: int, jitter: float) -> float:
    """Return the seconds to wait after this number of consecutive failures (from 1).

    The time doubles with each failure up to ``longest_s``. ``jitter`` (0 to 1) spreads it over the upper half, so that
    workers that failed together do not try again together.
    """
    doubled = min(longest_s, first_s * 2.0 ** min(failures - 1, 30))
    return doubled * (0.5 + 0.5 * jitter)
