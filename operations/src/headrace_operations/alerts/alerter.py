"""Sends alerts to Slack and Discord: each once, rate-limited and with retries, without affecting the pipeline.

Only commands and the watcher send alerts, never a stage. No alert contains a document's text.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx
import structlog
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from headrace.codec.retry_after import retry_after
from headrace.errors import ConfigurationError

log = structlog.get_logger(__name__)

_LONGEST = 1500
"""Maximum characters of a message; Discord accepts 2,000."""
_LONGEST_WAIT_S = 20.0
_MINUTE_S = 60.0
_PASSING = frozenset({408, 425, 429})


class AlertSettings(BaseSettings):
    """Where to send alerts, and how often."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_ALERTS_", frozen=True)

    slack_url: SecretStr | None = Field(None, description="Incoming webhook URL of Slack. Anyone who has it can post.")
    discord_url: SecretStr | None = Field(None, description="Webhook URL of Discord. Anyone who has it can post.")
    repeat_s: float = Field(3600.0, ge=1, description="Interval for repeating an alert that persists, in seconds.")
    per_minute: int = Field(
        10, ge=1, le=1000, description="Maximum alerts per minute. Further alerts are logged and dropped."
    )
    attempts: int = Field(4, ge=1, le=20, description="Maximum attempts to reach a webhook.")
    timeout_s: float = Field(10.0, gt=0, le=60, description="Timeout for a webhook, in seconds.")
    error_share: float = Field(
        0.01, gt=0, le=1, description="The watcher sends an alert when this share of the embedder's records fails."
    )


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert; two alerts with the same ``key`` are the same alert."""

    key: str
    title: str
    detail: str = ""
    good: bool = False

    @property
    def text(self) -> str:
        """The message to send, in limited length."""
        sign = "✅" if self.good else "⚠️"
        whole = f"{sign} Headrace: {self.title}{f' — {self.detail}' if self.detail else ''}"
        return whole if len(whole) <= _LONGEST else f"{whole[: _LONGEST - 1]}…"


@dataclass(frozen=True, slots=True)
class Clock:
    """Time in seconds; tests replace it."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def for_slack(alert: Alert) -> dict[str, object]:
    """Return the body for Slack, with its three control characters escaped, so that the text mentions no one."""
    return {"text": alert.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")}


def for_discord(alert: Alert) -> dict[str, object]:
    """Return the body for Discord, with mentions disabled."""
    return {"content": alert.text, "allowed_mentions": {"parse": []}}


class Alerter:
    """Sends alerts to every configured webhook; :meth:`send` never raises if one does not answer."""

    def __init__(
        self, settings: AlertSettings, *, clock: Clock | None = None, transport: httpx.BaseTransport | None = None
    ) -> None:
        self._settings = settings
        self._clock = clock or Clock()
        self._http = httpx.Client(timeout=settings.timeout_s, transport=transport)
        self._said: dict[str, float] = {}
        self._lately: deque[float] = deque()
        named = (("slack", settings.slack_url, for_slack), ("discord", settings.discord_url, for_discord))
        self._channels = [(name, url.get_secret_value(), body) for name, url, body in named if url is not None]

    @property
    def channels(self) -> list[str]:
        """The names of the configured webhooks."""
        return [name for name, _, _ in self._channels]

    def require(self) -> None:
        """Raise :class:`ConfigurationError` if no webhook is configured."""
        if not self._channels:
            raise ConfigurationError(
                "no webhook is configured", where="HEADRACE_ALERTS_SLACK_URL, HEADRACE_ALERTS_DISCORD_URL",
                remedy="Set one of them to an incoming webhook.",
            )  # fmt: skip

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def send(self, alert: Alert) -> dict[str, str | None]:
        """Send the alert unless it was sent recently or the limit is reached.

        Return None or the failure for each channel; an empty result means that nothing was sent.
        """
        now = self._clock.now()
        said = self._said.get(alert.key)
        if said is not None and now - said < self._settings.repeat_s:
            return {}
        while self._lately and now - self._lately[0] >= _MINUTE_S:
            self._lately.popleft()
        if len(self._lately) >= self._settings.per_minute:
            log.warning("dropped an alert: too many alerts per minute", alert=alert.key)
            return {}
        self._lately.append(now)
        self._said = {key: at for key, at in self._said.items() if now - at < self._settings.repeat_s}
        found = {name: self._post(name, url, body(alert)) for name, url, body in self._channels}
        if any(failure is None for failure in found.values()):
            self._said[alert.key] = now
        return found

    def over(self, key: str) -> None:
        """Forget an alert that is over, so that it is sent immediately when it occurs again."""
        self._said.pop(key, None)

    def _post(self, name: str, url: str, body: dict[str, object]) -> str | None:
        failure = "not tried"
        for attempt in range(self._settings.attempts):
            wait: float | None = None
            try:
                answer = self._http.post(url, json=body)
                if answer.is_success:
                    return None
                failure = f"HTTP {answer.status_code}"
                if not (answer.is_server_error or answer.status_code in _PASSING):
                    break
                wait = retry_after(answer.headers.get("retry-after"))
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                failure = type(error).__name__  # its text may contain the URL, which is a secret
            if attempt + 1 < self._settings.attempts:
                self._clock.sleep(min(wait if wait is not None else 2.0**attempt, _LONGEST_WAIT_S))
        log.error("cannot deliver the alert", channel=name, error=failure)
        return failure


class Watch:
    """Remembers the alerts of the last check, and sends new alerts and the end of old ones."""

    def __init__(self, alerter: Alerter) -> None:
        self._alerter = alerter
        self._true: dict[str, Alert] = {}

    def take(self, alerts: Sequence[Alert]) -> None:
        """Send the current alerts, repeating persistent ones at the configured interval.

        The end of an alert is sent until it is delivered.
        """
        now = {alert.key: alert for alert in alerts}
        for alert in alerts:
            self._alerter.over(_over(alert))
            self._alerter.send(alert)
        for key, before in self._true.items():
            if key not in now:
                self._alerter.over(key)
                told = self._alerter.send(Alert(_over(before), f"over: {before.title}", good=True))
                if None not in told.values():
                    now[key] = before
        self._true = now


def _over(alert: Alert) -> str:
    return f"{alert.key}/over"
