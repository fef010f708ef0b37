"""What an error may ask of those who catch it."""

from __future__ import annotations

import math

import pytest

from headrace.errors import LONGEST_DELAY_S, DependencyDown, TemporaryError

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("asked", "kept"),
    [(None, None), (0.0, 0.0), (30.0, 30.0), (1e12, LONGEST_DELAY_S), (math.inf, LONGEST_DELAY_S), (-1.0, 0.0)],
)
def test_no_other_system_can_have_a_stage_wait_for_ever(asked: float | None, kept: float | None) -> None:
    """Broken: `Retry-After: 9999999999` of a provider stops the stage until somebody restarts it."""
    assert DependencyDown("provider", delay=asked).delay == kept
    assert TemporaryError(delay=asked).delay == kept


def test_a_delay_that_is_no_number_is_none() -> None:
    """Broken: a comparison with it is false either way, and the wait is nobody's choice."""
    assert DependencyDown("provider", delay=math.nan).delay is None
