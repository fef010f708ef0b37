"""Dead-letters invalid records on the topic ``control``, each exactly once; its followers skip them (ADR 9).

Every worker follows the topic. If each of them wrote a dead letter, there would be one for every worker, again at each
start. One consumer group, ``headrace-control``, does it instead. Its members are the workers of ingest: ingest runs
wherever the flow runs, because nothing enters without it. The topic has one partition, so one member reads it, and
another takes over when that one ends. Dead letter and offset are one Kafka transaction, as in a stage.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from headrace.codec.codec import Codec
from headrace.errors import ConfigurationError, DeadlyRecord, DependencyDown, HeadraceError, UndecodableRecord
from headrace.kafka import headers
from headrace.kafka.broker import KafkaBroker
from headrace.kafka.broker_contract import Message, Record
from headrace.kafka.headers import Origin
from headrace.orders.control import TOPIC, check
from headrace.payloads import Control
from headrace.runtime.contract import Lane
from headrace.runtime.deadletters import Failure, dead_letter
from headrace.runtime.loop.batch import Batch, BatchResult
from headrace.runtime.loop.limits import Limits
from headrace.runtime.watchdog import Watchdog
from headrace.runtime.worker import Worker
from headrace.stage_process.main import Parts
from headrace.topology.topics import dead_letter_topic

log = structlog.get_logger(__name__)

REMEDY = (
    "The record had no effect. Find out what wrote it: another release of Headrace, or another tool. "
    "Issue the order again (`headrace pause`, `headrace resume`, `headrace replay`), then discard this dead letter."
)
_AGAIN_S = 30.0
_CLOSE_S = 2.0
"""Time for the check to end after the stage has drained. It repeats unfinished work at the next start."""


@dataclass(frozen=True, slots=True)
class OrderCheck:
    """Creates a dead letter for each record that is not a valid order. Valid orders need no action.

    ``dead_letters`` is the topic with its prefix, ``worker`` the worker's name in the dead letters.
    """

    codec: Codec
    dead_letters: str
    worker: str
    max_message_bytes: int
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    async def process(self, batch: Batch) -> BatchResult:
        """Return the batch's dead letters; raises :class:`DependencyDown` if the registry does not answer."""
        found = [(record, self._failure(record, deadly=batch.deadly)) for record in batch.records]
        letters = [self._letter(record, failure) for record, failure in found if failure is not None]
        return BatchResult(letters, dead_letters=len(letters))

    def _failure(self, record: Record, *, deadly: bool) -> Failure | None:
        if deadly:
            return Failure(DeadlyRecord(remedy=REMEDY))
        if (why := headers.unreadable(record)) is not None:
            return Failure(UndecodableRecord(f"Kafka's client cannot read the record: {why}", remedy=REMEDY))
        try:
            check(self.codec.decode_plain(record.value, Control))
        except (DependencyDown, ConfigurationError):
            raise
        except HeadraceError as error:
            error.remedy = REMEDY
            return Failure(error)
        except Exception as error:  # noqa: BLE001  # the dead letter keeps it with its stack trace
            return Failure(error)
        return None

    def _letter(self, record: Record, failure: Failure) -> Message:
        log.warning("invalid order dead-lettered", offset=record.offset, error=str(failure.error))
        return dead_letter(
            record, failure, stage=TOPIC, topic=self.dead_letters, worker=self.worker,
            first=Origin(record.topic, record.partition, record.offset), attempt=1, now=self.now(), codec=self.codec,
            max_message_bytes=self.max_message_bytes,
        )  # fmt: skip


class OrderGuard:
    """Checks the topic in a separate thread. After any error, it logs the reason and restarts; the stage continues."""

    def __init__(self, make: Callable[[], Worker], *, again_s: float = _AGAIN_S) -> None:
        self._make = make
        self._again_s = again_s
        self._closed = threading.Event()
        self._worker: Worker | None = None
        self._thread = threading.Thread(target=self.run, name="control-guard", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self, timeout: float) -> None:
        """Stop the thread and wait up to ``timeout`` seconds for its end."""
        self._closed.set()
        if self._worker is not None:
            self._worker.stop()
        self._thread.join(timeout)

    def run(self) -> None:
        """Check until closed."""
        while not self._closed.is_set():
            try:
                self._worker = self._make()
                if self._closed.is_set():
                    self._worker.stop()
                self._worker.run()
                reason = self._worker.state.exit.reason if self._worker.state.exit else ""
            except Exception as error:  # an error in this check must not stop the stage
                log.exception("checking orders failed")
                reason = str(error)
            if not self._closed.is_set():
                log.error("checking orders stopped; it will restart", reason=reason, again_in_s=self._again_s)
                self._closed.wait(self._again_s)


@contextmanager
def guarding(parts: Parts) -> Iterator[None]:
    """Check orders during the block."""
    kafka, settings = parts.kafka, parts.settings
    watchdog = Watchdog(settings.call_bound_s)
    checks = OrderCheck(parts.codec, kafka.topic(dead_letter_topic(TOPIC)), parts.worker, kafka.max_message_bytes)

    def make() -> Worker:
        group = f"{kafka.topic_prefix}headrace-{TOPIC}"
        broker = KafkaBroker(kafka, settings, group=group, transactional_id=f"{group}-{settings.slot}")
        limits = Limits(
            backoff_s=settings.backoff_s, backoff_max_s=settings.backoff_max_s, deaths_alone=settings.deaths
        )
        lane = Lane(TOPIC, [kafka.topic(TOPIC)], limits)
        return Worker(lane, broker, parts.compute.computer(checks.process), watch=watchdog.watch)

    guard = OrderGuard(make)
    watchdog.start()
    guard.start()
    try:
        yield
    finally:
        guard.close(_CLOSE_S)
        watchdog.close()
