"""Defaults and choices that a command line shows in its help; this module loads nothing."""

from __future__ import annotations

from typing import Literal, get_args

OUTSTANDING = 2000
"""Default maximum of a replay's records that wait in the side lanes."""
By = Literal["tenant", "document", "stage", "model", "day"]
"""What the ledger can be summed by."""
BYS: tuple[str, ...] = get_args(By)
