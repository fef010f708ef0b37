"""The loop's decision with the plain values of :mod:`headrace_testing.loop_traces`.

``python -m headrace_testing.loop_decider FILE`` records the current answers, for a change that alters them on purpose.
Look at the differences first: a recording that follows every change protects nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from headrace.errors import ConfigurationError, DependencyDown
from headrace.kafka import broker_contract
from headrace.kafka.broker_contract import BrokerError, Mark, Polled, Record, Snapshot, TopicPartition
from headrace.runtime.loop import events
from headrace.runtime.loop.batch import BatchResult
from headrace.runtime.loop.breaker import Closed, HalfOpen
from headrace.runtime.loop.commands import Cancel, Command, Commit, Compute, PauseFetching, Recover, ResumeFetching
from headrace.runtime.loop.decide import decide
from headrace.runtime.loop.limits import Limits
from headrace.runtime.loop.state import State
from headrace.runtime.loop.waiting import next_wait
from headrace_testing.loop_traces import Answer, Json, record

SEEDS = range(240)
STEPS = 200


class LoopDecider:
    """Keeps the state between the events."""

    def __init__(self, limits: dict[str, Any]) -> None:
        self.state = State()
        self._limits = Limits(**{"deaths_alone" if name == "deaths" else name: limit for name, limit in limits.items()})

    def take(self, event: Json) -> Answer:
        """Return the answer to the event."""
        happened = _event(event)
        self.state, commands = decide(self.state, happened, self._limits)
        wait = next_wait(self.state, happened.now, self._limits)
        return Answer([_command(command) for command in commands], [wait.max_records, wait.timeout], self._shown())

    def _shown(self) -> Json:
        circuit, lifecycle = self.state.breaker.circuit, self.state.lifecycle
        shown = None
        if not isinstance(circuit, Closed):
            position = "half open" if isinstance(circuit, HalfOpen) else "open"
            shown = [position, circuit.dependency, circuit.reason]
        return {
            "circuit": shown, "paused": lifecycle.paused, "stopped": lifecycle.stopped, "draining": lifecycle.draining,
            "exit": None if lifecycle.exit is None else [lifecycle.exit.code, lifecycle.exit.reason],
        }  # fmt: skip


def _event(event: Json) -> events.Event:
    match event:
        case ["poll", now, records, snapshot, wall_ahead]:
            polled = Polled(tuple(_record(*fields) for fields in records))
            return events.PollReturned(now, polled, Snapshot(snapshot), wall_ahead)
        case ["rebalance", now, assigned, marks]:
            found = {TopicPartition(topic, number): Mark(*fields) for topic, number, *fields in marks}
            polled = Polled((), True, frozenset(TopicPartition(*place) for place in assigned), found)
            return events.PollReturned(now, polled, None)
        case ["poll_failed", now, error, jitter]:
            return events.PollFailed(now, _error(error), jitter)
        case ["computed", now, number, outcome, jitter]:
            return events.ComputeReturned(now, number, _outcome(outcome), jitter)
        case ["committed", now, _, error, jitter]:
            return events.CommitReturned(now, None if error is None else _error(error), jitter)
        case ["recovered", now, _, error, jitter]:
            return events.RecoveryReturned(now, None if error is None else _error(error), jitter)
        case ["orders", now, paused, resumes]:
            return events.OrdersChanged(now, paused, resumes)
        case ["live", now, busy]:
            return events.LiveLaneChanged(now, busy)
        case ["stop", now]:
            return events.StopRequested(now)
        case ["tick", now]:
            return events.Tick(now)
    raise ValueError(f"not an event of a recording: {event}")


def _record(topic: str, partition: int, offset: int, size: int, due: int | None) -> Record:
    headers = () if due is None else (("retry-due", str(due).encode()),)
    return Record(topic, partition, offset, b"k", b"x" * size, headers)


def _error(name: str) -> BrokerError:
    error = getattr(broker_contract, name)(f"{name} says why")
    assert isinstance(error, BrokerError)
    return error


def _outcome(outcome: Json) -> BatchResult | BaseException:
    match outcome:
        case ["result", faults]:
            return BatchResult((), faults=faults)
        case ["down", dependency, delay]:
            return DependencyDown(dependency, delay=delay)
        case ["configuration"]:
            return ConfigurationError("no token")
        case ["bug"]:
            return RuntimeError("bug")
    raise ValueError(f"not an outcome of a recording: {outcome}")


def _command(command: Command) -> Json:
    match command:
        case Compute(batch):
            records = [[record.topic, record.partition, record.offset] for record in batch.records]
            marks = [[*place, *mark] for place, mark in batch.marks.items()]
            return [
                "compute", batch.number, records, batch.snapshot, batch.started_at, batch.attempt, marks, batch.deadly,
            ]  # fmt: skip
        case Cancel(number):
            return ["cancel", number]
        case Commit(batch, result):
            return ["commit", batch.number, result.faults]
        case Recover(step):
            return ["recover", step.value]
        case PauseFetching():
            return ["pause_fetching"]
        case ResumeFetching():
            return ["resume_fetching"]


if __name__ == "__main__":
    print(record(Path(sys.argv[1]), LoopDecider, SEEDS, STEPS), "steps")
