"""``pause``, ``resume`` and ``orders`` as their users meet them, and the commands about held records."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from typer.testing import CliRunner

from headrace.errors import DependencyDown
from headrace.payloads import PipelineVersion
from headrace_cli.app import app
from headrace_cli.exit_codes import ExitCode
from headrace_operations.held.model import HeldEntry, HeldId
from headrace_testing.cluster import Contents

pytestmark = pytest.mark.unit


def run(*arguments: str, code: int = 0) -> Any:
    """Run the command and check its exit code."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result


def held(number: int, scope: str = "tenant/acme", kind: str = "pause") -> HeldEntry:
    """A record that waits."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    why = "paused by olga\x1b[2J"
    return HeldEntry(
        HeldId("chunker", 0, number), kind, scope, why, at, None, "acme", "a.md", 1, None, "t/0/1", 5
    )  # fmt: skip


@pytest.fixture
def waiting(contents: Contents, monkeypatch: pytest.MonkeyPatch) -> Contents:
    """Two records of a paused tenant wait, and there is a pipeline; no second passes."""
    contents.held |= {"g1": [held(1), held(2)], "g2": []}
    contents.pipelines.add(PipelineVersion("default", 1, "{}", "", "olga", datetime(2026, 1, 1, tzinfo=UTC)))
    monkeypatch.setattr("headrace_operations.orders.pause.READ_S", 0.0)
    return contents


def test_stages_and_replays_are_paused_and_resumed_by_name(contents: Contents, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: another stage than the named one stops."""
    monkeypatch.setattr("headrace_operations.orders.pause.read_open", lambda *_: None)
    result = run("pause", "--stage", "embedder", "--stage", "embedder", "--run", "r1", "--why", "night")
    assert contents.events == [
        ("order", "PAUSE", "stage", "embedder", "night"), ("order", "PAUSE", "run", "r1", "night"),
    ]  # fmt: skip
    assert "stage embedder: paused" in result.output
    run("resume", "--stage", "all")
    stages = [target for _, _, target, _ in contents.happened("order")[2:]]
    assert stages == ["ingest", "chunker", "embedder", "indexer", "generator"]
    assert "PAUSE" in run("orders").output


def test_a_dry_run_orders_nothing(contents: Contents) -> None:
    """Broken: trying a command out stops production."""
    assert "would be paused" in run("pause", "--stage", "chunker", "--dry-run").output
    assert json.loads(run("pause", "--stage", "chunker", "--dry-run", "--json").stdout)["ordered"] == []
    assert contents.events == []


@pytest.mark.parametrize(
    ("arguments", "says"), [(["--stage", "nope"], "ingest, chunker"), ([], "Pass --stage")], ids=["unknown", "none"]
)
def test_an_order_without_a_known_target_names_what_there_is(
    contents: Contents, arguments: list[str], says: str
) -> None:
    """Broken: a misspelt stage looks paused and is not."""
    assert says in run("pause", *arguments, code=ExitCode.USAGE).output
    assert contents.events == []


def test_a_resume_says_what_it_released(waiting: Contents) -> None:
    """Broken: nobody learns how many records went on, or a script reads another number than people do."""
    told = json.loads(run("resume", "--tenant", "acme", "--pipeline", "default", "--json").stdout)
    assert told["released"] == {"tenant/acme": 2, "pipeline/default": 0}
    waiting.held["g1"] += [held(1), held(2)]
    said = run("resume", "--tenant", "acme")
    assert said.stdout.splitlines() == ["tenant acme: resumed", "tenant acme: 2 held records released"]
    assert "until every worker has read the order" in said.stderr


def test_what_only_waits_in_its_topic_needs_no_release(waiting: Contents) -> None:
    """Broken: pausing a tenant, or resuming a stage, sends held records."""
    run("pause", "--tenant", "acme", "--why", "night")
    run("resume", "--stage", "chunker")
    assert waiting.events[0] == ("order", "PAUSE", "tenant", "acme", "night")
    assert waiting.happened("RELEASED") == []


def test_a_dry_resume_says_how_many_wait(waiting: Contents) -> None:
    """Broken: trying a resume out resumes."""
    assert "2 held records would be released" in run("resume", "--tenant", "acme", "--dry-run").output
    assert waiting.events == []


def test_a_pipeline_that_does_not_exist_is_refused_naming_those_that_do(waiting: Contents) -> None:
    """Broken: a misspelt pipeline looks paused and is not."""
    assert "default" in run("pause", "--pipeline", "defualt", code=ExitCode.NOT_FOUND).output
    assert "default" in run("pause", "--pipeline", "defualt", "--dry-run", code=ExitCode.NOT_FOUND).output
    assert waiting.events == []


def test_a_release_that_fails_tells_so(waiting: Contents, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a resume that sent nothing looks as if it had."""

    def fail(*_: object) -> None:
        raise DependencyDown("kafka", "it is gone; 3 records were released before")

    monkeypatch.setattr("headrace_operations.orders.pause.release", fail)
    assert "3 records were" in run("resume", "--tenant", "acme", code=ExitCode.UNREACHABLE).output


def test_lists_of_held_records_cannot_drive_the_terminal(waiting: Contents) -> None:
    """Broken: a reason that somebody gave clears an operator's screen."""
    output = run("held", "list").output
    assert "\\x1b[2J" in output
    assert "\x1b[2J" not in output
    assert "unknown kind 'nap'" in run("held", "list", "--kind", "nap", code=ExitCode.USAGE).output


def test_a_list_of_held_records_says_what_each_waits_for_and_which_command_ends_it(contents: Contents) -> None:
    """Broken: what a cap holds is said to wait for a pause, and nobody learns how it goes on."""
    contents.held["g1"] += [held(1), held(2), held(3, "cap/acme"), held(4, "pipeline/default", "review")]
    told = run("held", "list")
    assert [line.split()[1] for line in told.stdout.splitlines() if "chunker/" in line] == [
        "pause", "pause", "cap", "review",
    ]  # fmt: skip
    raised = "raise the cap of acme in the file of HEADRACE_COST_FILE, then run headrace embeddings release"
    assert told.stderr.splitlines() == [
        "what to do (tenant/acme): headrace resume --tenant acme",
        f"what to do (cap/acme): {raised}",
        "what to do (review): headrace review approve ID (or reject)",
    ]
    listed = json.loads(run("held", "list", "--json").stdout)
    assert [one["waits_for"] for one in listed] == ["pause", "pause", "cap", "review"]
    assert listed[3]["ends"] == "headrace review approve chunker/0/4 (or reject)"


def test_a_list_of_held_records_of_many_tenants_stays_short(contents: Contents) -> None:
    """Broken: after a thousand paused tenants the list itself scrolls away behind a thousand commands."""
    contents.held["g1"] += [held(number, f"tenant/t{number}") for number in range(12)]
    lines = run("held", "list").stderr.splitlines()
    assert (len(lines), lines[-1]) == (11, "what to do: 2 more, see `headrace held list --json`")


def test_a_review_is_decided_on_once_and_a_dry_run_decides_nothing(contents: Contents) -> None:
    """Broken: trying a decision out makes it, or a second one of a record that is gone looks as if it had worked."""
    contents.held["g1"].append(held(4, "pipeline/default", "review"))
    assert "would be approved" in run("review", "approve", "chunker/0/4", "--dry-run").output
    assert contents.events == []
    assert json.loads(run("review", "approve", "chunker/0/4", "--why", "good", "--json").stdout)["count"] == 1
    assert contents.events == [("APPROVED", ("chunker/0/4",), "good")]
    assert "review list" in run("review", "approve", "chunker/0/4", code=ExitCode.NOT_FOUND).output
    assert "review list" in run("review", "show", "chunker/0/4", code=ExitCode.NOT_FOUND).output


def test_a_rejection_needs_a_reason_and_ids_that_can_be() -> None:
    """Broken: a dead letter says that somebody rejected it, and nobody knows why."""
    assert "requires a reason" in run("review", "reject", "chunker/0/1", "--why", " ", code=ExitCode.USAGE).output
    assert "invalid held-record ID" in run("review", "approve", "nostage/0/1", code=ExitCode.USAGE).output
