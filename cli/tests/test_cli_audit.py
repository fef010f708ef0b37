"""``headrace audit``: what it prints, with which exit code it ends, and what it refuses before it looks anywhere."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from headrace.errors import ConfigurationError
from headrace_cli.app import app
from headrace_cli.exit_codes import ExitCode
from headrace_operations.audit.model import Finding, Key, Kind, Pending, Report
from headrace_operations.audit.reset import Reset
from headrace_operations.audit.run import Scope, UnknownDocument

pytestmark = pytest.mark.unit

PLACE = ["--kafka", "127.0.0.1:1", "--registry", "http://127.0.0.1:1", "--postgres", "postgresql://127.0.0.1:1/x"]
FINDING = Finding(
    Kind.MISSING, "vector", "acme", "a [b].md", "a vector for each chunk", "2 of 3 chunks without",
    ("headrace audit --tenant acme --document 'a [b].md' --reset", "headrace replay"), 2, ("id-1",), ("indexer/0/3",),
)  # fmt: skip


@pytest.fixture(autouse=True)
def kafka_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens at the place that these tests name."""
    monkeypatch.setattr("headrace_local.network.accepts_any", lambda _: True)


def _report(*findings: Finding, all_tenants: bool = True) -> Report:
    pending = (Pending("acme", "late.md", "chunks"),)
    return Report("g1", ("acme",), all_tenants, 4, 3, 9, 8, findings, pending, ("documents/0/7: junk",), False, 1.5)


def _audit(monkeypatch: pytest.MonkeyPatch, outcome: Report | Exception, *words: str) -> tuple[Any, list[Scope]]:
    asked: list[Scope] = []

    async def fake(kafka: Any, codec: Any, store: Any, scope: Scope, progress: Any) -> Report:
        asked.append(scope)
        assert (kafka.bootstrap, store.dsn.get_secret_value()) == (PLACE[1], PLACE[5])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr("headrace_operations.audit.run.audit", fake)
    return CliRunner().invoke(app, ["audit", *words, *PLACE]), asked


def test_a_clean_audit_ends_with_zero_and_says_what_it_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a script that runs the audit takes a sound store for a damaged one, or cannot tell what was read."""
    result, asked = _audit(monkeypatch, _report())
    assert result.exit_code == ExitCode.OK
    assert "0 findings, 1 pending; 4 documents in the log, 3 in the store with 9 chunks and 8 vectors" in result.stdout
    assert "pending: acme/late.md waits for chunks" in result.stderr
    assert "unreadable: documents/0/7: junk" in result.stderr
    assert "can read only the tenants it names" not in result.stderr
    assert asked == [Scope()]


def test_findings_are_told_with_their_repair_and_exit_code_8(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: nobody learns what is wrong, whose it is, or what to type."""
    words = ("--tenant", "acme", "--document", "a [b].md", "--generation", "g1", "--deep")
    result, asked = _audit(monkeypatch, _report(FINDING, all_tenants=False), *words)
    assert result.exit_code == ExitCode.INCONSISTENT
    assert asked == [Scope("acme", "a [b].md", "g1", deep=True)]
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert "missing vector: acme/a [b].md (id-1, …)" in lines
    assert "found: 2 of 3 chunks without" in lines
    assert "open dead letters: indexer/0/3" in lines
    assert "repair: headrace audit --tenant acme --document 'a [b].md' --reset" in lines
    assert "can read only the tenants it names" in result.stderr


def test_json_holds_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a monitor sees another audit than people do."""
    result, _ = _audit(monkeypatch, _report(FINDING), "--json")
    said = json.loads(result.stdout)
    assert result.exit_code == ExitCode.INCONSISTENT
    assert said["clean"] is False
    assert said["counts"] == {"missing": 1, "duplicate": 0, "orphan": 0, "stale": 0, "mixed-model": 0}
    assert said["findings"][0]["repair"] == list(FINDING.repair)
    assert said["pending"] == [{"tenant": "acme", "document_id": "late.md", "waits_for": "chunks"}]


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (UnknownDocument("there is no document x"), ExitCode.NOT_FOUND),
        (ConfigurationError("there is no generation g9", remedy="There are: g1 (active)."), ExitCode.USAGE),
    ],
)
def test_what_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch, outcome: Exception, code: ExitCode) -> None:
    """Broken: a slip of the pen passes for a clean audit."""
    result, _ = _audit(monkeypatch, outcome, "--tenant", "acme", "--document", "x")
    assert result.exit_code == code
    assert "error: there is no" in result.stderr


def test_a_document_or_a_reset_without_its_tenant_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: another tenant's document of that name is looked at, or taken out."""
    for words in (("--document", "x"), ("--reset", "--tenant", "acme"), ("--reset",)):
        result, asked = _audit(monkeypatch, _report(), *words)
        assert (result.exit_code, asked) == (ExitCode.USAGE, [])


@pytest.mark.parametrize(
    ("words", "typed", "dry_runs", "code"),
    [
        (["--dry-run"], "", [True], ExitCode.OK),
        (["--yes"], "", [True, False], ExitCode.OK),
        ([], "y\n", [True, False], ExitCode.OK),
        ([], "n\n", [True], ExitCode.FAILED),
    ],
)
def test_a_reset_asks_first_and_says_what_follows(
    monkeypatch: pytest.MonkeyPatch, words: list[str], typed: str, dry_runs: list[bool], code: ExitCode
) -> None:
    """Broken: a document is taken out of search unasked, or nobody knows how it comes back."""
    asked: list[bool] = []

    async def fake(kafka: Any, codec: Any, store: Any, key: Key, *, dry_run: bool = False) -> Reset:
        assert key == Key("acme", "x")
        asked.append(dry_run)
        return Reset(3, 5, deleted=False, then=("headrace replay start --stage embedder",))

    monkeypatch.setattr("headrace_operations.audit.reset.reset", fake)
    call = ["audit", "--reset", "--tenant", "acme", "--document", "x", *words, *PLACE]
    result = CliRunner().invoke(app, call, input=typed)
    assert (result.exit_code, asked) == (code, dry_runs)
    assert ("next: headrace replay start --stage embedder" in result.stdout) == (code == ExitCode.OK)
