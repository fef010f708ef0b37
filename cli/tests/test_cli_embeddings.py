"""``embeddings`` and ``alerts`` as their users meet them, as far as that needs no Kafka and no store."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from headrace.embeddings.costs import CostSettings
from headrace.embeddings.models import PROVIDERS
from headrace.store.rows import Generation
from headrace_cli import state
from headrace_cli.app import app
from headrace_cli.commands.embeddings.schedule import Job, runner
from headrace_cli.context import Operator
from headrace_cli.exit_codes import ExitCode
from headrace_cli.views import embeddings as embedding_view
from headrace_operations.alerts import looks
from headrace_operations.alerts.alerter import Alert
from headrace_operations.embeddings.models import is_local
from headrace_testing.cluster import Contents

pytestmark = pytest.mark.unit


def run(*arguments: str, code: int = 0, **env: str) -> Any:
    """Run the command and check its exit code."""
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200", **env})
    assert result.exit_code == code, result.output
    return result


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        """Take a webhook."""
        self.server.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))  # type: ignore[attr-defined]
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        """Say what a stopped stage says."""
        body = b'{"ready": false, "stage": "embedder", "stopped": "too many dead letters"}'
        self.send_response(503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def receiver() -> Iterator[Any]:
    """A webhook on loopback, and a stopped stage."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.got, server.status = [], 200
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_test_alert_arrives_or_the_command_fails(receiver: Any) -> None:
    """Broken: an operator takes a webhook that refuses for one that works."""
    url = f"{receiver.url}/hook"
    assert json.loads(run("alerts", "test", "--json", HEADRACE_ALERTS_SLACK_URL=url).stdout) == [
        {"channel": "slack", "error": None}
    ]
    assert "test alert" in receiver.got[0]["text"]
    receiver.status = 410
    failed = run("alerts", "test", code=1, HEADRACE_ALERTS_SLACK_URL=url)
    assert "slack: HTTP 410" in failed.output
    assert url not in failed.output
    assert "no webhook is configured" in run("alerts", "test", code=2).output


def test_a_process_that_is_not_ready_is_read_all_the_same(receiver: Any) -> None:
    """Broken: the 503 of a stopped stage passes for silence, and nobody hears why it stopped."""
    found = looks.readyz(receiver.url)
    assert found is not None
    assert found["stopped"] == "too many dead letters"
    assert looks.readyz("http://127.0.0.1:9") is None


def test_the_watcher_sees_the_stack_grow_and_ends_when_told(
    receiver: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, contents: Contents
) -> None:
    """Broken: an instance that `up --scale` added is never watched, no process is and nobody hears of it, or Ctrl-C
    ends in the middle of an alert.
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
    watched = run(
        "alerts", "watch", "--every", "0.1", "--state-dir", str(tmp_path), HEADRACE_ALERTS_SLACK_URL=receiver.url
    )
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
    """Broken: a failed batch stops all later ones, or nobody hears of it."""
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
    rows = json.loads(run("embeddings", "benchmark", "--sizes", "1,8", "--texts", "16", "--json", **env).stdout)
    assert [row["batch"] for row in rows] == [1, 8]
    assert all(row["texts_per_second"] > 0 and row["tokens_per_second"] > 0 and not row["errors"] for row in rows)
    assert "invalid batch sizes" in run("embeddings", "benchmark", "--sizes", "0", code=2, **env).output
    assert "exit code 78" in run(
        "embeddings", "benchmark", "--sizes", "1", "--texts", "1", code=1, HEADRACE_EMBEDDER_PROVIDER="magic"
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
    assert "costs.yaml:1" in run("embeddings", "estimate", "--all", *state, code=2, **env).output


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
    found = json.loads(run(*asked, **env).stdout)
    assert (found["model"], found["texts"], found["usd"]) == ("KURE-v1", 1, "0.001")
    served = json.loads(run(*asked, HEADRACE_EMBEDDER_PROVIDER="openai-compatible", **env).stdout)
    assert (served["model"], served["usd"]) == ("nlpai-lab/KURE-v1", None)
    exported = {"HEADRACE_EMBEDDER_MODEL": "nlpai-lab/KURE-v1"}
    assert "no PostgreSQL address found" in run(*files, code=3, **exported).output
    assert "--model" in run("embeddings", "reset", "--tenant", "a", code=2, **exported).output
