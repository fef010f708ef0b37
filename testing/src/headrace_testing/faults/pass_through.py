"""A stage that copies records with the real worker and the real Kafka client, for delivery faults.

``python -m headrace_testing.faults.pass_through --source A --target B --dead C --group G``. Settings of Kafka and the
worker come from the environment, as for every service. A record whose value starts with ``poison`` is dead-lettered.
``--mutant`` breaks one promise on purpose, to prove that the checkers detect it.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import json
import signal
import sys
from typing import Any

from headrace.config.settings import KafkaSettings, WorkerSettings
from headrace.kafka import broker as client
from headrace.kafka import client_config
from headrace.kafka.broker_contract import Message, Record
from headrace.runtime.compute import ComputeThread, Process
from headrace.runtime.contract import Lane
from headrace.runtime.loop.batch import Batch, BatchResult
from headrace.runtime.loop.limits import Limits
from headrace.runtime.watchdog import Watchdog
from headrace.runtime.watchdog import _die as watchdog_die
from headrace.runtime.worker import Worker
from headrace.telemetry import logs
from headrace_testing.faults.mutants import BROKERS, CONSUMERS

POISON = b"poison"


def main(arguments: list[str] | None = None) -> int:
    """Run the stage until SIGTERM; return the worker's exit code."""
    parsed = _parser().parse_args(arguments)
    settings = WorkerSettings()
    logs.configure("info", "console", stage="pass-through", worker=settings.slot)
    faulthandler.register(signal.SIGUSR1, sys.stdout)
    _tune(parsed)
    computer = ComputeThread()
    watchdog = Watchdog(settings.call_bound_s, expired=_show_and_die)
    watchdog.start()
    limits = Limits(
        batch_records=settings.batch_records or 100, backoff_max_s=settings.backoff_max_s, drain_s=settings.drain_s
    )
    broker = BROKERS[parsed.mutant](
        KafkaSettings(), settings, group=parsed.group, transactional_id=f"{parsed.group}-{settings.slot}"
    )
    lane = Lane("pass-through", [parsed.source], limits)
    worker = Worker(lane, broker, computer.computer(_process(parsed)), watch=watchdog.watch)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    return worker.run()


def _show_and_die(call: str, bound: float) -> None:
    """Print the stack of each thread, then end the process as the product's watchdog does."""
    faulthandler.dump_traceback(sys.stdout)
    watchdog_die(call, bound)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pass-through", description=__doc__)
    for name in ("source", "target", "dead", "group"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--compute-s", type=float, default=0.0, help="how long each batch computes")
    parser.add_argument("--call-s", type=float, help="bound of a transactional call, instead of the client's own")
    parser.add_argument("--consumer", type=json.loads, default={}, help="settings put over the consumer's, as JSON")
    parser.add_argument("--mutant", choices=sorted(BROKERS), default="none", help="the promise to break")
    return parser


def _tune(parsed: argparse.Namespace) -> None:
    """Replace the client's limits with the test's, in this process only."""
    if parsed.call_s is not None:
        vars(client)["_CALL_S"] = parsed.call_s
    over = {**CONSUMERS.get(parsed.mutant, {}), **parsed.consumer}
    if over:
        original = client_config.consumer_config

        def tuned(*given: Any) -> dict[str, Any]:
            return {**original(*given), **over}

        vars(client)["consumer_config"] = tuned


def _process(parsed: argparse.Namespace) -> Process:
    """Return the function that computes a batch: it copies records and dead-letters poison."""

    def message(record: Record) -> Message:
        value = record.value or b""
        target = parsed.dead if value.startswith(POISON) else parsed.target
        return Message(target, record.key or b"-", value, record.headers)

    async def process(batch: Batch) -> BatchResult:
        if parsed.compute_s:
            await asyncio.sleep(parsed.compute_s)
        return BatchResult([message(record) for record in batch.records])

    return process


if __name__ == "__main__":
    raise SystemExit(main())
