"""``/readyz``: what a stage says of itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from headrace.config.settings import KafkaSettings
from headrace.runtime.loop.breaker import Breaker, HalfOpen, Open
from headrace.runtime.loop.lifecycle import Exit, Lifecycle
from headrace.runtime.loop.state import State
from headrace.stage_process import main
from headrace.stage_process.main import Readiness
from headrace_testing.fakes import FakeClock

pytestmark = pytest.mark.unit


class Admin:
    """Kafka's admin client: it counts the questions, and fails while ``error`` is set."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.error: KafkaException | None = None

    def list_topics(self, topic: str, timeout: float) -> None:
        """Answer, or raise."""
        self.asked.append(topic)
        if self.error is not None:
            raise self.error


@pytest.fixture
def admin(monkeypatch: pytest.MonkeyPatch) -> Admin:
    """The admin client that readiness asks."""
    made = Admin()
    monkeypatch.setattr(main, "AdminClient", lambda _: made)
    return made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """The time between questions."""
    made = FakeClock()
    monkeypatch.setattr(main.time, "monotonic", made)
    return made


def readiness(live: State, side: State | None = None, *, started: bool = True) -> Readiness:
    """The readiness of a stage with lanes in these states."""
    lanes: Any = SimpleNamespace(
        live=SimpleNamespace(state=live, started=started), side=SimpleNamespace(state=side or State())
    )
    return Readiness("chunker", lanes, KafkaSettings(), "documents")


def test_a_stage_that_works_is_ready_and_says_what_its_side_lane_waits_for(admin: Admin, clock: FakeClock) -> None:
    """Broken: an orchestrator restarts a stage that works, for its side lane waits."""
    ready, details = readiness(State(), State(breaker=Breaker(Open("pg", "away", 1, 9.0))))()
    assert ready
    assert details == {
        "stage": "chunker", "waiting": None, "paused": None, "stopped": None, "draining": False,
        "side": {"dependency": "pg", "reason": "away", "circuit": "open"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (
            State(breaker=Breaker(HalfOpen("pg", "away", 2))),
            {"waiting": {"dependency": "pg", "reason": "away", "circuit": "half open"}},
        ),
        (State(lifecycle=Lifecycle(draining_until=1.0)), {"draining": True}),
        (State(lifecycle=Lifecycle(stopped="too many")), {"stopped": "too many"}),
        (State(lifecycle=Lifecycle(exit=Exit(71, "fenced"))), {"waiting": None}),
    ],
)
def test_a_stage_that_does_no_work_is_not_ready(
    admin: Admin, clock: FakeClock, state: State, said: dict[str, Any]
) -> None:
    """Broken: a stage that stands still is taken for one that works."""
    ready, details = readiness(state)()
    assert not ready
    assert said.items() <= details.items()


def test_a_stage_that_an_operator_paused_is_ready(admin: Admin, clock: FakeClock) -> None:
    """Broken: an orchestrator restarts what an operator paused."""
    ready, details = readiness(State(lifecycle=Lifecycle(paused="by ann")))()
    assert (ready, details["paused"]) == (True, "by ann")


def test_kafka_is_asked_at_most_every_two_seconds_and_by_the_stage_s_own_topic(admin: Admin, clock: FakeClock) -> None:
    """Broken: a stage without Kafka says that it is ready, or each look at it is a call."""
    asking = readiness(State())
    admin.error = KafkaException(KafkaError(KafkaError._TRANSPORT))
    assert asking()[1]["waiting"]["dependency"] == "kafka"
    admin.error = None
    clock.advance(1.0)
    assert not asking()[0]
    clock.advance(1.1)
    assert asking() == (True, {**asking()[1], "waiting": None})
    assert admin.asked == ["documents", "documents"]


def test_a_stage_that_has_not_joined_its_group_starts(admin: Admin, clock: FakeClock) -> None:
    """Broken: a stage says that it is ready before it reads anything."""
    ready, details = readiness(State(), started=False)()
    assert (ready, details["waiting"]) == (False, {"dependency": "kafka", "reason": "starting"})
    assert admin.asked == []
