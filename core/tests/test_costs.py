"""Prices, caps and exact shares, without a file or a clock."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.embeddings.costs import (
    Cap,
    CostBook,
    LiveBook,
    Spent,
    month_start,
    parse_book,
    reached,
    read_book,
    split_exactly,
    today,
    usd,
)
from headrace.errors import ConfigurationError

pytestmark = pytest.mark.unit

NOW = datetime(2026, 12, 31, 23, 30, tzinfo=UTC)
FILE = """\
models:
  small: {usd_per_million_tokens: 0.02}
caps:
  all: {usd_per_month: 100}
  each_tenant: {usd_per_day: 1}
  tenants:
    acme: {tokens_per_month: 5000}
"""


@given(st.integers(0, 10**12), st.lists(st.integers(0, 10**6), max_size=50))
def test_shares_have_the_very_sum_and_are_near_their_proportion(total: int, weights: list[int]) -> None:
    """Broken: tokens of a request vanish or appear when they are shared out between documents."""
    shares = split_exactly(total, weights)
    assert sum(shares) == (total if weights else 0)
    assert len(shares) == len(weights)
    base = sum(weights)
    if base:
        assert all(
            abs(share - total * weight / base) <= 1 + 1e-3 for share, weight in zip(shares, weights, strict=True)
        )


def test_cost_is_exact() -> None:
    """Broken: cents are lost to binary fractions."""
    assert usd(3, Decimal("0.1")) == Decimal("0.0000003")
    assert sum((usd(1, Decimal("0.02")) for _ in range(10**4)), Decimal(0)) == Decimal("0.0002")


def test_a_local_model_is_free_and_a_paid_one_without_a_price_is_unknown() -> None:
    """Broken: a paid model that nobody priced passes for free."""
    book = parse_book(FILE, "costs.yaml")
    assert book.price("small", local=False) == Decimal("0.02")
    assert book.price("small", local=True) == Decimal("0.02")
    assert book.price("other", local=True) == 0
    assert book.price("other", local=False) is None


def test_a_tenants_own_cap_stands_in_place_of_each_tenants() -> None:
    """Broken: the exception for one tenant is added to the rule for all, or the rule is lost."""
    caps = parse_book(FILE, "costs.yaml").caps
    assert caps.of("acme") == Cap(tokens_per_month=5000)
    assert caps.of("globex") == Cap(usd_per_day=Decimal(1))
    assert caps.in_usd
    assert not CostBook().caps.of("globex").set


def test_a_cap_is_reached_at_its_amount_and_names_the_end_that_lasts_longest() -> None:
    """Broken: spending goes on at the cap, or the reason names tomorrow where the month is used up."""
    cap = Cap(usd_per_day=Decimal(1), usd_per_month=Decimal(10))
    assert reached(cap, Spent(Decimal("0.99"), Decimal("9.99")), "tenant acme", NOW) is None
    day = reached(cap, Spent(Decimal(1), Decimal(9)), "tenant acme", NOW)
    assert day is not None
    assert (day.limit, day.until) == ("usd_per_day", datetime(2027, 1, 1, tzinfo=UTC))
    month = reached(cap, Spent(Decimal(2), Decimal(10)), "tenant acme", NOW.replace(day=5))
    assert month is not None
    assert (month.limit, month.until) == ("usd_per_month", datetime(2027, 1, 1, tzinfo=UTC))
    assert "the cap of tenant acme is reached: 10 of 10 USD this month" in str(month)
    tokens = reached(Cap(tokens_per_day=0), Spent(), "all tenants", NOW)
    assert tokens is not None
    assert "tokens today" in str(tokens)


def test_days_are_those_of_utc() -> None:
    """Broken: an embedder in Seoul and one in London write one call under two days."""
    seoul = datetime(2027, 1, 1, 8, 30, tzinfo=timezone(timedelta(hours=9)))
    assert today(seoul) == today(NOW)
    assert f"{month_start(seoul)}" == "2026-12-01"


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ("models:\n  small: {usd_per_million_tokens: -1}\n", "costs.yaml:2",
         "models.small.usd_per_million_tokens: -1 is less than the minimum, 0"),
        ("caps:\n  everybody: {usd_per_day: 1}\n", "costs.yaml:2", "caps.everybody: is an unknown field"),
        ("caps:\n  all:\n    usd_per_day: much\n", "costs.yaml:3", "caps.all.usd_per_day: 'much' is not a number"),
        ("caps:\n  all: {usd_per_day: .nan}\n", "costs.yaml:2", "caps.all.usd_per_day: nan is not a number"),
        ("caps:\n  all: {tokens_per_day: 1.5}\n", "costs.yaml:2", "caps.all.tokens_per_day: 1.5 is not a whole number"),
        ("models:\n  small:\n", "costs.yaml:2", "models.small: an empty value is not a mapping of names to values"),
        ("models:\n  small: {}\n", "costs.yaml:2", "models.small.usd_per_million_tokens: is missing"),
        ("models:\n  5: {}\n", "costs.yaml:2", "models.5: 5 is not text; put it in quotes"),
        ("models: [\n", "costs.yaml:2", "not valid YAML"),
        ("models: {}\nmodels: {}\n", "costs.yaml:2", "not valid YAML"),
        ("just words\n", "costs.yaml:1", "the file: 'just words' is not a mapping of names to values"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_by_line_and_field(text: str, place: str, said: str) -> None:
    """Broken: a slip of the pen in a cap is passed over and nothing is capped, or is told in a library's words."""
    with pytest.raises(ConfigurationError) as caught:
        parse_book(text, "costs.yaml")
    assert caught.value.where == place
    assert said in caught.value.message
    assert caught.value.remedy


def test_no_file_says_nothing_and_a_missing_or_empty_one_is_refused(tmp_path: Path) -> None:
    """Broken: a misspelt path runs without caps."""
    assert read_book(None) == parse_book("{}", "x") == CostBook()
    for nothing in ("", "# nothing yet\n"):
        with pytest.raises(ConfigurationError, match="the file is empty"):
            parse_book(nothing, "x")
    with pytest.raises(ConfigurationError, match=r"cannot be read: file 'none\.yaml' does not exist") as caught:
        read_book(tmp_path / "none.yaml")
    assert caught.value.where == f"HEADRACE_COST_FILE={tmp_path / 'none.yaml'}"


def test_a_change_of_the_file_counts_and_a_wrong_one_leaves_what_was(tmp_path: Path) -> None:
    """Broken: a raised cap needs a restart, or a typing error while running lifts every cap."""
    path = tmp_path / "costs.yaml"
    path.write_text(FILE)
    live = LiveBook(path)
    assert not live.refresh()
    path.write_text(FILE.replace("100", "200"))
    os.utime(path, ns=(1, 1))
    assert live.refresh()
    assert live.book.caps.all.usd_per_month == 200
    path.write_text("caps: nonsense")
    os.utime(path, ns=(2, 2))
    assert live.refresh()
    assert live.error is not None
    assert live.book.caps.all.usd_per_month == 200
    path.unlink()
    assert live.refresh()
    assert live.error is not None
    assert live.book.caps.all.usd_per_month == 200
