"""A poison document over a real stream: dead-lettered, sent again in vain, and indexed once its cause is gone."""

from __future__ import annotations

import time

import pytest

from headrace.handlers.pipelines_log import apply
from headrace.topology.stages import DOCUMENT_STAGES
from headrace_operations.actions import ActionRequest
from headrace_operations.dead_letters.act import REDRIVEN, Actor, plan
from headrace_operations.dead_letters.log import DeadLetterLog
from headrace_operations.dead_letters.model import ANY_STATE, Entry, Selection
from headrace_testing.data import reference_with_edits
from headrace_testing.deployment import Deployment, Place
from headrace_testing.fold import fold
from headrace_testing.oracle import versions
from headrace_testing.stream import TENANT, publish, wait_until_stored
from headrace_testing.user_package import stream

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
OPEN = Selection()


class Operator:
    """Whoever looks at dead letters and sends them again."""

    def __init__(self, place: Place) -> None:
        self.kafka, self.codec = place.kafka_settings(), place.codec()
        self.log = DeadLetterLog(self.kafka, self.codec)

    def wait_for(self, count: int, selection: Selection = OPEN) -> list[Entry]:
        """Return the dead letters as soon as there are so many."""
        deadline = time.monotonic() + 60
        while len(found := self.log.select(selection)) < count:
            assert time.monotonic() < deadline, f"{len(found)} dead letters, expected {count}"
            time.sleep(0.1)
        return found

    def redrive(self, entries: list[Entry]) -> None:
        """Send them again."""
        request = ActionRequest(REDRIVEN, "b", "olga")
        assert len(Actor(self.kafka, self.codec).carry_out(plan(entries, request, named=False).taken, request)) == 1


def test_a_poison_document_is_indexed_once_its_cause_is_gone(deployment: Deployment, place: Place, seed: int) -> None:
    """A redriven record would be lost, hold others up, lose its history, or end other than if it had never failed."""
    changes = reference_with_edits(edits=0, seed=seed, documents=4)
    changes[1]["pipeline"] = "late"
    operator = Operator(place)
    publish(operator.kafka, changes)
    deployment.start_all(*(flow.name for flow in DOCUMENT_STAGES))
    (first,) = operator.wait_for(1)
    assert (first.reason, first.document_id) == ("unknown-pipeline", changes[1]["id"])
    wait_until_stored(deployment, fold(versions(TENANT, [changes[0], *changes[2:]])), 60, print)

    operator.redrive([first])
    again = operator.wait_for(2, Selection(states=ANY_STATE))[-1]
    assert [found.entry.id for found in operator.log.show(again.id)] == [again.id, first.id]
    assert again.origin == first.origin

    apply(operator.kafka, operator.codec, stream("late"), applied_by="test")
    operator.redrive([again])
    wait_until_stored(deployment, fold(versions(TENANT, changes)), 60, print)
    assert operator.log.select(OPEN) == []
