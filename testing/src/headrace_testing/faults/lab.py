"""A lab for one delivery fault: numbered records, pass-through workers, and readers of the output."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from confluent_kafka import Consumer, KafkaError, Producer
from confluent_kafka import TopicPartition as KafkaPartition

from headrace.config.settings import KafkaSettings
from headrace.kafka.broker_contract import Record, TopicPartition
from headrace.kafka.client_answers import record_of
from headrace_testing.committed import QUIET, beginnings, log_of, read_all, reader
from headrace_testing.faults.brokers import Cluster
from headrace_testing.faults.checkers import Ends, Entry, Placed, conservation, ledger, offsets, progress
from headrace_testing.faults.pass_through import POISON
from headrace_testing.faults.processes import Child, spawn

SESSION_MS = 3000
TRANSACTION_MS = 8000


class Seen(NamedTuple):
    """An output, and the time on the monotonic clock at which the concurrent reader received it."""

    at: float
    topic: str
    entry: Entry


@dataclass(slots=True)
class Lab:
    """Topics and a group on the cluster for one test; close it at the end."""

    cluster: Cluster
    logs: Path
    partitions: int = 4
    keys: int = 24
    prefix: str = field(default_factory=lambda: f"fault-{uuid4().hex[:8]}-")
    sent: list[Entry] = field(default_factory=list)
    poison: list[Entry] = field(default_factory=list)
    workers: list[Child] = field(default_factory=list)
    revived: int = 0
    """Number of workers that exited and were started again, as by a supervisor."""
    doubled: int = 0
    """Number of additional copies in the source of records that were sent once; known after :meth:`problems`."""
    _kept: dict[str, tuple[Child, Callable[[], Child]]] = field(default_factory=dict)
    _reader: Reader | None = None
    _starts: Iterator[int] = field(default_factory=count)

    def __post_init__(self) -> None:
        """Create the topics and start to read the output."""
        self.cluster.create_topics([self.source, self.target, self.dead], self.partitions)
        self._reader = Reader(self.cluster.bootstrap, [self.target, self.dead], self.partitions)

    @property
    def source(self) -> str:
        """The workers' source topic."""
        return f"{self.prefix}in"

    @property
    def target(self) -> str:
        """The workers' target topic."""
        return f"{self.prefix}out"

    @property
    def dead(self) -> str:
        """The topic of the workers' dead letters."""
        return f"{self.prefix}dead-letters"

    @property
    def group(self) -> str:
        """The workers' consumer group."""
        return f"{self.prefix}group"

    @property
    def reader(self) -> Reader:
        """The reader that runs concurrently with the workers."""
        assert self._reader is not None
        return self._reader

    def start(
        self,
        slot: str,
        *options: str,
        failpoints: str = "",
        bootstrap: str | None = None,
        batch: int = 50,
        env: Mapping[str, str] | None = None,
        keep: bool = False,
    ) -> Child:
        """Start a worker; ``options`` are passed to :mod:`headrace_testing.faults.pass_through`.

        With ``keep``, a worker that exits is started again while the lab waits for outputs.
        """
        argv = [
            sys.executable, "-m", "headrace_testing.faults.pass_through", "--source", self.source, "--target",
            self.target, "--dead", self.dead, "--group", self.group, *options,
        ]  # fmt: skip
        settings = {
            "HEADRACE_KAFKA_BOOTSTRAP": bootstrap or self.cluster.bootstrap,
            "HEADRACE_WORKER_SLOT": slot,
            "HEADRACE_WORKER_BATCH_RECORDS": str(batch),
            "HEADRACE_WORKER_SESSION_TIMEOUT_MS": str(SESSION_MS),
            "HEADRACE_WORKER_TRANSACTION_TIMEOUT_MS": str(TRANSACTION_MS),
            "HEADRACE_WORKER_BACKOFF_MAX_S": "2",
            "HEADRACE_WORKER_CALL_BOUND_S": "20",
            "HEADRACE_FAILPOINTS": failpoints,
        }
        log = self.logs / f"worker-{slot}-{next(self._starts)}.log"
        worker = spawn(f"worker {slot}", argv, log, {**settings, **(env or {})})
        self.workers.append(worker)
        if keep:
            again = partial(self.start, slot, *options, bootstrap=bootstrap, batch=batch, env=env, keep=True)
            self._kept[slot] = worker, again
        return worker

    def fill(self, records: int, seconds: float = 0.0, *, poison: Sequence[int] = ()) -> None:
        """Write this number of records evenly over ``seconds``; those with a number in ``poison`` are invalid."""
        producer = Producer(
            {
                **QUIET, "bootstrap.servers": self.cluster.bootstrap, "partitioner": "murmur2_random",
                "enable.idempotence": True, "linger.ms": 5, "delivery.timeout.ms": 300_000,
            }
        )  # fmt: skip
        failed: list[KafkaError] = []
        started, first = time.monotonic(), len(self.sent)
        for number in range(first, first + records):
            entry = Entry(f"t/{number % self.keys}".encode(), number)
            value = (POISON if number in poison else b"") + str(number).encode()
            producer.produce(self.source, value, entry.key, on_delivery=_note_failure(failed))
            self.sent.append(entry)
            if number in poison:
                self.poison.append(entry)
            ahead = started + seconds * (number - first) / records - time.monotonic()
            producer.poll(max(0.0, ahead) if ahead > 0.01 else 0)
        assert producer.flush(300) == 0, "not every record was written"
        assert not failed, f"the feeder's own records failed: {failed[:3]}"

    def feed(self, records: int, seconds: float, *, poison: Sequence[int] = ()) -> threading.Thread:
        """Run :meth:`fill` in a thread; join it before :meth:`wait_done`."""
        thread = threading.Thread(target=self.fill, args=(records, seconds), kwargs={"poison": poison}, name="feeder")
        thread.start()
        return thread

    def wait_seen(self, number: int, timeout: float) -> None:
        """Wait for this number of outputs; raises :class:`AssertionError` with the workers' logs."""
        deadline = time.monotonic() + timeout
        while len(self.reader.seen) < number:
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"{len(self.reader.seen)} of {number} outputs after {timeout:.0f} s; {self._lacking()}\n"
                    f"{self._show()}"
                )
            for worker, again in list(self._kept.values()):
                if not worker.alive():
                    self.revived += 1
                    again()
            time.sleep(0.05)

    def wait_done(self, timeout: float = 90.0) -> None:
        """Wait until there are as many outputs as records were sent."""
        self.wait_seen(len(self.sent), timeout)

    def finish(self) -> None:
        """Drain the running workers, so that no more outputs follow."""
        alive = [worker for worker in self.workers if worker.alive()]
        for worker in alive:
            worker.go_on()
            worker.process.terminate()
        for worker in alive:
            worker.wait(60)

    def problems(self, healed_at: float | None = None, bound: float = 30.0) -> list[str]:
        """Return the problems of L, O and C, by both readers; with ``healed_at``, also those of V.

        The concurrent reader and a later one are checked. The input is the content of the source topic, because the
        faults also affect the feeder, and its duplicates are not the workers' fault.
        """
        self.finish()
        bad = set(self.poison)
        source = [placed.entry for placed in self._all(self.source)]
        self.doubled = len(source) - len(set(source))
        good = [entry for entry in source if entry not in bad]
        found = self._all(self.target)
        dead = self._all(self.dead)
        live = [seen.entry for seen in list(self.reader.seen) if seen.topic == self.target]
        problems = [f"{entry} was acknowledged, and is not in the source" for entry in set(self.sent) - set(source)]
        problems += [f"L {line}" for line in ledger(good, [placed.entry for placed in found])]
        problems += [f"L, read beside: {line}" for line in ledger(good, live)]
        problems += [f"O {line}" for line in self._offsets({placed.entry for placed in (*found, *dead)})]
        entries = [placed.entry for placed in found], [placed.entry for placed in dead]
        problems += [f"C {line}" for line in conservation(source, written=entries[0], dead=entries[1])]
        if healed_at is not None:
            problems += [f"V {line}" for line in progress([seen.at for seen in self.reader.seen], healed_at, bound)]
        return problems

    def close(self) -> None:
        """Kill running workers and delete the topics."""
        for worker in self.workers:
            if worker.alive():
                worker.kill()
        self.reader.close()
        self.cluster.delete_topics([self.source, self.target, self.dead])

    def _lacking(self) -> str:
        """Return where the missing outputs are: unsent, unread, or behind an open transaction."""
        source, found = (self._all(topic) for topic in (self.source, self.target))
        found_ends = ends(self.cluster.bootstrap, [self.target], self.partitions)
        behind = {str(place): tuple(end) for place, end in found_ends.items() if end.stable != end.high}
        lacking = sorted({placed.entry for placed in source} - {placed.entry for placed in found})
        return (
            f"{len(source)} records in the source, {len(found)} in the target, lacking {lacking[:20]}; "
            f"partitions with an open transaction (last stable offset, high watermark): {behind}; "
            f"committed: {self._committed()}"
        )

    def _show(self) -> str:
        """Return the ends of the newest workers' logs, with the stack of each thread of running ones."""
        alive = [worker for worker in self.workers if worker.alive()]
        for worker in alive:
            worker.process.send_signal(signal.SIGUSR1)
        if alive:
            time.sleep(1)
        return "\n".join(f"{w.name} (exit {w.process.poll()}):\n{w.tail(40)}" for w in self.workers[-4:])

    def _all(self, topic: str) -> list[Placed]:
        return _entries(read_all(self.cluster.bootstrap, topic))

    def _committed(self) -> dict[TopicPartition, int]:
        settings = {**QUIET, "bootstrap.servers": self.cluster.bootstrap, "group.id": self.group}
        consumer = Consumer({**settings, "isolation.level": "read_committed"})
        places = [KafkaPartition(self.source, number) for number in range(self.partitions)]
        committed = {
            TopicPartition(found.topic, found.partition): found.offset for found in consumer.committed(places, 60)
        }
        consumer.close()
        return committed

    def _offsets(self, done: set[Entry]) -> list[str]:
        source, committed = self._all(self.source), self._committed()
        return offsets(source, done, committed, ends(self.cluster.bootstrap, [self.target, self.dead], self.partitions))


class Reader:
    """Reads the committed records of topics from the beginning, in a thread, and stores when each arrived."""

    def __init__(self, bootstrap: str, topics: Sequence[str], partitions: int) -> None:
        self.seen: list[Seen] = []
        self._partitions = partitions
        self._bootstrap = bootstrap
        self._topics = topics
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        consumer = reader(self._bootstrap)
        consumer.assign([place for topic in self._topics for place in beginnings(topic, range(self._partitions))])
        while not self._closed.is_set():
            for message in consumer.consume(500, 0.1):
                if message.error() is None:
                    record = record_of(message)
                    self.seen.append(Seen(time.monotonic(), record.topic, _entry(record)))
        consumer.close()


def ends(bootstrap: str, topics: Sequence[str], partitions: int) -> dict[TopicPartition, Ends]:
    """Return the last stable offset and the end of every partition."""
    places = [TopicPartition(topic, number) for topic in topics for number in range(partitions)]
    log = log_of(bootstrap)
    stable, high = log.ends(places), log.high_watermarks(places)
    return {place: Ends(stable[place], high[place]) for place in places}


def _entry(record: Record) -> Entry:
    return Entry(record.key or b"", int((record.value or b"-1").removeprefix(POISON)))


def _entries(records: Sequence[Record]) -> list[Placed]:
    return [Placed(record.place, record.offset, _entry(record)) for record in records]


def _note_failure(failed: list[KafkaError]) -> Any:
    def delivered(error: KafkaError | None, _message: object) -> None:
        if error is not None:
            failed.append(error)

    return delivered


def tuned(**consumer: Any) -> tuple[str, str]:
    """Return the options that override a worker's consumer settings; dots are written as double underscores."""
    return "--consumer", json.dumps({name.replace("__", "."): value for name, value in consumer.items()})


def connection(cluster: Cluster) -> KafkaSettings:
    """Return the settings for a client of the cluster."""
    return KafkaSettings(bootstrap=cluster.bootstrap)
