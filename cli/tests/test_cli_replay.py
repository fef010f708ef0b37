"""``replay`` as its users meet it, as far as that needs no Kafka."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from typer.testing import CliRunner

from headrace.payloads import ReplayPosition, ReplayRun
from headrace_cli.app import app
from headrace_operations.replay import plan as planning
from headrace_operations.replay import runs as runs_log
from headrace_operations.replay.copier import Copier
from headrace_operations.replay.plan import Estimate, Planned
from headrace_testing.cluster import Contents

pytestmark = pytest.mark.unit

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
RUN = ReplayRun(
    "r1", "chunker", "all", None, None, None, (ReplayPosition(0, 0, 5, 10),), 5, "RUNNING", "ada", NOW, NOW, "documents"
)  # fmt: skip


def run(*arguments: str, code: int = 0) -> Any:
    """Run the command and check its exit code."""
    result = CliRunner().invoke(app, ["replay", *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch, contents: Contents) -> dict[str, Any]:
    """One run, and nothing that would copy. Holds the runs, what was planned and what was copied."""
    known: dict[str, Any] = {"runs": {"r1": RUN}, "planned": [], "copied": []}
    monkeypatch.setattr("headrace_operations.replay.start.OBEYS_S", 0.0)
    monkeypatch.setattr(runs_log, "read_runs", lambda *_: known["runs"])

    def plan(_: object, selection: Any, **__: object) -> Planned:
        known["planned"].append(selection)
        return Planned(RUN, {3: 17})

    async def estimate(*_: object) -> Estimate:
        return Estimate(7, 5, None)

    def carry_out(_: object, run_id: str, __: object) -> ReplayRun:
        known["copied"].append(run_id)
        return replace(RUN, state="DONE")

    monkeypatch.setattr(planning, "plan", plan)
    monkeypatch.setattr(planning, "estimate", estimate)
    monkeypatch.setattr(Copier, "__init__", lambda *_, **__: None)
    monkeypatch.setattr(Copier, "begin", lambda _, run: known["copied"].append(f"begin {run.run_id}"))
    monkeypatch.setattr(Copier, "carry_out", carry_out)
    monkeypatch.setattr(Copier, "cancel", lambda *_: replace(RUN, state="CANCELLED"))
    return known


def test_a_dry_run_moves_nothing_and_tells_what_aged_out(log: dict[str, Any]) -> None:
    """Broken: a dry run sends records, or older records are left out in silence."""
    said = run("--stage", "chunker", "--all", "--dry-run", "--json")
    document = json.loads(said.stdout)
    assert (document["records"], document["documents"], document["cut_off"]) == (7, 5, {"3": 17})
    assert "documents[3] starts at offset 17" in said.stderr
    assert log["copied"] == []


def test_start_may_be_left_out(log: dict[str, Any]) -> None:
    """Broken: `replay --stage S` is refused, or carries something else out than `replay start --stage S`."""
    run("--stage", "chunker", "--all")
    run("start", "--stage", "chunker", "--all")
    assert log["copied"] == ["begin r1", "r1"] * 2
    assert log["planned"][0] == log["planned"][1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--stage", "chunker", "--from-offset", "documents:1"), "TOPIC:PARTITION:OFFSET"),
        (("--stage", "chunker", "--from-offset", "changes:0:1"), "source topic documents"),
        (("--stage", "chunker", "--all", "--into", "g2"), "--into"),
        (("--stage", "chunker", "--since", "yesterdayish"), "--since"),
    ],
)
def test_what_makes_no_sense_is_refused(log: dict[str, Any], arguments: tuple[str, ...], says: str) -> None:
    """Broken: a place in a topic that the stage does not read is taken for one that it does."""
    assert says in run(*arguments, code=2).output
    assert log["planned"] == []


def test_orders_go_to_a_run_that_exists_and_is_not_over(log: dict[str, Any], contents: Contents) -> None:
    """Broken: a misspelt run, or one that is over, looks paused; or a cancelled one is taken up again."""
    run("pause", "r1")
    assert json.loads(run("resume", "r1", "--json").stdout)["state"] == "DONE"
    assert [order[0] for order in contents.happened("order")] == ["PAUSE", "RESUME"]
    assert "The newest replays are: r1" in run("pause", "r2", code=1).output
    log["runs"]["r1"] = replace(RUN, state="CANCELLED")
    for action in ("pause", "resume", "cancel"):
        assert "is already cancelled" in run(action, "r1", code=1).output
    assert [order[0] for order in contents.happened("order")] == ["PAUSE", "RESUME"]


def test_a_run_that_nobody_carries_out_is_cancelled_all_the_same(log: dict[str, Any], contents: Contents) -> None:
    """Broken: a replay whose command died stays open after it was cancelled, and can be taken up again."""
    assert json.loads(run("cancel", "r1", "--json").stdout)["state"] == "CANCELLED"
    assert contents.happened("order") == [("CANCEL", "run", "r1", "")]


def test_the_list_and_the_status_tell_how_far_each_is(log: dict[str, Any]) -> None:
    """Broken: nobody sees how far a replay is."""
    assert json.loads(run("status", "r1", "--json").stdout)["percent"] == 50
    assert "50 %" in run("list").output
