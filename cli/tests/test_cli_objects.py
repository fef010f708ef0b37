"""``headrace objects``: what it prints, with which exit code it ends, and that it asks before it deletes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from headrace.kafka.broker_contract import Record, TopicPartition
from headrace.kafka.offsets import Range
from headrace.kafka.ranges import LogReader, Take
from headrace_cli.app import app
from headrace_cli.exit_codes import ExitCode
from headrace_operations.objects import garbage as objects

pytestmark = pytest.mark.unit

OLD, KEPT = f"acme/20260101/{'ab' * 32}", f"acme/20260102/{'cd' * 32}"


class Ranges(LogReader):
    """A log in which one topic names one object."""

    def generations(self, _own: Iterable[str]) -> list[str]:
        return []

    def partitions(self, topics: Iterable[str], *, needed: bool = False) -> list[TopicPartition]:
        assert not needed
        return [TopicPartition(name, 0) for name in topics if name == "documents"]

    def bounds(self, places: Iterable[TopicPartition], *, open_too: bool = False) -> dict[TopicPartition, Range]:
        assert open_too
        return {one: Range(0, 1) for one in places}

    def read(self, ranges: Mapping[TopicPartition, Range], take: Take) -> None:
        for one, (start, end) in ranges.items():
            if start < end:
                take(Record(*one, start, b"k", f"claim:{KEPT}".encode()))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with two old objects, of which the log names one."""
    found = tmp_path / "objects"
    for key in (OLD, KEPT):
        path = found / key
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(2048))
    (found / "_headrace-objects.json").write_text(json.dumps({"kafka_cluster": "c1", "topic_prefix": ""}))
    monkeypatch.setenv("HEADRACE_OBJECTS_URL", f"file://{found}")
    monkeypatch.setattr("headrace_local.network.accepts_any", lambda _: True)
    monkeypatch.setattr("headrace.objects.store.AdminClient", Admin)
    monkeypatch.setattr(objects, "LogReader", Ranges)
    return found


class Admin:
    """Kafka's cluster has this id."""

    cluster_id = "c1"

    def __init__(self, _config: Any) -> None:
        pass

    def list_topics(self, *, timeout: float) -> Admin:
        assert timeout > 0
        return self


def run(*words: str, stdin: str | None = None) -> Any:
    """Run the command against a Kafka that nobody has."""
    return CliRunner().invoke(app, ["objects", *words, "--kafka", "127.0.0.1:1"], input=stdin)


def left(folder: Path) -> set[str]:
    """The objects that are there."""
    return {path.relative_to(folder).as_posix() for path in folder.glob("*/*/*")}


def test_stats_tell_tenants_and_sizes(folder: Path) -> None:
    """Broken: nobody can tell who fills the store."""
    shown = run("stats")
    assert shown.exit_code == ExitCode.OK
    assert "2 objects, 4.0 KiB in file://" in shown.stdout
    [tenant] = json.loads(run("stats", "--json").stdout)["tenants"]
    assert (tenant["folder"], tenant["held"]) == ("acme", {"objects": 2, "bytes": 4096})
    assert (tenant["oldest"], tenant["newest"]) == ("2026-01-01", "2026-01-02")


def test_it_asks_before_it_deletes(folder: Path) -> None:
    """Broken: a command that was meant to look deletes."""
    refused = run("gc", stdin="n\n")
    assert refused.exit_code == ExitCode.FAILED
    assert "Delete 1 objects (2.0 KiB) of 2 objects (4.0 KiB)" in refused.stderr
    assert "1 objects (2.0 KiB) would be deleted" in run("gc", "--dry-run").stdout
    assert left(folder) == {OLD, KEPT}
    assert "1 objects (2.0 KiB) deleted" in run("gc", stdin="y\n").stdout
    assert left(folder) == {KEPT}
    assert run("gc").exit_code == ExitCode.OK  # nothing to ask about


@pytest.mark.parametrize(("older_than", "said"), [("23h", "24h or more"), ("soon", "invalid time")])
def test_a_wrong_grace_is_refused(older_than: str, said: str, folder: Path) -> None:
    """Broken: a misspelt or dangerous grace deletes what is in use."""
    refused = run("gc", "--older-than", older_than, "--yes")
    assert refused.exit_code == ExitCode.USAGE
    assert said in refused.stderr
    assert left(folder) == {OLD, KEPT}


def test_what_was_written_on_the_last_days_stays(folder: Path) -> None:
    """Broken: who names no grace has objects deleted whose batch a slow model still keeps."""
    day = datetime.now(UTC) - timedelta(days=3)
    young = f"acme/{day:%Y%m%d}/{'ef' * 32}"
    (folder / young).parent.mkdir()
    (folder / young).write_bytes(b"young")
    assert run("gc", "--yes").exit_code == ExitCode.OK
    assert left(folder) == {KEPT, young}


def test_without_a_store_the_setting_is_named(monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path) -> None:
    """Broken: the command looks into nothing and says that all is well."""
    monkeypatch.delenv("HEADRACE_OBJECTS_URL")
    refused = run("gc", "--yes", "--state-dir", str(tmp_path))
    assert refused.exit_code == ExitCode.USAGE
    assert "HEADRACE_OBJECTS_URL" in refused.stderr


def test_a_folder_that_is_not_there_ends_as_unreachable(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Broken: a script takes an unmounted store for an empty one."""
    monkeypatch.setenv("HEADRACE_OBJECTS_URL", f"file://{folder}-elsewhere")
    for command in ("stats", "gc"):
        assert run(command).exit_code == ExitCode.UNREACHABLE
