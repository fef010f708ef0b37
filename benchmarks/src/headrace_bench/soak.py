"""The soak test: rows of the fault suite and storms, with new seeds, for hours.

``headrace-bench soak --hours N [--changes FILE]``. Each round draws a seed, runs every row with it, then a storm. Each
part prints a line of JSON with its seed. Failures are counted and shown, but not repeated. The exit code is 1 if
anything failed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from headrace_testing.data import reference_with_edits

STORM_EVENTS = 1500


def rows() -> list[str]:
    """Return the command that runs every row once, with the seed from the environment."""
    return [sys.executable, "-m", "pytest", "-q", "-m", "faults", "tests/faults", "--tb=short"]


def storm(seed: int, changes: Path, kills: int) -> list[str]:
    """Return the command of a storm with the seed."""
    given = ["--seed", str(seed), "--kills", str(kills), "--limit", str(STORM_EVENTS)]
    return [sys.executable, "-m", "headrace_bench.storm", str(changes), *given]


def part(name: str, seed: int, command: list[str], folder: Path) -> bool:
    """Run one part with its output in a file; print the outcome and return whether it passed."""
    log = folder / f"{name}-{seed}.log"
    started = time.monotonic()
    with log.open("wb") as output:
        code = subprocess.run(
            command, check=False, stdout=output, stderr=subprocess.STDOUT,
            env={**os.environ, "HEADRACE_FAULT_SEEDS": str(seed)},
        ).returncode  # fmt: skip
    figures = {"name": f"soak-{name}", "seed": seed, "ok": code == 0, "seconds": round(time.monotonic() - started)}
    print(json.dumps({**figures, "log": str(log)}), flush=True)
    return code == 0


def main(arguments: list[str] | None = None) -> int:
    """Run rounds until the hours are over; the current round is completed."""
    parser = argparse.ArgumentParser(prog="headrace-bench soak", description=__doc__)
    parser.add_argument("--hours", type=float, required=True)
    parser.add_argument("--changes", type=Path, help="change events as JSON lines (default: the language reference)")
    parser.add_argument("--kills", type=int, default=60, help="number of SIGKILLs in each storm")
    parser.add_argument(
        "--seed",
        type=int,
        default=random.SystemRandom().randrange(2**32),
        help="seed from which the seeds of the rounds are drawn",
    )
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="headrace-soak-"))
    chance = random.Random(options.seed)
    print(f"seed {options.seed}, logs in {folder}", file=sys.stderr, flush=True)
    until = time.monotonic() + options.hours * 3600
    failed = rounds = 0
    while time.monotonic() < until:
        seed = chance.randrange(2**32)
        changes = options.changes or _written(folder, seed)
        failed += not part("rows", seed, rows(), folder)
        failed += not part("storm", seed, storm(seed, changes, options.kills), folder)
        rounds += 1
    print(json.dumps({"name": "soak", "seed": options.seed, "rounds": rounds, "failed": failed, "ok": not failed}))
    return 1 if failed else 0


def _written(folder: Path, seed: int) -> Path:
    path = folder / f"changes-{seed}.jsonl"
    events = reference_with_edits(edits=STORM_EVENTS - 60, seed=seed)
    path.write_text("".join(f"{json.dumps(event)}\n" for event in events), encoding="utf-8")
    return path


if __name__ == "__main__":
    raise SystemExit(main())
