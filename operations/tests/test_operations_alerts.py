"""Alerts against a real HTTP receiver: said once, tried again, bounded, silent about secrets; and what is worth one."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from pydantic import SecretStr

from headrace.embeddings.costs import Reached
from headrace.errors import ConfigurationError, DependencyDown, HeadraceError
from headrace.payloads import HeaderPart
from headrace_operations.alerts.alerter import Alert, Alerter, AlertSettings, Clock, Watch
from headrace_operations.alerts.conditions import ErrorShare, is_new, of_caps, of_stages
from headrace_operations.alerts.looks import Looks, readyz

pytestmark = pytest.mark.unit


class Receiver(ThreadingHTTPServer):
    """Takes webhooks; answers with the statuses in ``answers`` first, then 200."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.got: list[tuple[str, dict[str, Any]]] = []


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        """Take a webhook."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, headers = self.server.answers.pop(0) if self.server.answers else (200, {})
        if status == 200:
            self.server.got.append((self.path, body))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver on loopback."""
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class Time:
    """Fake time; sleeping lets it pass."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        """Let it pass."""
        self.slept.append(seconds)
        self.now += seconds


def alerter(receiver: Receiver, time: Time, **settings: Any) -> Alerter:
    """An alerter with both webhooks at the receiver."""
    base = f"http://127.0.0.1:{receiver.server_address[1]}"
    own = AlertSettings(slack_url=SecretStr(f"{base}/slack"), discord_url=SecretStr(f"{base}/discord"), **settings)
    return Alerter(own, clock=Clock(lambda: time.now, time.sleep))


def test_both_webhooks_get_their_own_form_and_nobody_is_called(receiver: Receiver) -> None:
    """Broken: Slack or Discord refuses the body, or a tenant named <!channel> wakes everybody."""
    sent = alerter(receiver, Time()).send(Alert("k", "cap of <!channel> & @everyone", "x" * 5000))
    assert sent == {"slack": None, "discord": None}
    (_, slack), (_, discord) = receiver.got
    assert "&lt;!channel&gt; &amp; @everyone" in slack["text"]
    assert discord["allowed_mentions"] == {"parse": []}
    assert len(discord["content"]) <= 2000


def test_an_alert_is_said_once_and_again_after_its_time(receiver: Receiver) -> None:
    """Broken: a cap that stays reached fills the channel, or is said once and forgotten."""
    time = Time()
    own = alerter(receiver, time, repeat_s=60)
    for _ in range(5):
        own.send(Alert("k", "title"))
    assert len(receiver.got) == 2
    time.now += 61
    own.send(Alert("k", "title"))
    assert len(receiver.got) == 4


def test_a_webhook_that_is_down_is_tried_again_and_does_not_count_as_said(receiver: Receiver) -> None:
    """Broken: one 503 loses the alert, Retry-After is passed over, or a failed alert counts as said."""
    time = Time()
    own = alerter(receiver, time, attempts=3)
    receiver.answers = [(503, {}), (429, {"Retry-After": "7"})]
    assert own.send(Alert("k", "title")) == {"slack": None, "discord": None}
    assert time.slept == [1.0, 7.0]
    receiver.answers = [(500, {})] * 6
    assert own.send(Alert("other", "title")) == {"slack": "HTTP 500", "discord": "HTTP 500"}
    assert own.send(Alert("other", "title")) == {"slack": None, "discord": None}


def test_a_refused_webhook_is_not_tried_again_and_no_failure_tells_the_url(receiver: Receiver) -> None:
    """Broken: a revoked webhook is hammered, or its secret stands in a log or message."""
    time = Time()
    own = alerter(receiver, time)
    receiver.answers = [(404, {}), (404, {})]
    assert own.send(Alert("k", "title")) == {"slack": "HTTP 404", "discord": "HTTP 404"}
    assert time.slept == []
    gone = Alerter(AlertSettings(slack_url=SecretStr("http://127.0.0.1:9/secret"), attempts=2), clock=own._clock)
    (failure,) = gone.send(Alert("k", "title")).values()
    assert failure == "ConnectError"


def test_too_many_alerts_are_dropped_and_the_next_minute_is_free(receiver: Receiver) -> None:
    """Broken: a bad day sends thousands of messages, or the limit never ends."""
    time = Time()
    own = alerter(receiver, time, per_minute=3)
    for number in range(10):
        own.send(Alert(f"k{number}", "title"))
    assert len(receiver.got) == 6
    time.now += 60
    own.send(Alert("late", "title"))
    assert len(receiver.got) == 8


def test_what_is_over_is_said_and_said_again_when_it_comes_back(receiver: Receiver) -> None:
    """Broken: nobody hears that a cap has room, or the next time it is full stays silent."""
    watch = Watch(alerter(receiver, Time()))
    for alerts in ([Alert("k", "full")], [Alert("k", "full")], [], [Alert("k", "full")]):
        watch.take(alerts)
    said = [body["content"] for path, body in receiver.got if path == "/discord"]
    assert ["over" in text for text in said] == [False, True, False]


def test_each_end_is_said_and_one_that_did_not_arrive_is_said_later(receiver: Receiver) -> None:
    """Broken: the second time that a cap has room again nobody hears of it, nor after a webhook that was down."""
    watch = Watch(alerter(receiver, Time(), attempts=1))
    for alerts in ([Alert("k", "full")], [], [Alert("k", "full")]):
        watch.take(alerts)
    receiver.answers = [(500, {})] * 2
    watch.take([])
    watch.take([])
    watch.take([])
    said = [body["content"] for path, body in receiver.got if path == "/discord"]
    assert ["over" in text for text in said] == [False, True, False, True]


def test_without_a_webhook_nothing_is_sent_and_commands_are_told() -> None:
    """Broken: an operator believes that alerts are on."""
    own = Alerter(AlertSettings())
    assert own.send(Alert("k", "title")) == {}
    with pytest.raises(ConfigurationError, match="no webhook"):
        own.require()


def test_what_is_worth_an_alert() -> None:
    """Broken: a stopped stage or a full cap stays silent, or a paused stage, which somebody ordered, cries."""
    cap = Reached("tenant acme", "usd_per_day", Decimal(1), Decimal(1), datetime(2026, 1, 2, tzinfo=UTC))
    (alert,) = of_caps([cap])
    assert "the cap of tenant acme is reached: 1 of 1 USD today" in alert.text
    stages = {
        "embedder": {"stage": "embedder", "stopped": "600 of 1000 records are dead letters", "paused": None},
        "chunker": {"stopped": None, "paused": "paused by ada"}, "indexer": None,
    }  # fmt: skip
    assert [alert.key for alert in of_stages(stages)] == ["stopped/embedder", "silent/indexer"]


def test_the_share_of_errors_is_of_late_and_needs_enough_records() -> None:
    """Broken: one failure of two is an alarm, last year's errors are one for ever, or every look reads all of them."""
    share = ErrorShare(0.01, looks=3)
    begin = datetime(2026, 1, 2, tzinfo=UTC)
    at = [begin + timedelta(minutes=look) for look in range(4)]
    assert share.window(at[0], 1000) == (at[0], 0)
    assert share.window(at[1], 1050) == (at[0], 50)
    assert share.alerts(50, 40) == []
    assert share.window(at[2], 1100) == (at[0], 100)
    (alert,) = share.alerts(100, 41)
    assert alert.title.startswith("41.0 %")
    assert share.window(at[3], 1200) == (at[1], 150)
    assert share.alerts(150, 1) == []
    assert share.alerts(150, 600)[0].title.startswith("100.0 %")


def test_replayed_records_are_not_counted_among_new_ones() -> None:
    """Broken: a replay of what fails again is an alarm about records that came once."""
    sent = [(), (HeaderPart("replay", b"run"),), (HeaderPart("redrive", b"dead-letters.embedder/0/3"),)]
    assert [is_new(Mock(headers=own)) for own in sent] == [True, False, False]


def test_nothing_is_over_because_nobody_could_look() -> None:
    """Broken: PostgreSQL is away for a look, and Slack hears that the cap has room."""
    answers: list[list[Alert] | HeadraceError] = [[Alert("cap/acme", "full")], DependencyDown("postgresql", "away"), []]

    def look() -> list[Alert]:
        answer = answers.pop(0)
        if isinstance(answer, HeadraceError):
            raise answer
        return answer

    looks = Looks({"caps": look})
    keys = [[alert.key for alert in looks()] for _ in range(3)]
    assert keys == [["cap/acme"], ["blind/caps", "cap/acme"], []]


@pytest.mark.parametrize(
    ("url", "client", "path"),
    [
        ("http://h:1", "HTTPConnection", "/readyz"),
        ("https://h:1/", "HTTPSConnection", "/readyz"),
        ("https://h:1/embedder", "HTTPSConnection", "/embedder/readyz"),
    ],
)
def test_a_process_is_asked_in_the_protocol_of_its_url(
    monkeypatch: pytest.MonkeyPatch, url: str, client: str, path: str
) -> None:
    """Broken: a process behind HTTPS, or below a path, never answers, and the watcher reports it as down."""
    asked: list[tuple[str, ...]] = []

    def made(name: str) -> Any:
        def connection(host: str, port: int, timeout: float) -> Any:
            asked.append((name, f"{host}:{port}"))
            return SimpleNamespace(
                request=lambda method, path: asked.append((method, path)),
                getresponse=lambda: SimpleNamespace(read=lambda _: b'{"ready": true}'),
                close=lambda: None,
            )

        return connection

    for name in ("HTTPConnection", "HTTPSConnection"):
        monkeypatch.setattr(http.client, name, made(name))
    assert readyz(url) == {"ready": True}
    assert asked == [(client, "h:1"), ("GET", path)]
