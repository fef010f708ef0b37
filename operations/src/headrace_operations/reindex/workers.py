"""The consumer groups of a generation: who works in them, where they begin, and their end."""

from __future__ import annotations

from collections.abc import Sequence

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaPlace
from confluent_kafka.admin import AdminClient

from headrace.config.settings import KafkaSettings
from headrace.errors import DependencyDown
from headrace.kafka.offsets import LogOffsets
from headrace.topology import topics
from headrace.topology.generation_names import GENERATION_STAGES, is_own
from headrace.topology.stages import EMBEDDER

_CALL_S = 30.0
_GONE = (KafkaError.GROUP_ID_NOT_FOUND, KafkaError.UNKNOWN_TOPIC_OR_PART)


class Groups:
    """The groups of one generation; every method raises :class:`DependencyDown` if Kafka does not answer."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._admin = AdminClient({**kafka.client(), "log_level": 2})

    def members(self) -> dict[str, int]:
        """Return the number of workers in the live lane of each of the generation's stages."""
        names = {self._kafka.group(stage): stage for stage in sorted(GENERATION_STAGES)}
        found = dict.fromkeys(names.values(), 0)
        for name, future in self._admin.describe_consumer_groups(list(names), request_timeout=_CALL_S).items():
            try:
                found[names[name]] = len(future.result().members)
            except KafkaException as error:
                if error.args[0].code() not in _GONE:
                    raise self._down(error) from error
        return found

    def begin_at_end(self) -> bool:
        """Let the embedder's live lane begin at the end of its topic, unless it has begun; return whether it does.

        A replay fills the generation from the records before the end, in the side lane, so that live records need not
        wait for it. A lane with workers begins at the beginning, which is slower for live records, but complete.
        """
        group, topic = self._kafka.group(EMBEDDER.name), self._kafka.topic(EMBEDDER.source)
        offsets = LogOffsets(self._kafka)
        ends = offsets.high_watermarks(offsets.partitions([EMBEDDER.source], needed=True))
        try:
            asked = self._admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])
            committed = asked[group].result(_CALL_S).topic_partitions
            if any(place.topic == topic and place.offset >= 0 for place in committed):
                return False
            if self.members()[EMBEDDER.name]:
                return False
            wanted = [KafkaPlace(topic, place.partition, end) for place, end in ends.items()]
            altered = self._admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, wanted)])
            failed = [one.error for one in altered[group].result(_CALL_S).topic_partitions if one.error is not None]
            if failed:
                raise KafkaException(failed[0])
        except KafkaException as error:
            raise self._down(error) from error
        return True

    def delete(self) -> tuple[Sequence[str], Sequence[str]]:
        """Delete the generation's topics and groups with their offsets and marks; return the names of both.

        What does not exist any more is left out. The groups must have no members.
        """
        known = self._admin.list_topics(timeout=_CALL_S).topics
        names = [self._kafka.topic(topic.name) for topic in topics.concrete() if is_own(topic.name)]
        wanted = [name for name in names if name in known]
        groups = [self._kafka.group(stage, side=side) for stage in sorted(GENERATION_STAGES) for side in (False, True)]
        deleted = [name for name in groups if self._done(self._admin.delete_consumer_groups([name])[name])]
        for name, future in (self._admin.delete_topics(wanted, operation_timeout=_CALL_S) if wanted else {}).items():
            if not self._done(future):
                wanted.remove(name)
        return wanted, deleted

    def _done(self, future: object) -> bool:
        """Wait for a deletion; return False if there was nothing to delete."""
        try:
            future.result(_CALL_S)  # type: ignore[attr-defined]  # concurrent.futures, which the library does not type
        except KafkaException as error:
            if error.args[0].code() in _GONE:
                return False
            raise self._down(error) from error
        return True

    def _down(self, error: KafkaException) -> DependencyDown:
        return DependencyDown("kafka", f"the groups of generation {self._kafka.generation}: {error.args[0].str()}")
