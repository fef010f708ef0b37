"""What happens when, from a seed: the same seed gives the same schedule, and every run prints its seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Step:
    """After ``pause`` seconds do ``action`` to ``target``."""

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
    """Return so many steps: actions by weight, each on one of its targets, with pauses between the two bounds."""
    names = list(weights)
    drawn = chance.choices(names, [weights[name] for name in names], k=steps)
    return [Step(chance.uniform(*pause), action, chance.choice(targets[action])) for action in drawn]


def evenly(chance: Random, number: int, targets: Sequence[str]) -> list[str]:
    """Return so many targets in random order, each as often as the others, give or take one."""
    rounds = [*targets] * (number // len(targets) + 1)
    chance.shuffle(rounds)
    return rounds[:number]


def seeds(text: str, drawn: int) -> list[int]:
    """Return the seeds that ``7``, ``1-20`` or ``3,9,100-120`` names, or the one drawn where the text is empty.

    Raises :class:`ValueError` for anything else.
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
