"""``pause``, ``resume`` and ``orders`` as their users meet them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from typer.testing import CliRunner

from headrace import control
from headrace.records import Control
from headrace_cli import control_commands
from headrace_cli.exit_codes import ExitCode
from headrace_cli.main import app

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
    monkeypatch.setattr(control_commands, "clients", lambda *_: (None, None))
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
