"""The declared topics, and the lag of the stages that read them."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.config.settings import KafkaSettings
from headrace.kafka.lag import LagReader
from headrace.kafka.offsets import LogOffsets
from headrace.topology import topics as declared


@dataclass(frozen=True, slots=True)
class TopicView:
    """A topic; ``end`` sums the partitions' end offsets, ``behind`` is None if no stage reads the topic."""

    topic: str
    exists: bool
    partitions: int
    end: int
    read_by: str | None
    behind: int | None


def view(kafka: KafkaSettings) -> list[TopicView]:
    """Return every declared topic; raises :class:`headrace.errors.DependencyDown`."""
    offsets = LogOffsets(kafka)
    known = declared.concrete()
    partitions = offsets.partitions(topic.name for topic in known)
    existing = {place.topic for place in partitions}
    ends = offsets.ends(partitions)
    readers = {one.topic: one for one in LagReader(kafka).stages()}
    found = []
    for topic in known:
        of = readers.get(topic.name)
        end = sum(offset for place, offset in ends.items() if place.topic == topic.name)
        found.append(
            TopicView(
                topic.name, topic.name in existing, topic.partitions, end, of.stage if of else None,
                of.behind if of else None,
            )
        )  # fmt: skip
    return found
