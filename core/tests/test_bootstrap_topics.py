"""New topics: the migration step goes on when the brokers know them."""

from __future__ import annotations

import time
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import NewTopic

from headrace import migrate
from headrace.errors import ConfigurationError, DependencyDown

pytestmark = pytest.mark.unit


class Admin:
    """Stands in for Kafka's admin client: a leader is told with the n-th look, a topic that exists is refused."""

    def __init__(self, looks: int, refusal: int | None = None) -> None:
        self.looks = looks
        self.refusal = refusal
        self.created: list[str] = []

    def create_topics(self, wanted: list[NewTopic], **_: Any) -> dict[str, Future[None]]:
        self.created += [topic.topic for topic in wanted]
        done: Future[None] = Future()
        if self.refusal is None:
            done.set_result(None)
        else:
            done.set_exception(KafkaException(KafkaError(self.refusal)))
        return {topic.topic: done for topic in wanted}

    def list_topics(self, name: str, _: float) -> Any:
        self.looks -= 1
        part = SimpleNamespace(error=None, leader=-1 if self.looks == 1 else 0)
        return SimpleNamespace(topics={name: SimpleNamespace(partitions={0: part} if self.looks <= 1 else {})})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that passes by sleeping only."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def test_a_topic_counts_as_made_when_a_broker_leads_its_partitions(clock: list[float]) -> None:
    """Broken: a service that starts at once is told that its topic does not exist."""
    admin = Admin(looks=3)
    migrate.make_topics(admin, [NewTopic("t", 1, 1)])  # type: ignore[arg-type]
    assert (admin.looks, admin.created) == (0, ["t"])
    assert clock[0] > 0


def test_a_topic_without_a_leader_is_told_by_name(clock: list[float]) -> None:
    """Broken: the migration step waits for ever."""
    with pytest.raises(DependencyDown, match="the new topics t have no leader"):
        migrate.make_topics(Admin(looks=10**9), [NewTopic("t", 1, 1)])  # type: ignore[arg-type]
    assert clock[0] < 40


def test_a_topic_that_another_made_stays_and_what_is_refused_is_told(clock: list[float]) -> None:
    """Broken: two migration steps that begin together stop each other, or a refusal goes by unseen."""
    migrate.make_topics(Admin(1, KafkaError.TOPIC_ALREADY_EXISTS), [NewTopic("t", 1, 1)])  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="'t' cannot be created"):
        migrate.make_topics(Admin(1, KafkaError.INVALID_REPLICATION_FACTOR), [NewTopic("t", 1, 1)])  # type: ignore[arg-type]
    assert clock[0] == 0
