"""``pause``, ``resume`` and ``orders`` as their users meet them, and the commands about held records."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from typer.testing import CliRunner

from headrace import control, pipelines_log
from headrace.errors import DependencyDown
from headrace.records import Control, PipelineVersion
from headrace.settings import KafkaSettings
from headrace_cli.app import app
from headrace_cli.commands import held as held_commands
from headrace_cli.commands import orders as control_commands
from headrace_cli.exit_codes import ExitCode
from headrace_operations.held.act import Done, HeldActor
from headrace_operations.held.log import HeldLog
from headrace_operations.held.model import HeldEntry, HeldId, HeldOrder
from headrace_operations.trace.log import LogScanner

pytestmark = pytest.mark.unit


def run(*arguments: str, code: int = 0) -> Any:
    """Run the command and check its exit code."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str, str]]:
    """The orders that the command gives, with nobody to give them to."""
    orders: list[tuple[str, str, str, str]] = []

    def give(*_: object, action: str, scope: str, target: str, reason: str, issued_by: str) -> Control:
        orders.append((action, scope, target, reason))
        return Control(action, scope, target, reason, issued_by, datetime(2026, 1, 1, tzinfo=UTC))

    monkeypatch.setattr(control, "give", give)
    monkeypatch.setattr(control_commands, "clients", lambda *_: (KafkaSettings(), None))
    return orders


def test_stages_and_replays_are_paused_and_resumed_by_name(given: list[tuple[str, str, str, str]]) -> None:
    """Broken: another stage than the named one stops."""
    result = run("pause", "--stage", "embedder", "--stage", "embedder", "--run", "r1", "--why", "night")
    assert given == [("PAUSE", "stage", "embedder", "night"), ("PAUSE", "run", "r1", "night")]
    assert "stage embedder: paused" in result.output
    run("resume", "--stage", "all")
    assert [target for _, _, target, _ in given[2:]] == ["ingest", "chunker", "embedder", "indexer", "generator"]


def test_a_dry_run_orders_nothing(given: list[tuple[str, str, str, str]]) -> None:
    """Broken: trying a command out stops production."""
    assert "would be paused" in run("pause", "--stage", "chunker", "--dry-run").output
    assert json.loads(run("pause", "--stage", "chunker", "--dry-run", "--json").stdout)["ordered"] == []
    assert given == []


@pytest.mark.parametrize(
    ("arguments", "says"), [(["--stage", "nope"], "ingest, chunker"), ([], "Name a --stage")], ids=["unknown", "none"]
)
def test_an_order_without_a_known_target_names_what_there_is(
    given: list[tuple[str, str, str, str]], arguments: list[str], says: str
) -> None:
    """Broken: a misspelt stage looks paused and is not."""
    assert says in run("pause", *arguments, code=ExitCode.USAGE).output
    assert given == []


def held(number: int, scope: str = "tenant/acme", kind: str = "pause") -> HeldEntry:
    """A record that waits."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return HeldEntry(
        HeldId("chunker", 0, number),
        kind,
        scope,
        "paused by olga\x1b[2J",
        at,
        None,
        "acme",
        "a.md",
        1,
        None,
        "t/0/1",
        5,
    )


@pytest.fixture
def released(
    monkeypatch: pytest.MonkeyPatch, given: list[tuple[str, str, str, str]]
) -> list[tuple[int, frozenset[str]]]:
    """The passes that release records: how many orders were given before, and the scopes; the first finds two."""
    passes: list[tuple[int, frozenset[str]]] = []

    def release(_: object, scopes: frozenset[str], order: HeldOrder, progress: Any) -> Done:
        assert order.action == "RELEASED"
        passes.append((len(given), scopes))
        return Done([held(1), held(2)] if len(passes) == 1 else [])

    monkeypatch.setattr(LogScanner, "generations", lambda _: ["g1", "g2"])
    monkeypatch.setattr(HeldActor, "__init__", lambda *_: None)
    monkeypatch.setattr(HeldActor, "release", release)
    monkeypatch.setattr(HeldLog, "__init__", lambda *_: None)
    monkeypatch.setattr(HeldLog, "select", lambda *_: [held(1)])
    monkeypatch.setattr(control_commands, "READ_S", 0.0)
    monkeypatch.setattr(held_commands, "clients", lambda *_: (None, None))
    catalogue = pipelines_log.PipelineCatalogue()
    catalogue.add(PipelineVersion("default", 1, "{}", "", "olga", datetime(2026, 1, 1, tzinfo=UTC)))
    monkeypatch.setattr(pipelines_log, "read_all", lambda *_: catalogue)
    return passes


def test_a_resume_gives_the_order_first_and_releases_until_nothing_is_left(
    given: list[tuple[str, str, str, str]], released: list[tuple[int, frozenset[str]]]
) -> None:
    """Broken: what is released is held again by workers that do not know of the resume, or a part stays behind."""
    told = json.loads(run("resume", "--tenant", "acme", "--pipeline", "default", "--json").stdout)
    assert [(action, scope, target) for action, scope, target, _ in given] == [
        ("RESUME", "tenant", "acme"), ("RESUME", "pipeline", "default"),
    ]  # fmt: skip
    assert released == [(2, frozenset({"tenant/acme", "pipeline/default"}))] * 4  # two passes over two generations
    assert told["released"] == {"tenant/acme": 2, "pipeline/default": 0}
    released.clear()
    assert "tenant acme: 2 held records released" in run("resume", "--tenant", "acme").output


def test_what_only_waits_in_its_topic_needs_no_release(
    given: list[tuple[str, str, str, str]], released: list[tuple[int, frozenset[str]]]
) -> None:
    """Broken: pausing a tenant, or resuming a stage, sends held records."""
    run("pause", "--tenant", "acme", "--why", "night")
    run("resume", "--stage", "chunker")
    assert given[0] == ("PAUSE", "tenant", "acme", "night")
    assert released == []


def test_a_dry_resume_says_how_many_wait(
    given: list[tuple[str, str, str, str]], released: list[tuple[int, frozenset[str]]]
) -> None:
    """Broken: trying a resume out resumes."""
    assert "1 held records would be released" in run("resume", "--tenant", "acme", "--dry-run").output
    assert (given, released) == ([], [])


def test_a_pipeline_that_does_not_exist_is_refused_naming_those_that_do(
    given: list[tuple[str, str, str, str]], released: list[tuple[int, frozenset[str]]]
) -> None:
    """Broken: a misspelt pipeline looks paused and is not."""
    assert "default" in run("pause", "--pipeline", "defualt", code=ExitCode.NOT_FOUND).output
    assert given == []


def test_a_release_that_fails_tells_so(
    released: list[tuple[int, frozenset[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: a resume that sent nothing looks as if it had."""

    def fail(*_: object) -> Done:
        raise DependencyDown("kafka", "it is gone; 3 records were released before")

    monkeypatch.setattr(HeldActor, "release", fail)
    assert "3 records were" in run("resume", "--tenant", "acme", code=ExitCode.UNREACHABLE).output


def test_lists_of_held_records_cannot_drive_the_terminal(released: object, given: object) -> None:
    """Broken: a reason that somebody gave clears an operator's screen."""
    output = run("held", "list").output
    assert "\\x1b[2J" in output
    assert "\x1b[2J" not in output
    assert "there is no kind 'nap'" in run("held", "list", "--kind", "nap", code=ExitCode.USAGE).output


def test_a_list_of_held_records_says_what_each_waits_for_and_which_command_ends_it(
    released: object, given: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: what a cap holds is said to wait for a pause, and nobody learns how it goes on."""
    waiting = [held(1), held(2), held(3, "cap/acme"), held(4, "pipeline/default", "review")]
    monkeypatch.setattr(HeldLog, "select", lambda *_: waiting)
    told = run("held", "list")
    assert [line.split()[1] for line in told.stdout.splitlines() if "chunker/" in line] == [
        "pause", "pause", "cap", "review",
    ]  # fmt: skip
    raised = "raise the cap of acme in the file of HEADRACE_COST_FILE, then: headrace embeddings release"
    assert told.stderr.splitlines() == [
        "what to do (tenant/acme): headrace resume --tenant acme",
        f"what to do (cap/acme): {raised}",
        "what to do (review): headrace review approve ID (or reject)",
    ]
    listed = json.loads(run("held", "list", "--json").stdout)
    assert [one["waits_for"] for one in listed] == ["pause", "pause", "cap", "review"]
    assert listed[3]["ends"] == "headrace review approve chunker/0/4 (or reject)"


def test_a_list_of_held_records_of_many_tenants_stays_short(
    released: object, given: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: after a thousand paused tenants the list itself scrolls away behind a thousand commands."""
    monkeypatch.setattr(HeldLog, "select", lambda *_: [held(number, f"tenant/t{number}") for number in range(12)])
    lines = run("held", "list").stderr.splitlines()
    assert (len(lines), lines[-1]) == (11, "what to do: 2 more, see `headrace held list --json`")


def test_a_rejection_needs_a_reason_and_ids_that_can_be(given: object) -> None:
    """Broken: a dead letter says that somebody rejected it, and nobody knows why."""
    assert "needs a reason" in run("review", "reject", "chunker/0/1", "--why", " ", code=ExitCode.USAGE).output
    assert "no id" in run("review", "approve", "nostage/0/1", code=ExitCode.USAGE).output
