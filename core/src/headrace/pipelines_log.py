"""Which pipelines exist: the compacted topic ``pipelines``, followed by every service, appended to by ``apply``.

A version never changes once it is there, so what is in flight keeps its version while a new one is applied.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from headrace.avro.codec import Codec
from headrace.errors import ConfigurationError, DependencyDown, HeadraceError, UnknownPipeline
from headrace.pipeline import Pipeline, Template, canonical, digest, parse
from headrace.records import PipelineVersion
from headrace.settings import KafkaSettings

log = structlog.get_logger(__name__)

TOPIC = "pipelines"
DEFAULT_PIPELINE = "default"
LatestPipeline = Callable[[str], tuple[str, int]]
"""Returns a pipeline's id and newest version; raises :class:`UnknownPipeline` and :class:`DependencyDown`."""
_CALL_S = 10.0
_RETRY_S = 1.0


class PipelineCatalogue:
    """Every pipeline version seen so far, kept current by whoever calls :meth:`add`; safe across threads."""

    def __init__(self) -> None:
        self._versions: dict[str, dict[int, PipelineVersion]] = {}
        self._parsed: dict[tuple[str, int], Pipeline] = {}

    def add(self, version: PipelineVersion) -> None:
        """Take a version in."""
        self._versions.setdefault(version.pipeline_id, {})[version.version] = version

    def all(self) -> list[PipelineVersion]:
        """Every version, by pipeline and number."""
        return [
            self._versions[name][number] for name in sorted(self._versions) for number in sorted(self._versions[name])
        ]

    def newest(self, pipeline_id: str) -> PipelineVersion | None:
        """Return the newest version, or None where the pipeline was never applied."""
        versions = self._versions.get(pipeline_id)
        return versions[max(versions)] if versions else None

    def latest(self, pipeline_id: str) -> tuple[str, int]:
        """Return the pipeline and its newest version number; raises :class:`UnknownPipeline`."""
        newest = self.newest(pipeline_id)
        if newest is None:
            raise UnknownPipeline(f"pipeline {pipeline_id!r} was never applied", where="pipeline")
        return pipeline_id, newest.version

    def get(self, pipeline_id: str, version: int) -> Pipeline | None:
        """Return that version, or None where it has not been seen."""
        key = (pipeline_id, version)
        if key not in self._parsed:
            found = self._versions.get(pipeline_id, {}).get(version)
            if found is None:
                return None
            self._parsed[key] = Pipeline(parse(found.template, f"{pipeline_id} version {version}"), version)
        return self._parsed[key]


class PipelineFollower:
    """Reads the topic from its beginning and goes on reading, in a thread of its own."""

    def __init__(self, kafka: KafkaSettings, codec: Codec, catalogue: PipelineCatalogue) -> None:
        self._codec = codec
        self._catalogue = catalogue
        self._partition = TopicPartition(kafka.topic(TOPIC), 0, OFFSET_BEGINNING)
        self._consumer = Consumer(
            {
                **kafka.client(),
                "group.id": f"{kafka.topic_prefix}headrace-pipelines-{uuid4()}",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 100,
            }
        )
        self._admin = AdminClient(kafka.client())
        self._closed = threading.Event()
        self._at_end = threading.Event()
        self._read_to = 0
        self._failure: HeadraceError | None = None
        """Why the thread waits with a record in hand; None while it reads on."""
        self._thread = threading.Thread(target=self._run, name="pipelines", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._consumer.assign([self._partition])
        self._thread.start()

    def wait_until_read(self, timeout: float = 30.0) -> None:
        """Wait until everything that the topic holds now was read; raises :class:`DependencyDown`."""
        if not self._at_end.wait(timeout):
            raise self._unread(f"was not read within {timeout} s")

    def refresh(self) -> None:
        """Read on to what is the topic's end now; raises :class:`DependencyDown`.

        The end is asked of another client: a question to the consumer would wait behind the poll of its thread.
        """
        place = TopicPartition(self._partition.topic, 0)
        try:
            latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
            futures = self._admin.list_offsets({place: latest}, request_timeout=_CALL_S)
            high = futures[place].result(_CALL_S).offset
        except (KafkaException, TimeoutError) as error:
            raise DependencyDown("kafka", f"the end of the pipelines topic is not known: {error}") from error
        deadline = time.monotonic() + _CALL_S
        while self._read_to < high:
            if time.monotonic() > deadline or self._failure:
                raise self._unread("is not read to its end")
            time.sleep(0.01)

    def latest(self, pipeline_id: str) -> tuple[str, int]:
        """Return the pipeline and its newest version; one that is not known yet is looked for up to the topic's end.

        Raises :class:`UnknownPipeline`, and :class:`DependencyDown` where that end cannot be read.
        """
        if self._catalogue.newest(pipeline_id) is None:
            self.refresh()
        return self._catalogue.latest(pipeline_id)

    def close(self) -> None:
        """Stop reading."""
        self._closed.set()
        self._thread.join()
        self._consumer.close()

    def _unread(self, what: str) -> DependencyDown:
        """Return the error of a topic that was not read, which names the other system where that is to blame."""
        topic, failure = self._partition.topic, self._failure
        if failure is None:
            return DependencyDown("kafka", f"the topic {topic!r} {what}")
        return DependencyDown(
            "schema registry", f"the topic {topic!r} {what}: {failure.message}", remedy=failure.remedy
        )

    def _run(self) -> None:
        while not self._closed.is_set():
            message = self._consumer.poll(0.2)
            if message is None:
                continue
            error = message.error()
            if error is None:
                self._take(message.value(), message.offset() or 0)
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                # Its offset is the log's end; a transaction's marker, which is no record, lies before it.
                self._read_to = message.offset() or 0
                self._at_end.set()
            else:
                log.warning("pipelines topic cannot be read", error=error.str())

    def _take(self, value: bytes | None, offset: int) -> None:
        while not self._closed.is_set():
            try:
                version = self._codec.decode_plain(value, PipelineVersion)
            except (DependencyDown, ConfigurationError) as error:
                # A registry that is down or refuses us: to skip the record would make its pipeline unknown.
                self._failure = error
                log.warning("pipelines topic waits", error=str(error))
                self._closed.wait(_RETRY_S)
                continue
            except Exception as error:  # one bad record must not hide the others
                log.exception("record of the pipelines topic skipped", offset=offset, error=str(error))
                self._failure = None
                return
            self._failure = None
            self._catalogue.add(version)
            log.info("pipeline known", pipeline=version.pipeline_id, version=version.version)
            return


@dataclass(frozen=True, slots=True)
class Applied:
    """What applying came to; ``changed`` is False where the newest version says the same already."""

    version: PipelineVersion
    changed: bool


def read_all(kafka: KafkaSettings, codec: Codec) -> PipelineCatalogue:
    """Return everything that the topic holds now; raises :class:`DependencyDown`."""
    catalogue = PipelineCatalogue()
    follower = PipelineFollower(kafka, codec, catalogue)
    follower.start()
    try:
        follower.wait_until_read()
    finally:
        follower.close()
    return catalogue


def apply(
    kafka: KafkaSettings,
    codec: Codec,
    template: Template,
    *,
    applied_by: str,
    dry_run: bool = False,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Applied:
    """Publish the template as its pipeline's next version, unless the newest says the same.

    One writer at a time: the transactional id fences a concurrent one, so that no number is given twice.
    Raises :class:`DependencyDown` where Kafka or the registry does not answer.
    """
    producer = Producer({**kafka.client(), "transactional.id": f"{kafka.topic_prefix}headrace-pipeline-apply"})
    try:
        if not dry_run:
            producer.init_transactions(_CALL_S)
        newest = read_all(kafka, codec).newest(template.id)
        if newest is not None and newest.digest == digest(template):
            return Applied(newest, False)
        number = newest.version + 1 if newest else 1
        version = PipelineVersion(template.id, number, canonical(template), digest(template), applied_by, now())
        if dry_run:
            return Applied(version, True)
        producer.begin_transaction()
        producer.produce(kafka.topic(TOPIC), codec.encode_plain(version), f"{template.id}/{number}", partition=0)
        producer.commit_transaction(_CALL_S)
    except KafkaException as error:
        raise DependencyDown("kafka", f"the pipeline was not applied: {error}") from error
    return Applied(version, True)
