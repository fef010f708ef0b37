"""``headrace-bench NAME --json``: a benchmark and its baseline in one run; the last line is one JSON object."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path

import structlog

from headrace.config.settings import EXIT_CONFIGURATION
from headrace.errors import ConfigurationError
from headrace_bench.result import Result

BENCHMARKS = {
    "runtime": "runtime:run",
    "runtime-envelope": "runtime:run_envelope",
    "embedder": "stages:embedder",
    "indexer": "stages:indexer",
    "freshness": "freshness:run",
    "pipeline": "stages:pipeline",
    "rebalance": "rebalance:run",
    "replay": "replay:run",
    "outage": "outage:run",
    "poison": "poison:run",
    "edits": "edits:run",
}
"""Module and function of each benchmark; the function gets the stack's folder. Loaded on demand, because some load
torch."""

PROOFS = (
    "access", "capture", "proof", "quality", "reindex", "scale", "soak", "storm", "throughput", "transactions",
)  # fmt: skip
"""Commands without a figure and baseline: each tests a claim."""
JSON = "--json"


def main(arguments: list[str] | None = None) -> int:
    """Run one benchmark, or all; those in :data:`PROOFS` have their own options."""
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))  # stdout is for results
    given = sys.argv[1:] if arguments is None else arguments
    if given and given[0] in PROOFS:
        own = [one for one in given[1:] if one != JSON]  # their standard output is JSON in any case
        return int(import_module(f"headrace_bench.{given[0]}").main(own))
    parser = argparse.ArgumentParser(prog="headrace-bench", description=__doc__)
    parser.add_argument("name", choices=[*BENCHMARKS, "all", *PROOFS], help="the benchmark to run")
    parser.add_argument(JSON, action="store_true", help="print only JSON to standard output")
    parser.add_argument(
        "--state-dir", type=Path, default=Path(".headrace/bench"), help="state folder of the local stack"
    )
    options = parser.parse_args(given)
    for name in BENCHMARKS if options.name == "all" else [options.name]:
        module, _, function = BENCHMARKS[name].partition(":")
        try:
            result: Result = getattr(import_module(f"headrace_bench.{module}"), function)(options.state_dir)
        except ConfigurationError as error:
            print(f"cannot start benchmark {name}: {error}", file=sys.stderr)
            return EXIT_CONFIGURATION
        if not options.json:
            print(result.text())
        print(result.line(), flush=True)
    return 0
