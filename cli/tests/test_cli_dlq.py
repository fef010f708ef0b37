"""``dlq`` as its users meet it, as far as that needs no Kafka."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from headrace.kafka.broker_contract import Record
from headrace_cli.app import app
from headrace_cli.context import Operator
from headrace_cli.exit_codes import ExitCode
from headrace_cli.failures import UsageError
from headrace_cli.times import moment
from headrace_cli.views import dlq as dlq_view
from headrace_cli.views import dlq_export
from headrace_operations.dead_letters.log import Found
from headrace_operations.dead_letters.model import Id, NoSuchDeadLetter, Selection
from headrace_testing.cluster import Contents, FakeCluster, dead_letter

pytestmark = pytest.mark.unit

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def run(*arguments: str, code: int = 0, text: str | None = None) -> Any:
    """Run the command and check its exit code."""
    result = CliRunner().invoke(app, ["dlq", *arguments], input=text, env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result


FOUND = Found(dead_letter(1, whole="it does not decode"), None, Record("dead-letters.ingest", 0, 1, b"k", b"v"))


@pytest.fixture
def letters(contents: Contents) -> Contents:
    """Three dead letters, of which the last cannot be sent again."""
    contents.letters += [
        dead_letter(1),
        dead_letter(2),
        dead_letter(3, id=Id("chunker", 0, 1), tenant=None, whole="the record was cut"),
    ]
    return contents


def test_a_list_groups_by_cause_and_tells_one_by_one_on_demand(letters: Contents) -> None:
    """Broken: a thousand records with one cause are a thousand lines, or nobody sees the single ones."""
    groups = json.loads(run("list", "--json").stdout)
    assert [(group["stage"], group["count"], group["cause"], group["example"]) for group in groups] == [
        ("ingest", 2, "title: is …", "ingest/0/2"),
        ("chunker", 1, "title: is …", "chunker/0/1"),
    ]
    assert "ingest/0/1" in run("list", "--each").output
    assert "1 of 3 dead letters" in run("list", "--each", "--limit", "1").output
    newest = json.loads(run("list", "--json", "--limit", "2").stdout)
    assert {(group["count"], group["example"]) for group in newest} == {(1, "ingest/0/2"), (1, "chunker/0/1")}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["redrive"], "--all"),
        (["discard", "--why", "x"], "--all"),
        (["redrive", "ingest/0/1", "--stage", "ingest"], "cannot be combined"),
        (["redrive", "nonsense"], "stage/partition/offset"),
        (["list", "--stage", "chunkr"], "chunker"),
        (["list", "--since", "yesterday"], "90m, 12h or 7d"),
        (["list", "--since", "2999-01-01"], "future"),
        (["discard", "--all"], "--why"),
        (["discard", "--all", "--why", " "], "requires a reason"),
    ],
)
def test_what_is_not_meant_is_refused_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch, words: list[str], says: str
) -> None:
    """Broken: a command without a condition takes in every dead letter, or a misspelt one none."""
    monkeypatch.setattr(Operator, "cluster", lambda *_: pytest.fail("something was read"))
    assert says in " ".join(run(*words, code=ExitCode.USAGE).output.split())


def test_a_dry_run_says_how_many_and_does_nothing(letters: Contents) -> None:
    """Broken: trying a redrive out sends records."""
    output = run("redrive", "--all", "--dry-run").output
    assert "ingest, tenant acme: 2 would be redriven" in output
    assert "left out: chunker/0/1: the record was cut" in output
    known = json.loads(run("discard", "--all", "--why", "x", "--dry-run", "--json").stdout)
    assert known["by"] == [
        {"stage": "ingest", "tenant": "acme", "count": 2},
        {"stage": "chunker", "tenant": None, "count": 1},
    ]
    assert letters.events == []


def test_a_discard_asks_and_takes_no_for_an_answer(letters: Contents) -> None:
    """Broken: a slip of the hand closes every dead letter."""
    run("discard", "--all", "--why", "x", text="n\n", code=1)
    assert letters.events == []
    run("discard", "--stage", "ingest", "--why", "x", text="y\n")
    run("discard", "--all", "--why", "x", "--yes", "--limit", "1")
    assert letters.events == [
        ("DISCARDED", ("ingest/0/1", "ingest/0/2"), "x"), ("DISCARDED", ("chunker/0/1",), "x"),
    ]  # fmt: skip


def test_what_cannot_be_sent_again_shows_in_the_exit_code(letters: Contents) -> None:
    """Broken: a script takes a redrive for complete that left records behind."""
    assert "2 dead letters redriven" in run("redrive", "--all", code=ExitCode.SOME_FAILED).output
    run("redrive", "--stage", "ingest", "--again")
    assert letters.happened("REDRIVEN") == [(("ingest/0/1", "ingest/0/2"), "")] * 2


def test_what_does_not_exist_has_its_own_exit_code(letters: Contents) -> None:
    """Broken: a script takes a misspelt document for one that is well."""
    assert "dlq list" in run("redrive", "--document", "nobody", code=ExitCode.NOT_FOUND).output
    run("redrive", "ingest/0/99", code=ExitCode.NOT_FOUND)


def test_what_another_command_did_meanwhile_is_told(letters: Contents) -> None:
    """Broken: a redrive claims records that another one sent."""
    letters.overtaken.add(Id("ingest", 0, 2))
    told = json.loads(run("redrive", "--stage", "ingest", "--json").stdout)
    assert (told["ids"], told["overtaken"]) == (["ingest/0/1"], 1)


def test_everything_of_a_dead_letter_is_shown_by_its_id(letters: Contents) -> None:
    """Broken: a misspelt id passes for a dead letter, or its exit code for an outage."""
    assert "dlq list" in run("show", "ingest/0/99", code=ExitCode.NOT_FOUND).output
    assert "stage/partition/offset" in run("show", "ingest", code=ExitCode.USAGE).output


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: half an export looks like a whole one."""

    def half(_selection: object, take: Callable[[Found], None]) -> None:
        take(FOUND)
        raise NoSuchDeadLetter("gone")

    log = SimpleNamespace(read=half)
    monkeypatch.setattr(FakeCluster, "dead_letters", lambda _: log)
    with pytest.raises(NoSuchDeadLetter):
        dlq_export.export(FakeCluster(), Selection(), tmp_path / "x.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_times_are_moments_or_so_long_ago() -> None:
    """Broken: --since 2h means another two hours, or the local zone of whoever calls."""
    assert moment("90m", "--since", NOW) == NOW - timedelta(minutes=90)
    assert moment("2026-11-21T10:00", "--since", NOW) == NOW - timedelta(hours=2)
    assert moment("2026-11-21T10:00+02:00", "--since", NOW) == datetime(
        2026, 11, 21, 10, tzinfo=timezone(timedelta(hours=2))
    )
    assert moment(None, "--since", NOW) is None
    for wrong in ("2 h", "-1d", "999999d", "soon"):
        with pytest.raises(UsageError, match="invalid time"):
            moment(wrong, "--since", NOW)


def test_a_payload_cannot_drive_the_terminal() -> None:
    """Broken: a tenant's record clears an operator's screen, or worse."""
    assert dlq_view.harmless("a\x1b[2J\x9b\r\u202eb\n\té") == "a\\x1b[2J\\x9b\\r\\u202eb\n\té"
