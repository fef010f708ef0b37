"""Pausing and resuming: which orders are given, and what is released after them."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import product

import pytest

from headrace.errors import ConfigurationError, DependencyDown
from headrace.orders.control import Scope
from headrace.payloads import PipelineVersion, ReplayRun
from headrace_operations.held.model import HeldEntry, HeldId, HeldSelection
from headrace_operations.held.release import waiting
from headrace_operations.orders.pause import (
    READ_S,
    NoSuchPipeline,
    OrderRequest,
    Steps,
    Target,
    pause,
    resume,
    targets,
)
from headrace_operations.replay import runs
from headrace_operations.replay.selection import RefusedReplay
from headrace_testing.cluster import FakeCluster

pytestmark = pytest.mark.unit

AT = datetime(2026, 1, 1, tzinfo=UTC)


def held(stage: str, number: int, scope: str) -> HeldEntry:
    """A record that waits."""
    return HeldEntry(HeldId(stage, 0, number), "pause", scope, "why", AT, None, "acme", "a.md", 1, None, "t/0/1", 5)


@pytest.fixture
def cluster() -> FakeCluster:
    """Two generations: in each an embedder's record waits for a tenant, and the chunker's for a pipeline in both."""
    made = FakeCluster()
    shared = held("chunker", 1, "pipeline/default")
    made.contents.held |= {
        "g1": [held("embedder", 1, "tenant/acme"), shared],
        "g2": [held("embedder", 1, "tenant/acme"), shared],
    }
    made.contents.pipelines.add(PipelineVersion("default", 1, "{}", "", "olga", AT))
    return made


REQUEST = OrderRequest([Target(Scope.TENANT, "acme"), Target(Scope.PIPELINE, "default")], "over")


def test_a_resume_gives_the_order_first_and_releases_until_nothing_is_left(cluster: FakeCluster) -> None:
    """Broken: what is released is held again by workers that do not know of the resume, or a part stays behind."""
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        cluster.contents.events.append(("slept",))
        if len(slept) == 2:  # a batch that was under way sets one more aside
            cluster.contents.held["g2"].append(held("embedder", 9, "tenant/acme"))

    done = resume(cluster, REQUEST, steps=Steps(sleep=sleep))
    scopes = frozenset({"tenant/acme", "pipeline/default"})
    one_pass = [("slept",), ("RELEASED", "g1", scopes, "over"), ("RELEASED", "g2", scopes, "over")]
    assert cluster.contents.events == [
        ("order", "RESUME", "tenant", "acme", "over"), ("order", "RESUME", "pipeline", "default", "over"),
        *one_pass, *one_pass, *one_pass,
    ]  # fmt: skip
    assert slept == [READ_S] * 3
    assert done.released == {"tenant/acme": 3, "pipeline/default": 2}
    assert [order.action for order in done.given] == ["RESUME", "RESUME"]
    assert cluster.contents.held == {"g1": [], "g2": []}


def test_a_release_ends_after_ten_passes_whatever_comes(cluster: FakeCluster) -> None:
    """Broken: a tenant that is paused again and again keeps the command for ever."""

    def sleep(_: float) -> None:
        cluster.contents.held["g1"].append(held("embedder", 9, "tenant/acme"))

    resume(cluster, REQUEST, steps=Steps(sleep=sleep))
    assert len(cluster.contents.happened("RELEASED")) == 20


def test_a_dry_run_changes_nothing_and_counts_a_shared_lanes_record_once(cluster: FakeCluster) -> None:
    """Broken: trying a resume out resumes, or tells more records than wait."""
    assert pause(cluster, REQUEST, dry_run=True).given == ()
    assert resume(cluster, REQUEST, dry_run=True).released == {"tenant/acme": 2, "pipeline/default": 1}
    assert waiting(cluster, HeldSelection(tenant="nobody")) == {}
    assert cluster.contents.events == []


def test_stages_and_replays_hold_no_record(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: resuming a stage waits, and sends what a tenant's pause holds."""
    monkeypatch.setattr("headrace_operations.orders.pause.read_open", lambda *_: None)
    request = OrderRequest(targets(stages=["all"], run="r1"))
    done = resume(cluster, request, steps=Steps(sleep=lambda _: pytest.fail("it waited")))
    assert (len(done.given), done.released) == (6, {})
    assert cluster.contents.happened("RELEASED") == []


def test_a_pipeline_that_was_never_applied_is_refused_before_any_order(cluster: FakeCluster) -> None:
    """Broken: a misspelt pipeline looks paused, if only in a dry run, or the tenant beside it is paused."""
    wrong = OrderRequest([Target(Scope.TENANT, "acme"), Target(Scope.PIPELINE, "defualt")])
    for act, dry_run in product((pause, resume), (False, True)):
        with pytest.raises(NoSuchPipeline, match="unknown pipeline defualt") as caught:
            act(cluster, wrong, dry_run=dry_run)
        assert caught.value.remedy == "Existing pipelines: default."
    assert cluster.contents.events == []


def test_a_replay_that_never_started_or_is_done_is_refused_before_any_order(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: a misspelt replay looks paused, if only in a dry run, while the real one goes on."""
    done = ReplayRun("r1", "chunker", "", None, None, None, (), 0, runs.DONE, "olga", AT, AT)
    monkeypatch.setattr(runs, "read_runs", lambda *_: {"r1": done})
    for act, dry_run, name in product((pause, resume), (False, True), ("r1", "r2")):
        with pytest.raises(RefusedReplay, match=f"replay.*{name}"):
            act(cluster, OrderRequest([Target(Scope.TENANT, "acme"), Target(Scope.RUN, name)]), dry_run=dry_run)
    assert cluster.contents.events == []


def test_targets_are_each_named_once_and_checked() -> None:
    """Broken: one stage is ordered twice, a misspelt one never stops, or no target means all."""
    assert targets(["embedder", "embedder"], ["b", "a", "b"], ["p"], "r") == [
        (Scope.STAGE, "embedder"), (Scope.TENANT, "b"), (Scope.TENANT, "a"), (Scope.PIPELINE, "p"), (Scope.RUN, "r"),
    ]  # fmt: skip
    assert [name for _, name in targets(["all"])] == ["ingest", "chunker", "embedder", "indexer", "generator"]
    with pytest.raises(ConfigurationError, match="unknown stage nope"):
        targets(["nope"])
    with pytest.raises(ConfigurationError, match="no target selected"):
        targets()


def test_an_outage_ends_a_resume_before_anything_is_released(cluster: FakeCluster) -> None:
    """Broken: records are released that workers hold again, for the order was never given."""
    cluster.contents.down = DependencyDown("kafka", "gone")
    with pytest.raises(DependencyDown, match="gone"):
        resume(cluster, REQUEST)
    assert cluster.contents.events == []
    assert cluster.contents.orders.newest(Scope.TENANT, "acme") is None
