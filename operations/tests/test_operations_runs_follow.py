"""Following runs: one reading, or readings until the named run is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from headrace_operations.runs import follow
from headrace_operations.runs.fold import Item, Run, SentChange
from headrace_operations.runs.follow import NoSuchRun, Reading, RunsRequest, reads_from
from headrace_operations.trace.log import Cost, Limits
from headrace_testing.cluster import FakeCluster

pytestmark = pytest.mark.unit

HALF = Run("r", "acme", 1, 2, 1, 0, 1, 50.0, 1, None, None, None)
WHOLE = replace(HALF, done=2, pending=0, percent=100.0)
ITEM = Item(SentChange(b"acme/a", (0, 1), 1, "r", "q", 1), "done", 1, None)


class Reader:
    """Reads these runs, one list after the other; the last one stays."""

    def __init__(self, *readings: Sequence[Run]) -> None:
        self._readings = list(readings)
        self._now: Sequence[Run] = ()
        self.complete = False
        self.asked: list[tuple[str | None, str | None]] = []

    async def read(self) -> Cost:
        self._now = self._readings.pop(0) if len(self._readings) > 1 else self._readings[0]
        return Cost(records=len(self._now))

    def runs(self, run: str | None, tenant: str | None) -> list[Run]:
        self.asked.append((run, tenant))
        return list(self._now)

    def items(self, run: str, tenant: str | None) -> list[Item]:
        assert (run, tenant) == self.asked[-1]
        return [ITEM]


async def followed(
    monkeypatch: pytest.MonkeyPatch, reader: Reader, request: RunsRequest, *, watch: bool = False
) -> tuple[Reading, list[Reading], list[float]]:
    """Return the last reading, those that were handed on, and the pauses between them."""
    taken: list[Reading] = []
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(follow, "RunsReader", lambda *_, **__: reader)
    last = await follow.follow(FakeCluster(), None, Limits(), request, taken.append, watch=watch, sleep=sleep)
    return last, taken, slept


async def test_one_reading_shows_the_latest_runs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a list of runs has no bound, or hides that a limit cut the reading short."""
    reader = Reader([HALF, WHOLE, WHOLE])
    last, taken, slept = await followed(monkeypatch, reader, RunsRequest(0, tenant="acme", limit=2))
    assert (last.runs, last.items, last.cost.records, last.complete) == ([HALF, WHOLE], [], 3, False)
    assert (taken, slept, reader.asked) == ([last], [], [(None, "acme")])


async def test_a_named_run_shows_its_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: the output does not say which change of a run failed."""
    last, _, _ = await followed(monkeypatch, Reader([HALF]), RunsRequest(0, run="r"))
    assert last.items == [ITEM]


async def test_a_watch_ends_when_the_run_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a script waits for ever for a run that is done, or goes on before it is."""
    reader = Reader([HALF], [HALF], [WHOLE])
    last, taken, slept = await followed(monkeypatch, reader, RunsRequest(0, run="r"), watch=True)
    assert [one.runs for one in taken] == [[HALF], [HALF], [WHOLE]]
    assert last is taken[-1]
    assert slept == [2.0, 2.0]


async def test_an_unknown_run_is_told_with_where_it_was_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a misspelt run looks like one that is done, and the script goes on."""
    request = RunsRequest(int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1000), run="x")
    for watch in (False, True):
        with pytest.raises(NoSuchRun, match="no change of run or request 'x' since 2026-01-01"):
            await followed(monkeypatch, Reader([]), request, watch=watch)


@pytest.mark.parametrize(
    ("run", "begins"),
    [
        ("20260102T030405Z-ab", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("20990102T030405Z-ab", datetime(2026, 1, 3, tzinfo=UTC)),
        ("20261302T030405Z-ab", None),
        ("nightly", None),
    ],
)
def test_a_run_s_name_tells_when_it_began(run: str, begins: datetime | None) -> None:
    """Broken: a run is looked for where it cannot be, or a clock that is ahead hides it."""
    assert follow.begun(run, datetime(2026, 1, 3, tzinfo=UTC)) == begins


def test_a_given_time_is_kept_for_a_named_run_too() -> None:
    """Broken: `runs RUN --since 24h` reads from the start of the run, as if the option were not there."""
    now = datetime(2026, 1, 9, tzinfo=UTC)
    day = now - timedelta(hours=24)
    named = "20260102T030405Z-ab"
    assert reads_from(named, None, now) == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert reads_from(named, day, now) == day
    assert reads_from("other", None, now) == reads_from(None, None, now) == day
