"""Alerts to Slack and Discord: said once, not too often, tried again, and never in the way of the pipeline.

Only commands and the watcher send them, never a stage. No alert carries a document's text.
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
"""Characters of a message; Discord takes 2,000."""
_LONGEST_WAIT_S = 20.0
_MINUTE_S = 60.0
_PASSING = frozenset({408, 425, 429})


class AlertSettings(BaseSettings):
    """Where alerts go, and how often."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_ALERTS_", frozen=True)

    slack_url: SecretStr | None = Field(None, description="Incoming webhook of Slack; whoever has it can post.")
    discord_url: SecretStr | None = Field(None, description="Webhook of Discord; whoever has it can post.")
    repeat_s: float = Field(3600.0, ge=1, description="An alert that stays true is said again after so long.")
    per_minute: int = Field(10, ge=1, le=1000, description="Most alerts a minute; what is more is logged and dropped.")
    attempts: int = Field(4, ge=1, le=20, description="How often a webhook is tried that does not answer.")
    timeout_s: float = Field(10.0, gt=0, le=60, description="Seconds to wait for a webhook.")
    error_share: float = Field(
        0.01, gt=0, le=1, description="Share of the embedder's records that fail, from which on the watcher alerts."
    )


@dataclass(frozen=True, slots=True)
class Alert:
    """``key`` says what it is about: two with one key are the same alert."""

    key: str
    title: str
    detail: str = ""
    good: bool = False

    @property
    def text(self) -> str:
        """What people read, in bounded length."""
        sign = "✅" if self.good else "⚠️"
        whole = f"{sign} Headrace: {self.title}{f' — {self.detail}' if self.detail else ''}"
        return whole if len(whole) <= _LONGEST else f"{whole[: _LONGEST - 1]}…"


@dataclass(frozen=True, slots=True)
class Clock:
    """Time in seconds; tests put their own in its place."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def for_slack(alert: Alert) -> dict[str, object]:
    """Return the body for Slack, whose three control characters are escaped: nobody is called by a name in it."""
    return {"text": alert.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")}


def for_discord(alert: Alert) -> dict[str, object]:
    """Return the body for Discord, which calls nobody."""
    return {"content": alert.text, "allowed_mentions": {"parse": []}}


class Alerter:
    """Sends alerts to every webhook that is set; :meth:`send` never raises for one that does not answer."""

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
        """The names of the webhooks that are set."""
        return [name for name, _, _ in self._channels]

    def require(self) -> None:
        """Raise :class:`ConfigurationError` where no webhook is set."""
        if not self._channels:
            raise ConfigurationError(
                "no webhook is set", where="HEADRACE_ALERTS_SLACK_URL, HEADRACE_ALERTS_DISCORD_URL",
                remedy="Set one of them to an incoming webhook.",
            )  # fmt: skip

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def send(self, alert: Alert) -> dict[str, str | None]:
        """Send it, unless it was said lately or too many were; return by channel None, or why it did not arrive.

        Empty where it was held back, or no webhook is set.
        """
        now = self._clock.now()
        said = self._said.get(alert.key)
        if said is not None and now - said < self._settings.repeat_s:
            return {}
        while self._lately and now - self._lately[0] >= _MINUTE_S:
            self._lately.popleft()
        if len(self._lately) >= self._settings.per_minute:
            log.warning("alert dropped: too many in a minute", alert=alert.key)
            return {}
        self._lately.append(now)
        self._said = {key: at for key, at in self._said.items() if now - at < self._settings.repeat_s}
        found = {name: self._post(name, url, body(alert)) for name, url, body in self._channels}
        if any(failure is None for failure in found.values()):
            self._said[alert.key] = now
        return found

    def over(self, key: str) -> None:
        """Forget that the alert was said: it is no longer true, and is said at once when it is again."""
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
                failure = type(error).__name__  # its text may hold the URL, which is a secret
            if attempt + 1 < self._settings.attempts:
                self._clock.sleep(min(wait if wait is not None else 2.0**attempt, _LONGEST_WAIT_S))
        log.error("alert did not arrive", channel=name, error=failure)
        return failure


class Watch:
    """What was true at the last look; tells the alerter what became true, and what no longer is."""

    def __init__(self, alerter: Alerter) -> None:
        self._alerter = alerter
        self._true: dict[str, Alert] = {}

    def take(self, alerts: Sequence[Alert]) -> None:
        """Take all that is true now; one that stays true is said again as the settings have it.

        That one is over is said until it has arrived.
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
