"""The topics as declared: complete, in the order of the flow, and as Kafka takes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.codec import schemas
from headrace.errors import ConfigurationError
from headrace.topology.stages import STAGES
from headrace.topology.topics import _read, concrete, dead_letter_topic, declared, held_topic, replay_topic, retry_topic

pytestmark = pytest.mark.unit

TEMPLATE = """
topic: {topic}
description: A topic.
key: tenant/document_id
partitions: {partitions}
cleanup_policy: delete
retention: {retention}
producers: [a]
consumers: [b]
schema: headrace.Change
"""


def test_every_stage_s_topics_are_declared() -> None:
    """Broken: a service waits for a topic that bootstrap never makes."""
    names = {topic.name for topic in declared()}
    for flow in STAGES.values():
        assert {flow.source, flow.target} <= names
    existing = {topic.name for topic in concrete()}
    of_stage = (dead_letter_topic, retry_topic, replay_topic, held_topic)
    assert {name(stage) for stage in STAGES for name in of_stage} <= existing
    assert not [name for name in existing if "{" in name]


def test_every_topic_has_a_schema_producers_and_consumers() -> None:
    """Broken: the documentation and the diagram have holes."""
    for topic in declared():
        assert topic.schema is None or topic.schema in schemas.names(), topic.name
        assert topic.producers, topic.name
        assert topic.description, topic.name
        assert topic.partitions >= 1


def test_what_the_index_is_rebuilt_from_is_compacted_and_kept() -> None:
    """Broken: a new model cannot read all documents any more."""
    by_name = {topic.name: topic for topic in declared()}
    for name in ("documents", "chunks"):
        assert by_name[name].cleanup_policy == "compact"
        assert by_name[name].config(1)["retention.ms"] == "-1"
    assert by_name["changes"].config(1)["retention.ms"] == str(30 * 24 * 3600 * 1000)


def test_what_carries_a_whole_record_has_room_for_the_largest() -> None:
    """Broken: a record of the largest size cannot be dead-lettered or retried, and stops its stage."""
    for topic in concrete():
        limit = int(topic.config(1000)["max.message.bytes"])
        carries = topic.name.startswith(("dead-letters.", "retry.", "replay.", "held."))
        assert limit > 1000 if carries else limit == 1000


@pytest.mark.parametrize(("retention", "expected"), [("5m", 300_000), ("2h", 7_200_000), ("unlimited", -1)])
def test_retention_is_read_with_its_unit(tmp_path: Path, retention: str, expected: int) -> None:
    """Broken: records go earlier than declared."""
    path = tmp_path / "t.yaml"
    path.write_text(TEMPLATE.format(topic="t", partitions=3, retention=retention))
    assert _read(path).retention_ms == expected


@pytest.mark.parametrize(("partitions", "retention"), [("many", "5m"), ("3", "5w"), ("3", "-1d")])
def test_a_bad_topic_file_is_named(tmp_path: Path, partitions: str, retention: str) -> None:
    """Broken: bootstrap fails without saying which file."""
    path = tmp_path / "t.yaml"
    path.write_text(TEMPLATE.format(topic="t", partitions=partitions, retention=retention))
    with pytest.raises(ConfigurationError, match=r"t\.yaml"):
        _read(path)
    path.write_text("topic: t")
    with pytest.raises(ConfigurationError, match="description"):
        _read(path)
