"""Starts the indexer."""

from __future__ import annotations

from headrace import stage
from headrace.service import run_stage


def main() -> int:
    """Run the service until it is told to stop."""
    return run_stage(stage.INDEXER)


if __name__ == "__main__":
    raise SystemExit(main())
