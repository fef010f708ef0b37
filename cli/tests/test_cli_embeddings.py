"""``embeddings`` and ``alerts`` as their users meet them, as far as that needs no Kafka and no store."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from headrace.embeddings.costs import CostSettings
from headrace.embeddings.models import PROVIDERS
from headrace.payloads import ReplayRun
from headrace.store.pool import StoreSettings
from headrace.store.rows import Generation
from headrace_cli import state
from headrace_cli.app import app
from headrace_cli.commands.embeddings.schedule import Job, runner
from headrace_cli.context import Operator
from headrace_cli.exit_codes import ExitCode
from headrace_cli.views import embeddings as embedding_view
from headrace_operations.alerts import looks
from headrace_operations.alerts.alerter import Alert
from headrace_operations.audit.model import Finding, Kind, Report
from headrace_operations.dead_letters.model import Entry, Id
from headrace_operations.embeddings import incremental
from headrace_operations.embeddings.models import is_local
from headrace_operations.replay import start
from headrace_operations.replay.plan import Planned
from headrace_operations.replay.start import ReplayRequest
from headrace_testing.cluster import Contents, FakeCluster
from headrace_testing.http_servers import Webhook, serving

pytestmark = pytest.mark.unit

AT = datetime(2026, 1, 1, tzinfo=UTC)


def run(*arguments: str, code: int = 0, env: Mapping[str, str] | None = None) -> Any:
    """Run the command and check its exit code."""
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200", **(env or {})})
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def receiver() -> Iterator[Webhook]:
    """A webhook on loopback, and a stopped stage."""
    with serving(Webhook()) as server:
        yield server


def test_a_test_alert_arrives_or_the_command_fails(receiver: Webhook) -> None:
    """Broken: an operator takes a webhook that refuses for one that works."""
    url = f"{receiver.url}/hook"
    assert json.loads(run("alerts", "test", "--json", env={"HEADRACE_ALERTS_SLACK_URL": url}).stdout) == [
        {"channel": "slack", "error": None}
    ]
    assert "test alert" in receiver.got[0]["text"]
    receiver.status = 410
    failed = run("alerts", "test", code=1, env={"HEADRACE_ALERTS_SLACK_URL": url})
    assert "slack: HTTP 410" in failed.output
    assert url not in failed.output
    assert "no webhook is configured" in run("alerts", "test", code=2).output


def test_a_process_that_is_not_ready_is_read_all_the_same(receiver: Webhook) -> None:
    """Broken: the 503 of a stopped stage passes for silence, and the alert does not say why it stopped."""
    found = looks.readyz(receiver.url)
    assert found is not None
    assert found["stopped"] == "too many dead letters"
    assert looks.readyz("http://127.0.0.1:9") is None


def test_the_watcher_sees_the_stack_grow_and_ends_when_told(
    receiver: Webhook, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, contents: Contents
) -> None:
    """Broken: an instance that `up --scale` added is never watched, no process is and the operator is not told,
    or Ctrl-C ends in the middle of an alert.
    """
    looked: list[dict[str, str]] = []
    grown = {"embedder-1": "http://127.0.0.1:9"}

    def stages(urls: dict[str, str]) -> list[Alert]:
        looked.append(urls)
        if len(looked) == 1:
            known = state.RunningServices("http://h", "h:1", "http://r", "hashing", "hashing-384", grown)
            state.write(tmp_path, state.SERVICES, known)
        else:
            os.kill(os.getpid(), signal.SIGINT)
        return [Alert("silent/embedder-1", "embedder-1 does not answer")] if urls else []

    monkeypatch.setattr(Operator, "owner_store", lambda _: None)
    monkeypatch.setattr(looks, "caps", lambda *_: [])
    monkeypatch.setattr(looks, "errors", lambda *_: [])
    monkeypatch.setattr(looks, "stages", stages)
    env = {"HEADRACE_ALERTS_SLACK_URL": receiver.url}
    watched = run("alerts", "watch", "--every", "0.1", "--state-dir", str(tmp_path), env=env)
    assert "no processes known, so none are watched" in watched.output
    assert looked == [{}, grown]
    assert "embedder-1 does not answer" in receiver.got[0]["text"]


def test_a_schedule_tells_its_next_times_and_refuses_nonsense() -> None:
    """Broken: a wrong expression is found out at night."""
    times = json.loads(run("embeddings", "schedule", "release", "--cron", "*/10 * * * *", "--dry-run", "--json").stdout)
    assert len(times) == 5
    assert all(datetime.fromisoformat(one).minute % 10 == 0 for one in times)
    assert "invalid cron expression" in run("embeddings", "schedule", "batch", "--cron", "daily", code=2).output
    assert "invalid name" in run(
        "embeddings", "schedule", "batch", "--cron", "* * * * *", "--name", "../x", code=2
    ).output  # fmt: skip


def test_a_scheduled_release_takes_no_generation() -> None:
    """Broken: the option is ignored in silence, and the operator believes that one generation alone is released."""
    words = ("embeddings", "schedule", "release", "--cron", "0 3 * * *", "--dry-run", "--into", "g2")
    refused = run(*words, code=ExitCode.USAGE)
    assert "release has no option --into" in refused.output
    assert "HEADRACE_REPLAY_INTO" in refused.output


def test_a_schedule_into_a_generation_that_is_not_there_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: it fails for the first time at night, a week later."""

    async def known(_: object) -> list[Generation]:
        return [Generation("g1", "m", 8)]

    monkeypatch.setattr("headrace_operations.generations.listing.generations", known)
    words = ("embeddings", "schedule", "batch", "--cron", "0 3 * * sun", "--dry-run", "--into")
    assert "unknown generation 'g2'" in run(*words, "g2", code=int(ExitCode.NOT_FOUND)).output
    assert len(run(*words, "g1").stdout.splitlines()) == 5


class Sent:
    """Stands in for the alerter."""

    def __init__(self) -> None:
        self.alerts: list[Alert] = []

    def send(self, alert: Alert) -> dict[str, str | None]:
        """Keep it."""
        self.alerts.append(alert)
        return {}


def test_a_run_that_fails_is_said_and_ends_no_schedule(capsys: pytest.CaptureFixture[str]) -> None:
    """Broken: a failed batch stops all later ones, or the operator is not told."""
    sent: Any = Sent()
    due = datetime(2026, 1, 2, tzinfo=UTC)
    for code in (3, 0):
        argv = [sys.executable, "-c", f"raise SystemExit({code})"]
        runner(Job.BATCH, argv, sent, as_json=True)(due)
    assert [alert.good for alert in sent.alerts] == [False, True]
    assert "failed with exit code 3" in sent.alerts[0].text
    assert [json.loads(line)["exit_code"] for line in capsys.readouterr().out.splitlines()] == [3, 0]


def test_the_benchmark_measures_each_size_with_the_configured_provider() -> None:
    """Broken: the benchmark measures another provider than the stage runs, or hides a failed start."""
    env = {"HEADRACE_EMBEDDER_PROVIDER": "hashing"}
    rows = json.loads(run("embeddings", "benchmark", "--sizes", "1,8", "--texts", "16", "--json", env=env).stdout)
    assert [row["batch"] for row in rows] == [1, 8]
    assert all(row["texts_per_second"] > 0 and row["tokens_per_second"] > 0 and not row["errors"] for row in rows)
    assert "invalid batch sizes" in run("embeddings", "benchmark", "--sizes", "0", code=2, env=env).output
    assert "exit code 78" in run(
        "embeddings", "benchmark", "--sizes", "1", "--texts", "1", code=1, env={"HEADRACE_EMBEDDER_PROVIDER": "magic"}
    ).output  # fmt: skip


def test_wrong_words_are_refused_before_anything_is_reached(tmp_path: Path) -> None:
    """Broken: a slip of the pen shows a report of everything, or of nothing."""
    state = ("--state-dir", str(tmp_path))
    assert "cannot sum by" in run("embeddings", "costs", "--by", "moon", *state, code=2).output
    assert "invalid day" in run("embeddings", "costs", "--since", "yesterday", *state, code=2).output
    refused = run("embeddings", "costs", "--by", "document", "--since", "2026-01-01", *state, code=2)
    assert "cannot be limited to a time range" in refused.output
    (tmp_path / "costs.yaml").write_text("caps: {all: {usd_per_day: -1}}")
    env = {"HEADRACE_COST_FILE": str(tmp_path / "costs.yaml")}
    assert "costs.yaml:1" in run("embeddings", "estimate", "--all", *state, code=2, env=env).output


def test_money_is_shown_with_its_rate_and_never_as_free_where_it_is_unknown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Broken: an unknown price is shown as 0, won are made up without a rate, or a paid model passes for local."""
    assert embedding_view.money(None) == "price unknown"
    assert embedding_view.money(Decimal("0.0000005")) == "0.000001"
    assert embedding_view.krw(Decimal(2), CostSettings()) is None
    assert embedding_view.krw(Decimal("0.5"), CostSettings(krw_per_usd=Decimal("1385.5"))) == Decimal("692.75")
    assert not is_local(state.provider_name(tmp_path))
    for name in (*PROVIDERS, "magic"):
        monkeypatch.setenv("HEADRACE_EMBEDDER_PROVIDER", name)
        assert is_local(state.provider_name(tmp_path)) == (name not in ("openai-compatible", "magic")), name
    up: Any = typer.main.get_command(app)
    (option,) = (one for one in up.commands["up"].params if one.name == "provider")
    assert ", ".join(PROVIDERS) in option.help


def test_files_are_estimated_for_a_model_by_its_name_without_any_server(tmp_path: Path) -> None:
    """Broken: the first command of a new user needs a database, or a name with an owner finds neither price nor cache.

    Nor may a service's variable, which holds such a name, say what is estimated or forgotten.
    """
    (tmp_path / "a.txt").write_text("water " * 50)
    (tmp_path / "costs.yaml").write_text("models: {KURE-v1: {usd_per_million_tokens: 10}}")
    files = ("embeddings", "estimate", str(tmp_path / "a.txt"), "--state-dir", str(tmp_path / "none"), "--json")
    asked = (*files, "--model", "nlpai-lab/KURE-v1")
    env = {"HEADRACE_COST_FILE": str(tmp_path / "costs.yaml")}
    found = json.loads(run(*asked, env=env).stdout)
    assert (found["model"], found["texts"], found["usd"]) == ("KURE-v1", 1, "0.001")
    served = json.loads(run(*asked, env={**env, "HEADRACE_EMBEDDER_PROVIDER": "openai-compatible"}).stdout)
    assert (served["model"], served["usd"]) == ("nlpai-lab/KURE-v1", None)
    exported = {"HEADRACE_EMBEDDER_MODEL": "nlpai-lab/KURE-v1"}
    assert "no PostgreSQL address found" in run(*files, code=3, env=exported).output
    assert "--model" in run("embeddings", "reset", "--tenant", "a", code=2, env=exported).output


def letter(offset: int, whole: str | None = None) -> Entry:
    """An open dead letter of the embedder; with ``whole``, one that cannot be redriven."""
    return Entry(Id("embedder", 0, offset), "unforeseen", None, "boom", "", "acme", "a.md", None, None, 1,
                 AT, "chunks/0/1", None, 2, whole, None)  # fmt: skip


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch, contents: Contents) -> list[str]:
    """Return the tenants that are replayed; the audit finds two without vectors."""
    findings = tuple(Finding(Kind.MISSING, "document", name, "d", "", "", (), replay="embedder") for name in "ab")
    report = Report("g1", (), True, 0, 0, 0, 0, findings, (), (), False, 0.0)
    done: list[str] = []

    async def audited(*_: object) -> Report:
        return report

    def plan(_: object, request: ReplayRequest) -> Planned:
        run = ReplayRun("r", "embedder", "tenant", request.tenant, None, None, (), 0, "RUNNING", "a", AT, AT, "t")
        return Planned(run, {})

    def begin(_: object, planned: Planned) -> SimpleNamespace:
        done.append(planned.run.tenant or "")
        return SimpleNamespace(carry_out=lambda *_: replace(planned.run, state="DONE"))

    store = StoreSettings(dsn="postgresql://h/d")
    monkeypatch.setattr(Operator, "whole_cluster", lambda *_: FakeCluster(store=store, contents=contents))
    monkeypatch.setattr(incremental, "audit", audited)
    monkeypatch.setattr(start, "plan", plan)
    monkeypatch.setattr(start, "begin", begin)
    return done


def test_a_dead_letter_that_cannot_be_redriven_does_not_hold_up_the_rest(
    replayed: list[str], contents: Contents
) -> None:
    """Broken: one cut record keeps all other documents without vectors every night, or the operator is not told."""
    contents.letters += [letter(1), letter(2, "it was cut"), letter(3)]
    ended = run("embeddings", "incremental", code=int(ExitCode.SOME_FAILED))
    assert contents.happened("REDRIVEN") == [(("embedder/0/1", "embedder/0/3"), "embeddings incremental")]
    assert replayed == ["a", "b"]
    assert "left out: embedder/0/2: it was cut" in ended.stderr
    assert "could not be redriven: embedder/0/2" in ended.stderr
    assert "headrace dlq discard ID" in ended.stderr


def test_dead_letters_are_named_even_if_none_can_be_redriven(replayed: list[str], contents: Contents) -> None:
    """Broken: a document stays without vectors, and the schedule says that all is well."""
    contents.letters += [letter(number, "it was cut") for number in range(12)]
    ended = run("embeddings", "incremental", code=int(ExitCode.SOME_FAILED))
    assert (contents.events, replayed) == ([], ["a", "b"])
    assert "left out: embedder/0/0: it was cut" in ended.stderr
    assert "embedder/0/9 and 2 more" in ended.stderr


def test_a_dry_run_of_incremental_names_them_and_does_nothing(replayed: list[str], contents: Contents) -> None:
    """Broken: a dry run redrives, or hides what the command will leave out."""
    contents.letters += [letter(1), letter(2, "it was cut")]
    ended = run("embeddings", "incremental", "--dry-run")
    assert "1 dead letters would be redriven, 2 tenants" in ended.stdout
    assert "left out: embedder/0/2: it was cut" in ended.stderr
    assert (contents.events, replayed) == ([], [])


def test_without_dead_letters_incremental_succeeds(replayed: list[str]) -> None:
    """Broken: a schedule without anything to redrive fails."""
    run("embeddings", "incremental")
    assert replayed == ["a", "b"]
