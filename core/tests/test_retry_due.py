"""How long a retried record waits at most, whatever its due time says."""

from __future__ import annotations

import pytest

from headrace.config.settings import WorkerSettings
from headrace.errors import LONGEST_DELAY_S, Deferred, TemporaryError
from headrace.kafka import headers
from headrace.kafka.broker_contract import Polled, Record
from headrace.runtime.loop import parking
from headrace.runtime.loop.events import PollReturned
from headrace.runtime.loop.parking import Parking
from headrace.runtime.retry import RetryPolicy, retry_message
from headrace.stage_process.lanes import side_limits
from headrace.topology.stages import CHUNKER

pytestmark = pytest.mark.unit

NOW, WALL = 100.0, 1_800_000_000.0
SETTINGS = WorkerSettings(retry_max_s=60.0)
LIMITS = side_limits(CHUNKER, SETTINGS, "retry", "replay")


def due(at: float) -> float:
    """When a record is due that is read now and says that it is due at this time of the wall clock."""
    record = Record("retry", 0, 1, b"k", b"v", ((headers.RETRY_DUE, str(int(at * 1000)).encode()),))
    polled = PollReturned(NOW, Polled([record]), None, WALL - NOW)
    return parking.next_due(parking.park(Parking(), polled, LIMITS))


@pytest.mark.parametrize(("ahead", "waits"), [(-5.0, -5.0), (30.0, 30.0), (60.0, 60.0), (86_400.0, 60.0)])
def test_no_record_waits_longer_than_the_longest_delay(ahead: float, waits: float) -> None:
    """Broken: a worker whose clock is a day ahead stops a partition of the retries for a day."""
    assert due(WALL + ahead) == pytest.approx(NOW + waits)


@pytest.mark.parametrize("error", [TemporaryError("x"), TemporaryError("x", delay=1e9), Deferred(delay=1e9)])
def test_no_delay_on_purpose_is_cut_short(error: TemporaryError) -> None:
    """Broken: the limit of the wait is shorter than a delay that a server asked for and the stage granted."""
    assert error.delay in (None, LONGEST_DELAY_S)
    message = retry_message(
        Record("in", 0, 1, b"k", b"v", ()), error, first=headers.Origin("in", 0, 1), attempt=7, topic="retry",
        policy=RetryPolicy(8, SETTINGS.retry_first_s, SETTINGS.retry_max_s), now_ms=int(WALL * 1000), jitter=1.0,
    )  # fmt: skip
    assert message is not None
    stated = headers.number(Record("retry", 0, 1, b"k", b"v", message.headers), headers.RETRY_DUE, 0) / 1000
    assert due(stated) == pytest.approx(NOW + stated - WALL)
