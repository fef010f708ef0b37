"""The result of a benchmark: a figure, its baseline from the same run, and their ratio."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Result:
    """One figure with its baseline; ``details`` say what was measured and have the single rounds."""

    name: str
    value: float
    unit: str
    baseline: float | None
    baseline_is: str
    details: dict[str, Any] = field(default_factory=dict)
    goal: float | None = None

    @property
    def ratio(self) -> float | None:
        """Value over baseline."""
        return self.value / self.baseline if self.baseline else None

    def line(self) -> str:
        """Return the result as one JSON object on one line."""
        return json.dumps(
            {
                "name": self.name,
                "value": round(self.value, 3),
                "unit": self.unit,
                "baseline": None if self.baseline is None else round(self.baseline, 3),
                "ratio": None if self.ratio is None else round(self.ratio, 3),
                "goal": self.goal,
                "baseline_is": self.baseline_is,
                "details": self.details,
            }
        )

    def text(self) -> str:
        """Return the result for people."""
        ratio = "" if self.ratio is None else f", {self.ratio:.2f} of {self.baseline_is}"
        goal = "" if self.goal is None else f" (goal {self.goal:.2f})"
        return f"{self.name}: {self.value:.1f} {self.unit}{ratio}{goal}"
