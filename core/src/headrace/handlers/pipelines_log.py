"""The existing pipelines: the compacted topic ``pipelines``, written by ``apply`` and followed by every service.

A version never changes, so records on their way keep their version when a new one is applied.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from confluent_kafka import KafkaException, Producer

from headrace.codec.codec import Codec
from headrace.config.settings import KafkaSettings
from headrace.errors import DependencyDown, HeadraceError, InvalidRecord, UnknownPipeline
from headrace.kafka.follower import TopicFollower
from headrace.payloads import PipelineVersion
from headrace.pipeline import Pipeline, Template, canonical, digest, parse

log = structlog.get_logger(__name__)

TOPIC = "pipelines"
LatestPipeline = Callable[[str], tuple[str, int]]
"""Returns a pipeline's id and newest version; raises :class:`UnknownPipeline` and :class:`DependencyDown`."""
_CALL_S = 10.0


class PipelineCatalogue:
    """All pipeline versions seen so far, entered by :meth:`add`; safe across threads."""

    def __init__(self) -> None:
        self._versions: dict[str, dict[int, PipelineVersion]] = {}
        self._parsed: dict[tuple[str, int], Pipeline] = {}
        self._refused: dict[tuple[str, int], str] = {}

    def add(self, version: PipelineVersion) -> None:
        """Add a version."""
        self._versions.setdefault(version.pipeline_id, {})[version.version] = version

    def refuse(self, version: PipelineVersion, why: str) -> None:
        """Store why the version is not usable; the previous one stays the newest."""
        self._refused[version.pipeline_id, version.version] = why

    def why_missing(self, pipeline_id: str, version: int) -> str:
        """Return why the version is missing, for messages."""
        why = self._refused.get((pipeline_id, version))
        what = "was never applied" if why is None else f"does not work with this release: {why}"
        return f"pipeline {pipeline_id!r} version {version} {what}"

    def all(self) -> list[PipelineVersion]:
        """Every version, by pipeline and number."""
        return [
            self._versions[name][number] for name in sorted(self._versions) for number in sorted(self._versions[name])
        ]

    def newest(self, pipeline_id: str) -> PipelineVersion | None:
        """Return the newest version, or None if the pipeline was never applied."""
        versions = self._versions.get(pipeline_id)
        return versions[max(versions)] if versions else None

    def next_number(self, pipeline_id: str) -> int:
        """Return the number for the next version. No number is used twice, not even that of an unusable version."""
        refused = [number for name, number in self._refused if name == pipeline_id]
        return max([0, *self._versions.get(pipeline_id, {}), *refused]) + 1

    def latest(self, pipeline_id: str) -> tuple[str, int]:
        """Return the pipeline and its newest version number; raises :class:`UnknownPipeline`."""
        newest = self.newest(pipeline_id)
        if newest is None:
            raise UnknownPipeline(f"pipeline {pipeline_id!r} was never applied", where="pipeline")
        return pipeline_id, newest.version

    def get(self, pipeline_id: str, version: int) -> Pipeline | None:
        """Return that version, or None if it is unknown."""
        key = (pipeline_id, version)
        if key not in self._parsed:
            found = self._versions.get(pipeline_id, {}).get(version)
            if found is None:
                return None
            self._parsed[key] = Pipeline(parse(found.template, f"{pipeline_id} version {version}"), version)
        return self._parsed[key]


class PipelineFollower(TopicFollower[PipelineVersion]):
    """Follows the topic into a catalogue."""

    def __init__(self, kafka: KafkaSettings, codec: Codec, catalogue: PipelineCatalogue) -> None:
        super().__init__(kafka, codec, TOPIC, PipelineVersion, self._add)
        self.catalogue = catalogue

    def latest(self, pipeline_id: str) -> tuple[str, int]:
        """Return the pipeline and its newest version; for an unknown pipeline, first read the topic to its end.

        Raises :class:`UnknownPipeline`, and :class:`DependencyDown` if the topic cannot be read.
        """
        if self.catalogue.newest(pipeline_id) is None:
            self.refresh()
        return self.catalogue.latest(pipeline_id)

    def _add(self, version: PipelineVersion) -> None:
        """Add the version; raises the error of an invalid one, and then the previous version stays in force."""
        try:
            check(version)
        except HeadraceError as error:
            self.catalogue.refuse(version, str(error))
            raise
        self.catalogue.add(version)
        log.info("pipeline known", pipeline=version.pipeline_id, version=version.version)


def check(version: PipelineVersion) -> None:
    """Raise :class:`TemplateError` or :class:`InvalidRecord` for a version that no stage of this release can run."""
    template = parse(version.template, f"{version.pipeline_id} version {version.version}")
    if template.id != version.pipeline_id:
        raise InvalidRecord("template", f"has the ID {template.id!r}, not {version.pipeline_id!r}")
    if version.version < 1:
        raise InvalidRecord("version", f"is {version.version}; versions start at 1")


@dataclass(frozen=True, slots=True)
class Applied:
    """The result of applying; ``changed`` is False if the newest version is already the same."""

    version: PipelineVersion
    changed: bool


def read_all(kafka: KafkaSettings, codec: Codec) -> PipelineCatalogue:
    """Return all versions that are in the topic now; raises :class:`DependencyDown`."""
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
    """Publish the template as the next version, unless the newest is the same and no unusable version followed it.

    The transactional ID fences concurrent writers, so that no number is used twice.
    Raises :class:`DependencyDown` if Kafka or the registry does not answer.
    """
    producer = Producer({**kafka.client(), "transactional.id": f"{kafka.topic_prefix}headrace-pipeline-apply"})
    try:
        if not dry_run:
            producer.init_transactions(_CALL_S)
        known = read_all(kafka, codec)
        newest, number = known.newest(template.id), known.next_number(template.id)
        if newest is not None and newest.digest == digest(template) and number == newest.version + 1:
            return Applied(newest, False)
        version = PipelineVersion(template.id, number, canonical(template), digest(template), applied_by, now())
        if dry_run:
            return Applied(version, True)
        producer.begin_transaction()
        producer.produce(kafka.topic(TOPIC), codec.encode_plain(version), f"{template.id}/{number}", partition=0)
        producer.commit_transaction(_CALL_S)
    except KafkaException as error:
        raise DependencyDown("kafka", f"the pipeline was not applied: {error}") from error
    return Applied(version, True)
