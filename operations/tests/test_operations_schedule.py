"""Schedules by a fake clock: each time once, missed ones made up for once, summer time, restarts, one process."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from headrace.errors import ConfigurationError
from headrace_operations.embeddings.schedule import Memory, plan, run

pytestmark = pytest.mark.unit
START = datetime(2026, 1, 1, 0, 30, tzinfo=UTC)


class Clock:
    """Time that passes by waiting alone; ends at ``until``."""

    def __init__(self, now: datetime, until: datetime) -> None:
        self.time = now
        self.until = until

    def now(self) -> datetime:
        """The fake time."""
        return self.time

    def wait(self, seconds: float) -> bool:
        """Let it pass."""
        self.time += timedelta(seconds=seconds)
        return self.time > self.until


def ran(
    tmp_path: Path, expression: str, hours: float, *, zone: str = "UTC", start: datetime = START, missed: bool = True,
    takes: timedelta = timedelta(0),
) -> list[datetime]:  # fmt: skip
    """Return the times at which the job ran, each run taking so long."""
    clock = Clock(start, start + timedelta(hours=hours))
    found: list[datetime] = []

    def job(due: datetime) -> None:
        found.append(due)
        clock.time += takes

    run(plan(expression, zone), Memory(tmp_path / "s.json"), clock, job, missed=missed)
    return found


def test_each_time_is_run_once(tmp_path: Path) -> None:
    """Broken: a time is run twice, because waking up is a little early or late, or not at all."""
    assert [due.hour for due in ran(tmp_path, "0 * * * *", 5)] == [1, 2, 3, 4, 5]


def test_times_are_those_of_the_zone(tmp_path: Path) -> None:
    """Broken: two o'clock in Seoul is run at two o'clock in London."""
    (due,) = ran(tmp_path, "0 2 * * *", 24, zone="Asia/Seoul")
    assert due.astimezone(UTC).hour == 17


def test_an_hour_that_summer_time_skips_or_repeats_is_run_once(tmp_path: Path) -> None:
    """Broken: a nightly batch is left out in March, and paid twice in October."""
    berlin = ZoneInfo("Europe/Berlin")
    spring = ran(tmp_path, "30 2 * * *", 48, zone="Europe/Berlin", start=datetime(2026, 3, 28, 12, tzinfo=berlin))
    assert [due.date().isoformat() for due in spring] == ["2026-03-29", "2026-03-30"]
    (tmp_path / "s.json").unlink()
    autumn = ran(tmp_path, "30 2 * * *", 47, zone="Europe/Berlin", start=datetime(2026, 10, 24, 12, tzinfo=berlin))
    assert [due.date().isoformat() for due in autumn] == ["2026-10-25", "2026-10-26"]


@pytest.mark.parametrize("expression", ["*/10 * * * *", "30 * * * *"])
def test_the_hour_that_comes_twice_has_each_of_its_times_once_in_each(tmp_path: Path, expression: str) -> None:
    """Broken: what was just done is due again at once, until the hour is over, and each time is paid for."""
    start = datetime(2026, 10, 24, 23, 55, tzinfo=UTC)
    found = ran(tmp_path, expression, 4, zone="Europe/Berlin", start=start, takes=timedelta(seconds=20))
    times = [due.astimezone(UTC) for due in found]
    assert times == sorted(set(times))
    assert {later - earlier for earlier, later in pairwise(times)} == {times[1] - times[0]}
    assert len(times) == (24 if expression.startswith("*/10") else 4)


def test_a_run_that_takes_too_long_is_made_up_for_once_and_nothing_overlaps(tmp_path: Path) -> None:
    """Broken: after a long run all the times it covered are run one after the other."""
    found = ran(tmp_path, "0 * * * *", 8, takes=timedelta(hours=2, minutes=30))
    assert [due.hour for due in found] == [1, 3, 6, 8]
    (tmp_path / "s.json").unlink()
    passed_over = ran(tmp_path, "0 * * * *", 8, takes=timedelta(hours=2, minutes=30), missed=False)
    assert [due.hour for due in passed_over] == [1, 4, 7]


def test_a_restart_makes_up_for_what_it_missed_once(tmp_path: Path) -> None:
    """Broken: a night without the process is a night without its batch, or ten thousand batches come at once."""
    assert len(ran(tmp_path, "* * * * *", 0.1)) == 6
    later = START + timedelta(days=30)
    found = ran(tmp_path, "* * * * *", 0.01, start=later)
    assert found[0] == later
    assert len(found) == 1
    much_later = later + timedelta(days=1, seconds=30)
    assert ran(tmp_path, "0 0 * * *", 0.001, start=much_later, missed=False) == []


def test_a_memory_that_is_no_memory_counts_nothing_as_missed(tmp_path: Path) -> None:
    """Broken: half a file keeps the schedule from starting, or starts a batch that nobody planned."""
    (tmp_path / "s.json").write_text("{")
    assert ran(tmp_path, "0 * * * *", 0.2) == []


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    """Broken: two processes run the same batch at the same time."""
    program = (
        "import sys, pathlib; from headrace_operations.embeddings.schedule import Memory\n"
        "with Memory(pathlib.Path(sys.argv[1])).alone(): pass"
    )
    path = tmp_path / "s.json"
    with Memory(path).alone():
        other = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False)
    assert "another process is running this schedule" in other.stderr
    again = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize(
    ("expression", "zone", "where"),
    [("at two", "UTC", "--cron"), ("0 2 30 2 *", "UTC", "--cron"), ("0 2 * * *", "Mars/Crater", "--timezone")],
)
def test_a_wrong_expression_or_zone_is_refused_at_once(expression: str, zone: str, where: str) -> None:
    """Broken: a schedule that never comes due waits in silence."""
    with pytest.raises(ConfigurationError) as caught:
        plan(expression, zone)
    assert caught.value.where == where
