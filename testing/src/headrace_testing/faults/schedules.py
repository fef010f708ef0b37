"""Schedules of faults from a seed: the same seed gives the same schedule, and every run prints its seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Step:
    """Wait ``pause`` seconds, then apply ``action`` to ``target``."""

    pause: float
    action: str
    target: str

    def __str__(self) -> str:
        return f"after {self.pause:.1f} s {self.action} {self.target}"


def schedule(
    chance: Random,
    steps: int,
    weights: Mapping[str, float],
    targets: Mapping[str, Sequence[str]],
    pause: tuple[float, float],
) -> list[Step]:
    """Return this number of steps: weighted actions with random targets, and pauses between the two limits."""
    names = list(weights)
    drawn = chance.choices(names, [weights[name] for name in names], k=steps)
    return [Step(chance.uniform(*pause), action, chance.choice(targets[action])) for action in drawn]


def evenly(chance: Random, number: int, targets: Sequence[str]) -> list[str]:
    """Return this number of targets in random order; their frequencies differ by at most one."""
    rounds = [*targets] * (number // len(targets) + 1)
    chance.shuffle(rounds)
    return rounds[:number]


def seeds(text: str, drawn: int) -> list[int]:
    """Return the seeds in ``7``, ``1-20`` or ``3,9,100-120``, or the drawn one if the text is empty.

    Raises :class:`ValueError` for other texts.
    """
    if not text.strip():
        return [drawn]
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        found += range(int(first), int(last if dash else first) + 1)
    if not found:
        raise ValueError(f"no seed in {text!r}: write 7, 1-20 or 3,9,100-120")
    return found
