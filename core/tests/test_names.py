"""Names of a generation's own lanes: what is shared, what is not, and that no name is taken for another's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.config.settings import KafkaSettings
from headrace.topology import generation_names, topics
from headrace.topology.stages import STAGES, next_stage
from headrace.topology.topics import dead_letter_topic, held_topic, replay_topic, retry_topic

pytestmark = pytest.mark.unit

GENERATIONS = st.from_regex(r"[a-z][a-z0-9_]{0,30}", fullmatch=True)
LOGICAL = st.sampled_from([topic.name for topic in topics.concrete()])


def test_what_is_a_generation_s_own_is_what_its_stages_read_again_and_write() -> None:
    """Broken: two generations share a lane and each does the other's work, or wait for topics that nobody fills."""
    own = {flow.name for flow in STAGES.values() if generation_names.is_own(flow.target)}
    assert own == generation_names.GENERATION_STAGES
    assert {flow.target for flow in STAGES.values() if flow.name in own} == generation_names.GENERATION_TOPICS
    for flow in STAGES.values():
        for lane in (retry_topic, replay_topic, held_topic, dead_letter_topic):
            assert generation_names.is_own(lane(flow.name)) == (flow.name in own)
        following = next_stage(flow)
        assert following is None or generation_names.is_own(flow.target) == (flow.name in own)


@given(LOGICAL, GENERATIONS, GENERATIONS)
def test_a_name_comes_back_in_its_own_generation_alone(name: str, own: str, other: str) -> None:
    """Broken: one generation's record is taken for another's, or not found by the name that made it."""
    mine = KafkaSettings(topic_prefix="p-", generation=own)
    theirs = KafkaSettings(topic_prefix="p-", generation=other)
    assert mine.bare(mine.topic(name)) == name
    if generation_names.is_own(name) and own != other:
        assert mine.topic(name) != theirs.topic(name)
        assert theirs.bare(mine.topic(name)) not in {topic.name for topic in topics.concrete()}
    else:
        assert mine.topic(name) == theirs.topic(name)


@given(st.sampled_from(sorted(STAGES)), GENERATIONS, GENERATIONS)
def test_an_id_is_read_by_those_whose_lane_it_lies_in(stage: str, own: str, other: str) -> None:
    """Broken: a redrive in one generation hides another's dead letter of the same number, or one is sent twice."""
    written = generation_names.id_in_generation(f"{stage}/3/17", own)
    assert generation_names.own_id(written.encode(), own) == f"{stage}/3/17"
    shared = stage not in generation_names.GENERATION_STAGES or own == other
    assert generation_names.own_id(written.encode(), other) == (f"{stage}/3/17" if shared else None)


def test_groups_are_a_generation_s_own_where_its_stages_are() -> None:
    """Broken: the second embedder joins the group of the first and takes half of its partitions."""
    first, second = KafkaSettings(topic_prefix="p-"), KafkaSettings(topic_prefix="p-", generation="g2")
    assert first.group("embedder") == "p-headrace-embedder.g1"
    assert second.group("embedder", side=True) == "p-headrace-embedder.g2-side"
    assert first.group("chunker") == second.group("chunker") == "p-headrace-chunker"
