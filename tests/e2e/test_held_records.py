"""A paused tenant waits and loses nothing while others go on; what is to be reviewed waits for its reviewer."""

from __future__ import annotations

import getpass
import json
import time
from typing import Any

import pytest
from typer.testing import CliRunner

from headrace.handlers.pipelines_log import apply
from headrace.orders import control
from headrace.pipeline import Review
from headrace.topology.stages import DOCUMENT_STAGES
from headrace_cli.app import app
from headrace_operations.dead_letters.log import DeadLetterLog
from headrace_operations.dead_letters.model import Selection
from headrace_operations.held.log import HeldLog
from headrace_operations.held.model import HeldEntry, HeldSelection
from headrace_operations.orders import log as orders_log
from headrace_testing.data import reference_with_edits
from headrace_testing.deployment import Deployment, Place
from headrace_testing.fold import fold
from headrace_testing.oracle import versions
from headrace_testing.stream import TENANT, publish, wait_until_stored
from headrace_testing.user_package import stream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
PAUSED = "acme"


class Operator:
    """Whoever pauses, resumes and reviews."""

    def __init__(self, place: Place) -> None:
        self.kafka, self.codec, self.registry = place.kafka_settings(), place.codec(), place.registry

    def waiting(self, **asked: Any) -> list[HeldEntry]:
        """What waits."""
        return HeldLog(self.kafka, self.codec).select(HeldSelection(**asked))

    def wait_for(self, count: int, **asked: Any) -> list[HeldEntry]:
        """What waits, as soon as it is so many."""
        deadline = time.monotonic() + 60
        while len(found := self.waiting(**asked)) != count:
            assert time.monotonic() < deadline, f"{len(found)} records wait, expected {count}"
            time.sleep(0.2)
        return found

    def run(self, *words: str) -> Any:
        """Run the command line and return its JSON."""
        place = ("--kafka", self.kafka.bootstrap, "--registry", self.registry, "--json")
        env = {"HEADRACE_KAFKA_TOPIC_PREFIX": self.kafka.topic_prefix}
        result = CliRunner().invoke(app, [*words, *place], env=env)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)


@pytest.fixture
def operator(place: Place) -> Operator:
    """Somebody with access to Kafka."""
    return Operator(place)


def test_a_paused_tenant_waits_and_another_does_not(deployment: Deployment, operator: Operator, seed: int) -> None:
    """A pause would stop other tenants, or a resume would lose the paused one's documents or do them twice."""
    orders_log.give(
        operator.kafka, operator.codec, action=control.Action.PAUSE, scope=control.Scope.TENANT, target=PAUSED,
        reason="why", issued_by="olga",
    )  # fmt: skip
    paused, other = (reference_with_edits(edits=6, seed=seed + number, documents=6) for number in range(2))
    publish(operator.kafka, paused, PAUSED)
    publish(operator.kafka, other)
    deployment.start_all(*(flow.name for flow in DOCUMENT_STAGES))
    wait_until_stored(deployment, fold(versions(TENANT, other)), 60, print)
    held = operator.wait_for(len(paused), scopes=frozenset({f"tenant/{PAUSED}"}))
    assert {(entry.id.stage, entry.kind, entry.tenant) for entry in held} == {("ingest", "pause", PAUSED)}
    assert held[0].why == "paused by olga: why"

    assert operator.run("resume", "--tenant", PAUSED, "--dry-run")["would_release"] == {f"tenant/{PAUSED}": len(paused)}
    assert len(operator.waiting()) == len(paused)
    assert operator.run("resume", "--tenant", PAUSED)["released"] == {f"tenant/{PAUSED}": len(paused)}
    both = [*versions(TENANT, other), *versions(PAUSED, paused)]
    wait_until_stored(deployment, fold(both), 60, print)
    assert operator.waiting() == []
    assert DeadLetterLog(operator.kafka, operator.codec).select(Selection()) == []


def test_what_a_pipeline_has_reviewed_waits_for_its_reviewer(
    deployment: Deployment, operator: Operator, seed: int
) -> None:
    """Outputs would pass their gate, hold other documents up, or a reviewer's word would change or lose them."""
    apply(operator.kafka, operator.codec, stream("reviewed", review=Review.REQUIRED), applied_by="test")
    changes = reference_with_edits(edits=0, seed=seed, documents=5)
    for change in changes[:3]:
        change["pipeline"] = "reviewed"
    publish(operator.kafka, changes)
    deployment.start_all(*(flow.name for flow in DOCUMENT_STAGES))
    wait_until_stored(deployment, fold(versions(TENANT, changes[3:])), 60, print)
    good, bad, *_ = ids = [str(entry.id) for entry in operator.wait_for(3, kind="review")]
    rejected = operator.run("review", "show", bad)["document"]

    assert operator.run("review", "approve", good, ids[2])["count"] == 2
    assert operator.run("review", "approve", good)["count"] == 0
    assert operator.run("review", "reject", bad, "--why", "it is cut")["ids"] == [bad]
    stored = [change for change in changes if change["id"] != rejected]
    wait_until_stored(deployment, fold(versions(TENANT, stored)), 60, print)
    (letter,) = DeadLetterLog(operator.kafka, operator.codec).select(Selection())
    assert (letter.reason, letter.document_id, letter.id.stage) == ("rejected", rejected, "chunker")
    assert letter.message.startswith(f"rejected by {getpass.getuser()}: it is cut")
    assert operator.waiting() == []
