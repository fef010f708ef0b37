"""Starts the chunker."""

from __future__ import annotations

import headrace.telemetry.lean  # noqa: F401  # first: loads its part without rich

# isort: split
from headrace.stage_process.main import run_stage
from headrace.topology import stages


def main() -> int:
    """Run the service until it is stopped."""
    return run_stage(stages.CHUNKER)


if __name__ == "__main__":
    raise SystemExit(main())
