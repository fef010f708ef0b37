"""Failpoints: named points in the code at which a test makes the process die, stop, wait or fail.

``HEADRACE_FAILPOINTS="commit.offsets=kill@3;commit.produced=sleep:2"`` is the only way to set them. If the variable is
not set, :func:`reach` costs one comparison.

A rule is ``name=action`` or ``name=action@N``. With ``@N``, it applies when the point is reached for the Nth time,
otherwise every time. The actions are ``kill`` (SIGKILL), ``stop`` (SIGSTOP, until SIGCONT), ``sleep:SECONDS`` and
``raise``. The rules of a point are applied in the order in which they are written.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from headrace.errors import ConfigurationError

VARIABLE = "HEADRACE_FAILPOINTS"
ACTIONS = ("kill", "stop", "sleep:SECONDS", "raise")


class FailpointReached(RuntimeError):
    """A failpoint raised this, as a test told it to."""


@dataclass(frozen=True, slots=True)
class Rule:
    """The action at a point; ``occurrence`` counts from 1, None is every time; ``seconds`` applies to sleep."""

    action: str
    seconds: float = 0.0
    occurrence: int | None = None


def parse(text: str) -> dict[str, tuple[Rule, ...]]:
    """Return the rules by point; raises :class:`ConfigurationError` naming the invalid rule."""
    rules: dict[str, tuple[Rule, ...]] = {}
    for part in filter(None, (piece.strip() for piece in text.split(";"))):
        name, equals, what = part.partition("=")
        if not equals or not name.strip():
            raise _wrong(part, "it is not of the form name=action")
        rules[name.strip()] = (*rules.get(name.strip(), ()), _rule(part, what.strip()))
    return rules


def _rule(part: str, what: str) -> Rule:
    what, at, number = what.partition("@")
    action, colon, argument = what.partition(":")
    try:
        occurrence = int(number) if at else None
        seconds = float(argument) if colon else 0.0
    except ValueError as error:
        raise _wrong(part, str(error)) from error
    if action not in {"kill", "stop", "sleep", "raise"}:
        raise _wrong(part, f"unknown action {action!r}")
    if (action == "sleep") != bool(colon) or seconds < 0 or (occurrence is not None and occurrence < 1):
        raise _wrong(part, "only sleep takes seconds, and @N counts from 1")
    return Rule(action, seconds, occurrence)


def _wrong(part: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"the failpoint {part!r} cannot be set: {why}",
        where=VARIABLE,
        remedy=f"Write name=action or name=action@N, separated by semicolons; actions: {', '.join(ACTIONS)}.",
    )


class Failpoints:
    """The rules of a process, and how often each point was reached."""

    def __init__(
        self,
        rules: dict[str, tuple[Rule, ...]],
        *,
        send: Callable[[int], None] = lambda number: os.kill(os.getpid(), number),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rules = rules
        self._send = send
        self._sleep = sleep
        self._reached: Counter[str] = Counter()
        self._guard = threading.Lock()

    def reach(self, name: str) -> None:
        """Apply the point's rules; safe to call from any thread."""
        rules = self._rules.get(name)
        if rules is None:
            return
        with self._guard:
            self._reached[name] += 1
            times = self._reached[name]
        for rule in rules:
            if rule.occurrence in (None, times):
                self._carry_out(rule, name)

    def _carry_out(self, rule: Rule, name: str) -> None:
        match rule.action:
            case "kill":
                self._send(signal.SIGKILL)
            case "stop":
                self._send(signal.SIGSTOP)
            case "sleep":
                self._sleep(rule.seconds)
            case _:
                raise FailpointReached(name)


def _from_environment() -> Failpoints | None:
    text = os.environ.get(VARIABLE)
    if not text:
        return None
    sys.stderr.write(f"{VARIABLE} is set, for tests only: {text}\n")
    return Failpoints(parse(text))


_active = _from_environment()


def reach(name: str) -> None:
    """Report that the point is reached; this has no effect unless a test set a rule for it."""
    if _active is not None:
        _active.reach(name)
