"""The runs of replays, as the compacted topic ``replay-runs`` tells of them."""

from __future__ import annotations

from confluent_kafka import Message as KafkaMessage

from headrace.codec.codec import Codec
from headrace.config.settings import KafkaSettings
from headrace.payloads import ReplayRun
from headrace_operations.audit.log_ranges import LogRanges, Partition
from headrace_operations.log_scan import record_of
from headrace_operations.replay.selection import RefusedReplay

TOPIC = "replay-runs"
RUNNING, PAUSED, SENT, DONE, CANCELLED = "RUNNING", "PAUSED", "SENT", "DONE", "CANCELLED"
OPEN = frozenset({RUNNING, PAUSED, SENT})
"""States in which something is left to be done."""


def read_runs(kafka: KafkaSettings, codec: Codec) -> dict[str, ReplayRun]:
    """Return the newest state of every run, by id, the oldest run first; raises :class:`DependencyDown`."""
    ranges = LogRanges(kafka)
    runs: dict[str, ReplayRun] = {}

    def take(place: Partition, message: KafkaMessage) -> None:
        run: ReplayRun = codec.decode_plain(record_of(place, message).value, ReplayRun)
        runs[run.run_id] = run

    ranges.read(ranges.bounds(ranges.partitions([TOPIC], needed=True)), take)
    return dict(sorted(runs.items(), key=lambda item: item[1].asked_at))


def read_run(kafka: KafkaSettings, codec: Codec, run_id: str) -> ReplayRun:
    """Return the run; raises :class:`RefusedReplay` naming those that exist."""
    runs = read_runs(kafka, codec)
    if run_id not in runs:
        newest = ", ".join(list(runs)[-5:]) or "none"
        raise RefusedReplay(f"there is no replay {run_id!r}", remedy=f"The newest are: {newest}.")
    return runs[run_id]


def read_open(kafka: KafkaSettings, codec: Codec, run_id: str) -> ReplayRun:
    """Return the run, of which something is left to be done; raises :class:`RefusedReplay` otherwise."""
    run = read_run(kafka, codec, run_id)
    if run.state not in OPEN:
        raise RefusedReplay(f"the replay {run_id} is {run.state.lower()}", remedy="Start another one.")
    return run


def lanes_of(kafka: KafkaSettings, run: ReplayRun) -> KafkaSettings:
    """Return how to reach the lanes that the run goes through: those of its generation."""
    return kafka.of(run.generation)


def to_read(run: ReplayRun) -> int:
    """Return how many offsets the run has still to read."""
    return sum(max(0, at.end - at.next) for at in run.positions)


def in_all(run: ReplayRun) -> int:
    """Return how many offsets the run covers."""
    return sum(max(0, at.end - at.start) for at in run.positions)
