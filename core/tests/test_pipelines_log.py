"""The pipelines topic as services follow it: nothing that was applied is unknown for long."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

import pytest

from headrace.codec.codec import Codec
from headrace.config.settings import KafkaSettings
from headrace.errors import ConfigurationError, DependencyDown, UndecodableRecord, UnknownPipeline
from headrace.handlers.pipelines_log import PipelineCatalogue, PipelineFollower
from headrace.kafka.broker_contract import Record
from headrace.payloads import PipelineVersion

pytestmark = pytest.mark.unit

TEMPLATE = '{"id": "late", "stages": [{"stage": "chunker", "handlers": ["sections"]}]}'
RECORD = Record("pipelines", 0, 0, None, b"")
VERSION = PipelineVersion("late", 3, TEMPLATE, "", "test", datetime(2026, 1, 1, tzinfo=UTC))


class ScriptedCodec:
    """Answers what it is told, one after the other."""

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)

    def decode_plain(self, _data: bytes, _record_type: type) -> Any:
        """Return the next answer, or raise it."""
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def follower(*answers: Any) -> PipelineFollower:
    """A follower that reads from no Kafka."""
    return PipelineFollower(KafkaSettings(), cast("Codec", ScriptedCodec(*answers)), PipelineCatalogue())


def test_a_pipeline_applied_a_moment_ago_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a change that names a pipeline applied just before it goes to the dead letters."""
    following = follower(VERSION)
    monkeypatch.setattr(following, "refresh", lambda: following.deliver(RECORD))
    assert following.latest("late") == ("late", 3)


def test_a_pipeline_that_nobody_applied_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a misspelt pipeline holds up its stage for ever."""
    following = follower()
    monkeypatch.setattr(following, "refresh", lambda: None)
    with pytest.raises(UnknownPipeline):
        following.latest("misspelt")


@pytest.mark.parametrize("refusal", [DependencyDown("schema registry"), ConfigurationError("HTTP 401")])
def test_a_registry_that_refuses_hides_no_pipeline(refusal: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: every change goes to the dead letters as one of an unknown pipeline, until a restart."""
    monkeypatch.setattr("headrace.kafka.follower._RETRY_S", 0.0)
    following = follower(refusal, refusal, VERSION)
    following.deliver(RECORD)
    assert following.latest("late") == ("late", 3)


def test_the_wait_names_the_registry_that_refuses() -> None:
    """Broken: an operator searches Kafka while the registry is to blame."""
    following = follower()
    following._failure = DependencyDown("schema registry", "the registry answered HTTP 401", remedy="Give it a login.")
    with pytest.raises(
        DependencyDown, match=r"was not read to its end within 0.01 s: the registry answered HTTP 401"
    ) as caught:
        following.wait_until_read(0.01)
    assert (caught.value.dependency, caught.value.remedy) == ("schema registry", "Give it a login.")


def test_one_bad_record_hides_no_other() -> None:
    """Broken: a stray record in the topic keeps every service from starting."""
    following = follower(UndecodableRecord("stray"), VERSION)
    following.deliver(RECORD)
    following.deliver(RECORD)
    assert following.latest("late") == ("late", 3)
