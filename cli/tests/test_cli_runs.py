"""Names of runs and the time from which they are read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from headrace_cli.commands.runs import past
from headrace_cli.failures import UsageError
from headrace_cli.ingest.sending import new_run
from headrace_operations.runs.follow import begun

pytestmark = pytest.mark.unit

NOW = datetime(2026, 1, 31, 12, 0, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90m", 5400),
        ("24h", 86_400),
        ("7d", 604_800),
        ("2026-01-31T11:00:05", 3600),
        ("2026-01-31T12:00:05+01:00", 3600),
    ],
)
def test_a_time_is_given_as_an_age_or_a_date(text: str, seconds: int) -> None:
    """Broken: runs are read from another time than was asked for."""
    assert past(text, NOW) == NOW - timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "soon", "-1h", "24", "2026-02-01", "9999999h"])
def test_what_is_no_past_time_is_refused(text: str) -> None:
    """Broken: a slip of the keyboard shows an empty list, which looks as if nothing had been sent."""
    with pytest.raises(UsageError, match=r"time|future"):
        past(text, NOW)


def test_a_run_tells_when_it_began_and_never_a_time_to_come() -> None:
    """Broken: an old run is not found without being told where to look."""
    name = new_run(NOW)
    assert begun(name, NOW + timedelta(hours=1)) == NOW
    assert begun(name, NOW - timedelta(hours=1)) == NOW - timedelta(hours=1)
    assert new_run(NOW) != name
    assert begun("20261399T000000Z-ab", NOW) is None
    assert begun("f2a7736d-fae0-5588-b101-f742413276cc", NOW) is None
