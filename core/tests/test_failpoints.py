"""Failpoints: off unless the environment names them, and then exactly what was asked for."""

from __future__ import annotations

import signal

import pytest

from headrace.config import failpoints
from headrace.config.failpoints import FailpointReached, Failpoints, Rule, parse
from headrace.errors import ConfigurationError

pytestmark = pytest.mark.unit


@pytest.fixture
def done() -> list[object]:
    """What the points did, instead of doing it."""
    return []


def points(text: str, done: list[object]) -> Failpoints:
    """Points that note down what they would do."""
    return Failpoints(parse(text), send=done.append, sleep=done.append)


def test_rules_are_read_in_order() -> None:
    """Broken: a test sets one thing and gets another, or nothing."""
    assert parse(" a=kill@3; b=sleep:0.5 ;a=raise;c=stop;") == {
        "a": (Rule("kill", 0.0, 3), Rule("raise")),
        "b": (Rule("sleep", 0.5),),
        "c": (Rule("stop"),),
    }


@pytest.mark.parametrize(
    "text", ["a", "=kill", "a=explode", "a=kill@x", "a=kill@0", "a=sleep", "a=sleep:x", "a=sleep:-1", "a=kill:3"]
)
def test_what_cannot_be_set_is_refused(text: str) -> None:
    """Broken: a misspelt failpoint never fires, and the test that relies on it proves nothing."""
    with pytest.raises(ConfigurationError, match="failpoint"):
        parse(text)


def test_kill_comes_at_its_time_and_only_then(done: list[object]) -> None:
    """Broken: the process dies at another record than the schedule says."""
    own = points("commit=kill@3", done)
    for _ in range(2):
        own.reach("commit")
        own.reach("elsewhere")
    assert done == []
    own.reach("commit")
    own.reach("commit")
    assert done == [signal.SIGKILL]


def test_rules_without_a_number_hold_each_time(done: list[object]) -> None:
    """Broken: a slow network is slow once."""
    own = points("a=sleep:2;a=stop@2", done)
    own.reach("a")
    own.reach("a")
    assert done == [2.0, 2.0, signal.SIGSTOP]


def test_raise_names_the_point(done: list[object]) -> None:
    """Broken: a failure that a test planted cannot be told from a real one."""
    with pytest.raises(FailpointReached, match="a-point"):
        points("a-point=raise", done).reach("a-point")


def test_nothing_is_active_without_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: failpoints cost or do something in production."""
    monkeypatch.delenv(failpoints.VARIABLE, raising=False)
    assert failpoints._from_environment() is None
    monkeypatch.setattr(failpoints, "_active", None)
    failpoints.reach("anything")


def test_the_variable_makes_them_active(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Broken: the one way to set failpoints does not set them, or sets them without a word."""
    monkeypatch.setenv(failpoints.VARIABLE, "here=raise")
    monkeypatch.setattr(failpoints, "_active", failpoints._from_environment())
    assert "here=raise" in capsys.readouterr().err
    with pytest.raises(FailpointReached):
        failpoints.reach("here")
