"""The generator as a process."""

from __future__ import annotations

import headrace.telemetry.lean  # noqa: F401  # first: loads its part without rich

# isort: split
from headrace.stage_process.main import run_stage
from headrace.topology.stages import GENERATOR


def main() -> int:
    """Run the stage until SIGTERM or SIGINT; return the exit code."""
    return run_stage(GENERATOR)


if __name__ == "__main__":
    raise SystemExit(main())
