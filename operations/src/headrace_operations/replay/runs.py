"""The states of replays, from the compacted topic ``replay-runs``."""

from __future__ import annotations

from headrace.codec.codec import Codec
from headrace.config.settings import KafkaSettings
from headrace.kafka.broker_contract import Record, TopicPartition
from headrace.kafka.offsets import Range
from headrace.kafka.ranges import LogReader
from headrace.payloads import ReplayRun
from headrace_operations.log_scan import decoded
from headrace_operations.replay.selection import RefusedReplay

TOPIC = "replay-runs"
RUNNING, PAUSED, SENT, DONE, CANCELLED = "RUNNING", "PAUSED", "SENT", "DONE", "CANCELLED"
OPEN = frozenset({RUNNING, PAUSED, SENT})
"""States of an unfinished replay."""


def read_runs(kafka: KafkaSettings, codec: Codec) -> dict[str, ReplayRun]:
    """Return the newest state of every replay by ID, oldest replay first; raises :class:`DependencyDown`.

    A state that does not decode is skipped with a warning.
    """
    ranges = LogReader(kafka, "replay")
    runs: dict[str, ReplayRun] = {}

    def take(record: Record) -> None:
        run = decoded(codec, record, ReplayRun)
        if run is not None:
            runs[run.run_id] = run

    ranges.read(ranges.bounds(ranges.partitions([TOPIC], needed=True), open_too=True), take)
    return dict(sorted(runs.items(), key=lambda item: item[1].asked_at))


def read_run(kafka: KafkaSettings, codec: Codec, run_id: str) -> ReplayRun:
    """Return the replay; raises :class:`RefusedReplay` naming the existing ones."""
    runs = read_runs(kafka, codec)
    if run_id not in runs:
        newest = ", ".join(list(runs)[-5:]) or "none"
        raise RefusedReplay(f"unknown replay {run_id!r}", remedy=f"The newest replays are: {newest}.")
    return runs[run_id]


def read_open(kafka: KafkaSettings, codec: Codec, run_id: str) -> ReplayRun:
    """Return the replay if it is not finished; raises :class:`RefusedReplay` otherwise."""
    run = read_run(kafka, codec, run_id)
    if run.state not in OPEN:
        raise RefusedReplay(f"the replay {run_id} is already {run.state.lower()}", remedy="Start a new replay.")
    return run


def spans(run: ReplayRun) -> dict[TopicPartition, Range]:
    """Return the remaining ranges by partition of the source topic."""
    return {TopicPartition(run.source, at.partition): Range(at.next, at.end) for at in run.positions}


def to_read(run: ReplayRun) -> int:
    """Return how many offsets the replay has still to read."""
    return sum(max(0, at.end - at.next) for at in run.positions)


def in_all(run: ReplayRun) -> int:
    """Return how many offsets the replay covers."""
    return sum(max(0, at.end - at.start) for at in run.positions)
