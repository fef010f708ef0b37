"""Requests to send dead letters again or to discard them: which are meant, what is planned, what is done."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from headrace.errors import ConfigurationError, DependencyDown
from headrace_operations.dead_letters.act import DISCARDED, REDRIVEN
from headrace_operations.dead_letters.carry_out import Asked, Request, carry_out, plan_request
from headrace_operations.dead_letters.model import Id, NoSuchDeadLetter, RefusedDeadLetter, Selection, State
from headrace_testing.cluster import FakeCluster, dead_letter

pytestmark = pytest.mark.unit

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
INGEST = Selection(stage="ingest")


@pytest.fixture
def cluster() -> FakeCluster:
    """Two dead letters that can be sent again, and one that cannot."""
    made = FakeCluster()
    made.contents.letters += [
        dead_letter(1),
        dead_letter(2),
        dead_letter(3, id=Id("chunker", 0, 1), tenant=None, whole="it was cut"),
    ]
    return made


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (Asked(ids=["ingest/0/1"], stage="ingest"), "cannot be combined"),
        (Asked(ids=["nonsense"]), "invalid dead-letter ID"),
        (Asked(stage="chunkr"), "unknown stage 'chunkr'"),
        (Asked(since=datetime(2999, 1, 1, tzinfo=UTC)), "future"),
    ],
)
def test_what_cannot_be_meant_is_refused(asked: Asked, says: str) -> None:
    """Broken: a misspelt condition selects nothing, and whoever asked believes that all is well."""
    with pytest.raises(ConfigurationError, match=says):
        asked.selection(NOW)


def test_only_open_ones_are_meant_unless_they_are_named_otherwise() -> None:
    """Broken: a redrive takes in what was discarded, or a batch is not found again."""
    only_open = frozenset({State.OPEN})
    assert Asked(stage="ingest").selection(NOW).states == only_open
    for asked in (Asked(ids=["ingest/0/1"]), Asked(batch="b"), Asked(all_states=True)):
        assert asked.selection(NOW).states == frozenset(State)


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (Request(REDRIVEN, Selection()), "no dead letters selected"),
        (Request(DISCARDED, Selection(), "x"), "no dead letters selected"),
        (Request(DISCARDED, INGEST, " "), "requires a reason"),
    ],
)
def test_a_request_without_a_condition_or_a_reason_is_refused_before_anything_is_read(
    request_: Request, says: str, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: a command without a condition takes in every dead letter."""
    monkeypatch.setattr(FakeCluster, "dead_letters", lambda _: pytest.fail("something was read"))
    with pytest.raises(ConfigurationError, match=says):
        plan_request(cluster, request_)


def test_again_takes_in_what_was_redriven_and_by_name_also_what_was_discarded() -> None:
    """Broken: --again sends discarded records of a whole stage."""
    assert Request(REDRIVEN, INGEST, again=True).checked().selection.states == {State.OPEN, State.REDRIVEN}
    named = Selection(ids=frozenset({Id("ingest", 0, 1)}))
    assert Request(REDRIVEN, named, again=True).checked().selection.states == frozenset(State)


def test_a_plan_moves_nothing_and_says_what_is_left_out(cluster: FakeCluster) -> None:
    """Broken: trying a redrive out sends records, or tells too many."""
    planned = plan_request(cluster, Request(REDRIVEN, Selection(), everything=True))
    assert [str(one.id) for one in planned.plan.taken] == ["ingest/0/1", "ingest/0/2"]
    assert [(str(one.id), why) for one, why in planned.plan.refused] == [("chunker/0/1", "it was cut")]
    assert cluster.contents.events == []
    discarded = plan_request(cluster, Request(DISCARDED, Selection(), "x", everything=True))
    assert (len(discarded.plan.taken), discarded.plan.refused) == (3, [])
    limited = plan_request(cluster, Request(DISCARDED, Selection(), "x", everything=True, limit=1))
    assert [str(one.id) for one in limited.plan.taken] == ["ingest/0/1"]


def test_a_request_is_noted_with_who_and_why_and_has_an_identity_of_its_own(cluster: FakeCluster) -> None:
    """Broken: nobody knows who discarded a record, or two commands pass for one."""
    first = plan_request(cluster, Request(DISCARDED, INGEST, "x", limit=1))
    assert (first.request.acted_by, first.request.why, first.request.action) == ("olga", "x", "DISCARDED")
    counted: list[int] = []
    done = carry_out(cluster, first, counted.append)
    assert ([str(one.id) for one in done.taken], done.overtaken, counted) == (["ingest/0/1"], 0, [1])
    assert cluster.contents.events == [("DISCARDED", ("ingest/0/1",), "x")]
    assert [one.state for one in cluster.contents.letters] == [State.DISCARDED, State.OPEN, State.OPEN]
    second = plan_request(cluster, Request(DISCARDED, INGEST, "x"))
    assert [str(one.id) for one in second.plan.taken] == ["ingest/0/2"]
    assert second.request.batch != first.request.batch


def test_what_another_command_did_meanwhile_is_counted(cluster: FakeCluster) -> None:
    """Broken: a redrive claims records that another one sent."""
    cluster.contents.overtaken.add(Id("ingest", 0, 2))
    done = carry_out(cluster, plan_request(cluster, Request(REDRIVEN, INGEST)))
    assert ([str(one.id) for one in done.taken], done.overtaken) == (["ingest/0/1"], 1)


def test_what_does_not_exist_or_cannot_be_sent_is_an_error(cluster: FakeCluster) -> None:
    """Broken: a script takes a misspelt document for one that is well."""
    with pytest.raises(NoSuchDeadLetter, match="no open dead letter matches"):
        plan_request(cluster, Request(REDRIVEN, Selection(document="nobody")))
    with pytest.raises(NoSuchDeadLetter, match="ingest/0/99"):
        plan_request(cluster, Request(REDRIVEN, Asked(ids=["ingest/0/99"]).selection(NOW)))
    with pytest.raises(RefusedDeadLetter, match="it was cut"):
        plan_request(cluster, Request(REDRIVEN, Asked(ids=["chunker/0/1"]).selection(NOW)))
    cluster.contents.down = DependencyDown("kafka", "gone")
    with pytest.raises(DependencyDown):
        carry_out(cluster, plan_request(cluster, Request(REDRIVEN, INGEST)))
