"""Runs a job at the times of a cron expression: one run at a time, and one run for all missed times.

Expressions follow Debian's cron; with six fields, the first one is seconds. Times that daylight saving time skips or
repeats are treated as in Debian's cron (https://healthchecks.io/docs/cron/, the library cronsim).
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import structlog
from cronsim import CronSim, CronSimError

from headrace.errors import ConfigurationError

log = structlog.get_logger(__name__)

_LONGEST_WAIT_S = 30.0
"""Maximum seconds of one sleep, so that a change of the clock is noticed."""
_MOST_COUNTED = 1000


class Clock(Protocol):
    """Time as the schedule sees it."""

    def now(self) -> datetime:
        """Return the time with its time zone."""

    def wait(self, seconds: float) -> bool:
        """Wait this many seconds; return True as soon as the schedule must end."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A cron expression in a time zone."""

    expression: str
    zone: ZoneInfo

    def next(self, after: datetime) -> datetime:
        """Return the first time after this one."""
        found: datetime = next(CronSim(self.expression, after.astimezone(self.zone)))
        return found

    def upcoming(self, after: datetime, count: int) -> list[datetime]:
        """Return the first times after this one."""
        found: list[datetime] = []
        for _ in range(count):
            after = self.next(after)
            found.append(after)
        return found

    def newest(self, since: datetime, until: datetime) -> tuple[datetime | None, int]:
        """Return the last time after ``since`` and up to ``until``, and how many there were (counted to 1,000)."""
        count = 0
        for due in CronSim(self.expression, since.astimezone(self.zone)):
            if due > until or count == _MOST_COUNTED:
                break
            count += 1
        if not count:
            return None, 0
        # Added in UTC: local time would forget which of the two hours it is when summer time ends.
        just_after = until.astimezone(UTC).replace(microsecond=0) + timedelta(seconds=1)
        newest: datetime = next(CronSim(self.expression, just_after.astimezone(self.zone), reverse=True))
        return newest, count


def plan(expression: str, zone: str) -> Plan:
    """Return the plan; raises :class:`ConfigurationError` for an expression or a zone that does not exist."""
    try:
        found = Plan(expression, ZoneInfo(zone))
        found.next(datetime(2026, 1, 1, tzinfo=found.zone))
    except (CronSimError, StopIteration) as error:
        raise ConfigurationError(
            f"invalid cron expression {expression!r}: {error or 'no time ever matches it'}", where="--cron",
            remedy='Use minute, hour, day, month, weekday. For example, "0 2 * * *" is every day at 02:00.',
        ) from error  # fmt: skip
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ConfigurationError(
            f"unknown time zone {zone!r}",
            where="--timezone",
            remedy="Use a name like Asia/Seoul, Europe/Berlin or UTC.",
        ) from error
    return found


class Memory:
    """Stores the time of the last execution in a file, so that a restart knows which times it missed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def last(self) -> datetime | None:
        """Return the time of the last execution; None if there was none or the file has another format."""
        try:
            return datetime.fromisoformat(json.loads(self._path.read_text(encoding="utf-8"))["last"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError) as error:
            log.warning("cannot read the schedule's state file; assuming no missed times", error=str(error))
            return None

    def note(self, due: datetime) -> None:
        """Store the time that is being executed, atomically."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".new")
        partial.write_text(json.dumps({"last": due.isoformat()}), encoding="utf-8")
        partial.replace(self._path)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Lock the schedule during the block; raises :class:`ConfigurationError` if another process holds it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.with_suffix(".lock").open("a", encoding="utf-8") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ConfigurationError(
                    "another process is running this schedule", where=str(self._path),
                    remedy="Stop that process, or pass a different --name for this schedule.",
                ) from error  # fmt: skip
            held.truncate(0)
            held.write(str(os.getpid()))
            held.flush()
            yield


def run(
    plan: Plan, memory: Memory, clock: Clock, job: Callable[[datetime], None], *, missed: bool, runs: int | None = None
) -> int:
    """Run the job at each time of the plan until the clock says stop; return the number of executions.

    With ``missed``, times that passed while nothing ran (a restart, a job that took too long) lead to one immediate
    execution; otherwise they are skipped. The schedule ends after ``runs`` executions.
    """
    done = 0
    last = memory.last()
    begun = clock.now()
    since = last if missed and last is not None else begun
    while (runs is None or done < runs) and not clock.wait(0):
        now = clock.now()
        due, passed = plan.newest(since, now)
        if due is None:
            wait = (plan.next(max(since, now)) - now).total_seconds()
            if clock.wait(min(max(wait, 0.001), _LONGEST_WAIT_S)):
                break
            continue
        if passed > 1:
            log.warning(
                "missed scheduled times; running once for all of them", times=passed - 1, made_up_for_by=due.isoformat()
            )
        memory.note(due)
        job(due)
        done += 1
        since = due if missed else clock.now()
    return done
