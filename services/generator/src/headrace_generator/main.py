"""The generator as a process."""

from __future__ import annotations

from headrace.service import run_stage
from headrace.stage import GENERATOR


def main() -> int:
    """Run the stage until SIGTERM or SIGINT; return the exit code."""
    return run_stage(GENERATOR)


if __name__ == "__main__":
    raise SystemExit(main())
