"""What embedding costs and how much of it is allowed: prices and caps from one file; pure but for reading it.

The file is YAML::

    models:                                  # by the model's identity in the index
      text-embedding-3-small: {usd_per_million_tokens: 0.02}
    caps:
      all: {usd_per_month: 100}
      each_tenant: {usd_per_day: 1}
      tenants:
        acme: {usd_per_month: 50}            # in place of each_tenant

Days and months are those of UTC.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from headrace.config import yaml_file
from headrace.errors import ConfigurationError

MILLION = Decimal(1_000_000)
CAP_SCOPE = "cap"
"""Scope of records that are held because of a tenant's cap: ``cap/acme``."""
_FILE = "HEADRACE_COST_FILE"
_WHAT = "the file of prices"
_CONTENT = (
    "It has `models` by name, each with usd_per_million_tokens, and `caps`: all, each_tenant, and tenants by name, "
    "each with usd_per_day, usd_per_month, tokens_per_day, tokens_per_month."
)


class CostSettings(BaseSettings):
    """The file of prices and caps, and the exchange rate."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_COST_", frozen=True)

    file: Path | None = Field(
        None,
        description="YAML file with model prices and spending caps. Changes apply from the next batch. If unset, "
        "models on this machine are free, other models have no known price, and there are no caps.",
    )
    krw_per_usd: Decimal | None = Field(
        None,
        gt=0,
        description="Korean won per US dollar, for amounts that commands show. If unset, they show dollars only.",
    )


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Price(_Part):
    """The price that a model's provider charges."""

    usd_per_million_tokens: Decimal = Field(ge=0, le=1_000_000)


class Cap(_Part):
    """Maximum spending per UTC day and month; None means unlimited."""

    usd_per_day: Decimal | None = Field(None, ge=0)
    usd_per_month: Decimal | None = Field(None, ge=0)
    tokens_per_day: int | None = Field(None, ge=0)
    tokens_per_month: int | None = Field(None, ge=0)

    @property
    def set(self) -> bool:
        """Whether there is any limit."""
        return self != NO_CAP

    @property
    def in_usd(self) -> bool:
        """Whether there is a limit in USD."""
        return self.usd_per_day is not None or self.usd_per_month is not None


NO_CAP = Cap()


class Caps(_Part):
    """The caps for all tenants together, for each tenant, and for tenants with their own cap."""

    all: Cap = NO_CAP
    each_tenant: Cap = NO_CAP
    tenants: Mapping[str, Cap] = Field(default_factory=dict)

    def of(self, tenant: str) -> Cap:
        """Return the tenant's cap."""
        return self.tenants.get(tenant, self.each_tenant)

    @property
    def in_usd(self) -> bool:
        """Whether any cap has a limit in USD."""
        return any(cap.in_usd for cap in (self.all, self.each_tenant, *self.tenants.values()))


class CostBook(_Part):
    """Prices by model, and caps."""

    models: Mapping[str, Price] = Field(default_factory=dict)
    caps: Caps = Caps()

    def price(self, model: str, *, local: bool) -> Decimal | None:
        """Return the USD per million tokens of the model, or None if unknown.

        A ``local`` model costs 0 unless the file says otherwise, because power and hardware are not counted.
        """
        known = self.models.get(model)
        if known is not None:
            return known.usd_per_million_tokens
        return Decimal(0) if local else None

    def require_price(self, model: str, *, local: bool, file: Path | None) -> None:
        """Raise :class:`ConfigurationError` for a cap in USD if the model's price is unknown."""
        if self.caps.in_usd and self.price(model, local=local) is None:
            raise ConfigurationError(
                f"cannot apply the cap in USD: the price of {model} is unknown", where=f"{_FILE}={file}",
                remedy=f"In the file, set usd_per_million_tokens below models: {model} (0 if the model is free), or "
                "cap tokens instead.",
            )  # fmt: skip


class Spent(NamedTuple):
    """The amounts spent today and this month."""

    usd_day: Decimal = Decimal(0)
    usd_month: Decimal = Decimal(0)
    tokens_day: int = 0
    tokens_month: int = 0


class Reached(NamedTuple):
    """A reached cap: whose it is, which limit, how much was spent of how much, and when its period ends."""

    whose: str
    limit: str
    spent: Decimal
    cap: Decimal
    until: datetime

    def __str__(self) -> str:
        unit = "USD" if self.limit.startswith("usd") else "tokens"
        period = "today" if self.limit.endswith("day") else "this month"
        return (
            f"the cap of {self.whose} is reached: {self.spent:f} of {self.cap:f} {unit} {period} ({self.limit}), "
            f"until {self.until:%Y-%m-%dT%H:%MZ} or until you raise the cap"
        )


def usd(tokens: int, price: Decimal) -> Decimal:
    """Return the exact cost in USD of the tokens at a price per million."""
    return tokens * price / MILLION


def reached(cap: Cap, spent: Spent, whose: str, now: datetime) -> Reached | None:
    """Return the reached limit, the one that lasts longest if there are several, or None if the cap has room."""
    day_end, month_end = _day_end(now), _month_end(now)
    limits = (
        ("usd_per_month", cap.usd_per_month, spent.usd_month, month_end),
        ("tokens_per_month", cap.tokens_per_month, spent.tokens_month, month_end),
        ("usd_per_day", cap.usd_per_day, spent.usd_day, day_end),
        ("tokens_per_day", cap.tokens_per_day, spent.tokens_day, day_end),
    )
    for name, limit, used, until in limits:
        if limit is not None and used >= limit:
            return Reached(whose, name, Decimal(used), Decimal(limit), until)
    return None


def today(now: datetime) -> date:
    """Return the UTC day on which spending at this time counts."""
    return now.astimezone(UTC).date()


def month_start(now: datetime) -> date:
    """Return the first day of the current UTC month."""
    return today(now).replace(day=1)


def _day_end(now: datetime) -> datetime:
    return datetime.combine(today(now) + timedelta(days=1), datetime.min.time(), UTC)


def _month_end(now: datetime) -> datetime:
    following = (month_start(now) + timedelta(days=31)).replace(day=1)
    return datetime.combine(following, datetime.min.time(), UTC)


def split_exactly(total: int, weights: Sequence[int]) -> list[int]:
    """Return shares of ``total`` in proportion to the weights, as whole numbers whose sum is ``total``.

    Uses the largest-remainder method. If all weights are 0, the shares are equal. Without weights, there are no shares.
    """
    if not weights:
        return []
    base = sum(weights)
    if base == 0:
        weights, base = [1] * len(weights), len(weights)
    shares = [total * weight // base for weight in weights]
    behind = sorted(range(len(weights)), key=lambda at: -(total * weights[at] % base))
    for at in behind[: total - sum(shares)]:
        shares[at] += 1
    return shares


def read_book(path: Path | None) -> CostBook:
    """Return the file's prices and caps, or empty ones if ``path`` is None.

    Raises :class:`ConfigurationError` naming file, line and field if the file is missing or invalid.
    """
    if path is None:
        return CostBook()
    return _book(yaml_file.read(path, _WHAT, where=f"{_FILE}={path}"), str(path))


def parse_book(text: str, name: str) -> CostBook:
    """Return the prices and caps in a text; raises :class:`ConfigurationError` with ``name:line`` and the field."""
    return _book(yaml_file.parse(text, _WHAT, name), name)


def _book(found: Any, name: str) -> CostBook:
    if found is None:  # Otherwise a file that is being written, or a full disk, would lift every cap.
        raise ConfigurationError(
            "the file is empty", where=name, remedy="Write {} into it if there are no prices and no caps."
        )
    try:
        return CostBook.model_validate(found)
    except ValidationError as error:
        place, reason = yaml_file.refusal(error)
        raise ConfigurationError(
            f"{'.'.join(map(str, place)) or 'the file'}: {reason}", where=f"{name}:{yaml_file.line(found, place)}",
            remedy=_CONTENT,
        ) from error  # fmt: skip


class LiveBook:
    """The content of the file, read again when it changes; an invalid change leaves the previous content in force.

    ``judge`` raises :class:`ConfigurationError` for content that its user does not accept.
    """

    def __init__(self, path: Path | None, judge: Callable[[CostBook], None] = lambda _: None) -> None:
        self._path = path
        self._judge = judge
        self._seen = self._state()
        self.book = self._read()
        self.error: ConfigurationError | None = None

    def refresh(self) -> bool:
        """Check for changes; return whether the file was read, with :attr:`error` set if it is invalid."""
        state = self._state()
        if state == self._seen:
            return False
        self._seen = state
        try:
            self.book, self.error = self._read(), None
        except ConfigurationError as error:
            self.error = error
        return True

    def _read(self) -> CostBook:
        book = read_book(self._path)
        self._judge(book)
        return book

    def _state(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat() if self._path else None
        except OSError:
            return None
        return None if found is None else (found.st_mtime_ns, found.st_size, found.st_ino)
