"""What an error may ask of those who catch it."""

from __future__ import annotations

import math

import pytest

from headrace.errors import LONGEST_DELAY_S, DependencyDown, HeadraceError, InvalidRecord, TemporaryError, sentences

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


@pytest.mark.parametrize(
    ("parts", "joined"),
    [
        (("title: is empty", "Give one."), "title: is empty. Give one."),
        (("Nothing is known.", "Look at the id"), "Nothing is known. Look at the id"),
        (("is this it?", "No."), "is this it? No."),
        (("title: is empty", ""), "title: is empty"),
        (("title: is empty", None), "title: is empty"),
        (("", "Give one."), "Give one."),
    ],
)
def test_message_and_remedy_are_sentences(parts: tuple[str | None, ...], joined: str) -> None:
    """Broken: "is missing Send it" reads as one sentence, in every list of dead letters."""
    assert sentences(*parts) == joined


def test_an_error_as_text_is_made_of_sentences() -> None:
    """Broken: what is kept as a dead letter's message runs into what is to be done about it."""
    assert str(InvalidRecord("title", "is empty", remedy="Give one.")) == "title: is empty. Give one."
    assert str(HeadraceError("It failed.", where="a:1", remedy="Mend it.")) == "It failed. (a:1) Mend it."
    assert str(HeadraceError("it failed", where="a:1", remedy="Mend it.")) == "it failed (a:1). Mend it."
    assert str(HeadraceError("it failed", where="a:1")) == "it failed (a:1)"
    assert str(HeadraceError("It failed.")) == "It failed."
