"""``headrace-bench NAME --json``: a benchmark, its baseline in the same run, the last line one JSON object."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import structlog

from headrace.settings import KafkaSettings
from headrace_bench.result import Result
from headrace_local import shared


def _runtime(state_dir: Path, *, envelope: bool) -> Result:
    from headrace_bench import runtime  # noqa: PLC0415

    endpoints = shared.acquire(state_dir)
    try:
        return runtime.run(KafkaSettings(bootstrap=endpoints.kafka_bootstrap), envelope=envelope)
    finally:
        shared.release(state_dir)


def _embedder(state_dir: Path) -> Result:
    from headrace_bench import stages  # noqa: PLC0415

    return stages.embedder(state_dir)


def _indexer(state_dir: Path) -> Result:
    from headrace_bench import stages  # noqa: PLC0415

    return stages.indexer(state_dir)


def _pipeline(state_dir: Path) -> Result:
    from headrace_bench import stages  # noqa: PLC0415

    return stages.pipeline(state_dir)


def _freshness(state_dir: Path) -> Result:
    from headrace_bench import freshness  # noqa: PLC0415

    return freshness.run(state_dir)


def _rebalance(state_dir: Path) -> Result:
    from headrace_bench import rebalance  # noqa: PLC0415

    return rebalance.run(state_dir)


def _replay(state_dir: Path) -> Result:
    from headrace_bench import replay  # noqa: PLC0415

    return replay.run(state_dir)


def _outage(state_dir: Path) -> Result:
    from headrace_bench import outage  # noqa: PLC0415

    return outage.run(state_dir)


def _poison(state_dir: Path) -> Result:
    from headrace_bench import poison  # noqa: PLC0415

    return poison.run(state_dir)


BENCHMARKS: dict[str, Callable[[Path], Result]] = {
    "runtime": lambda state_dir: _runtime(state_dir, envelope=False),
    "runtime-envelope": lambda state_dir: _runtime(state_dir, envelope=True),
    "embedder": _embedder,
    "indexer": _indexer,
    "freshness": _freshness,
    "pipeline": _pipeline,
    "rebalance": _rebalance,
    "replay": _replay,
    "outage": _outage,
    "poison": _poison,
}

PROOFS = ("proof", "soak", "storm", "transactions")
"""Commands of their own: no figure beside a baseline, but a claim that is put to the test."""


def main(arguments: list[str] | None = None) -> int:
    """Run one benchmark, or all; ``proof``, ``soak``, ``storm`` and ``transactions`` have options of their own."""
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))  # stdout is for results
    given = sys.argv[1:] if arguments is None else arguments
    if given and given[0] in PROOFS:
        return int(import_module(f"headrace_bench.{given[0]}").main(given[1:]))
    parser = argparse.ArgumentParser(prog="headrace-bench", description=__doc__)
    parser.add_argument("name", choices=[*BENCHMARKS, "all", *PROOFS], help="which benchmark")
    parser.add_argument("--json", action="store_true", help="only JSON on standard output")
    parser.add_argument("--state-dir", type=Path, default=Path(".headrace/bench"), help="where the local stack lives")
    options = parser.parse_args(given)
    for name in BENCHMARKS if options.name == "all" else [options.name]:
        result = BENCHMARKS[name](options.state_dir)
        if not options.json:
            print(result.text())
        print(result.line(), flush=True)
    return 0
