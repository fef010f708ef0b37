"""Reindexing: which generation is built, what its phase is, how quality is judged, and what is advised. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from headrace.errors import ConfigurationError
from headrace.store.dense_index import DenseIndex, memory_mib, parameters, probes
from headrace.store.index_health import Health, Recall, TableHealth
from headrace.store.reindex import Life
from headrace.store.rows import Generation
from headrace_operations.errors import Refused
from headrace_operations.index.advise import advise
from headrace_operations.reindex.progress import Filling, phase_of
from headrace_operations.reindex.quality import Quality, measured
from headrace_operations.reindex.questions import Asked, read_questions
from headrace_operations.reindex.target import Wanted, following, target
from headrace_operations.reindex.verify import losses

pytestmark = pytest.mark.unit

ACTIVE = Generation("g1", "all-MiniLM-L6-v2", 384, state="active", template="{title} {body}", storage="halfvec")
BUILDING = replace(ACTIVE, name="g2", state="building", model="multilingual-e5-small", passage_prompt="passage: ")


def test_a_new_generation_is_the_active_one_with_what_changes() -> None:
    """Broken: a change of the model silently drops the template, or keeps the old model's prompt."""
    found = target([ACTIVE], ["g1"], None, Wanted("multilingual-e5-base")).generation
    assert (found.name, found.dimensions, found.passage_prompt) == ("g2", 768, "passage: ")
    assert (found.template, found.storage, found.state) == ("{title} {body}", "halfvec", "building")
    again = replace(BUILDING, state="active")
    assert target([again], ["g1", "g2"], None, Wanted("all-MiniLM-L6-v2")).generation.passage_prompt == ""
    assert target([again], ["g1", "g2"], None, Wanted(analyzer="words-1/none")).generation.model == again.model
    with pytest.raises(ConfigurationError, match="dimensions of the model mine are unknown"):
        target([ACTIVE], ["g1"], None, Wanted("mine"))
    assert target([ACTIVE], ["g1"], None, Wanted("mine", 3)).generation.passage_prompt == ""


def test_a_reindex_goes_on_with_the_generation_that_is_being_built() -> None:
    """Broken: a command that is run again after a crash begins another generation."""
    known = [ACTIVE, BUILDING]
    assert target(known, ["g1", "g2"], None, Wanted()).generation == BUILDING
    assert target(known, ["g1", "g2"], None, Wanted(BUILDING.model)).exists
    assert not target(known, ["g1", "g2"], "g7", Wanted(BUILDING.model)).exists


@pytest.mark.parametrize(
    ("known", "name", "wanted", "says"),
    [
        ([ACTIVE], None, Wanted(), "would equal the active one, g1"),
        ([replace(ACTIVE, state="retired")], None, Wanted("m", 3), "no active generation"),
        ([ACTIVE, BUILDING], None, Wanted("all-MiniLM-L6-v2"), "g2 is being built with other properties"),
        ([ACTIVE, BUILDING], "g1", Wanted(), "g1 is active, not being built"),
        (
            [ACTIVE, BUILDING, replace(BUILDING, name="g3")],
            None,
            Wanted(),
            "several generations are being built: g2, g3",
        ),
        ([ACTIVE, replace(BUILDING, state="dropping")], "g2", Wanted(), "g2 is dropping"),
    ],
)
def test_what_cannot_be_built_is_refused(known: list[Generation], name: str | None, wanted: Wanted, says: str) -> None:
    """Broken: a reindex changes a generation that is searched or that others are building."""
    with pytest.raises(Refused, match=says):
        target(known, [one.name for one in known], name, wanted)


def test_a_name_is_never_used_twice() -> None:
    """Broken: actions on dead letters of a dropped generation apply to the records of a new one."""
    assert following(["g1", "g2", "blue"]) == "g3"
    assert following([]) == "g1"
    assert target([ACTIVE], ["g1", "g2"], None, Wanted("m", 3)).generation.name == "g3"


def filling(state: str) -> Filling:
    """A replay in a state."""
    return Filling("r1", state, 5, 50, 1.0, None, 5.0)


def test_the_phase_says_what_is_missing() -> None:
    """Broken: an operator switches search to a generation that is still being filled."""
    now = datetime.now(UTC)
    life = Life("g2", "building", None, now, now, 1.0)
    index = DenseIndex("vector_g2_nearest", "hnsw", valid=True, bytes=1)
    some, none = {"embedder": 1, "indexer": 1}, {"embedder": 1, "indexer": 0}
    assert phase_of(BUILDING, life, None, None, some) == "created"
    assert phase_of(BUILDING, life, filling("RUNNING"), None, some) == "filling"
    assert phase_of(BUILDING, life, filling("SENT"), index, none) == "waiting for its embedder and indexer"
    assert phase_of(BUILDING, life, filling("DONE"), None, some) == "waiting for its index"
    assert phase_of(BUILDING, life, filling("DONE"), replace(index, valid=False), some) == "waiting for its index"
    assert phase_of(BUILDING, life, filling("DONE"), index, some) == "ready to verify and switch"
    assert phase_of(BUILDING, life, filling("CANCELLED"), None, some) == "cancelled"
    assert phase_of(ACTIVE, life, None, None, some) == "active"


def test_quality_is_computed_from_the_places_of_the_right_documents() -> None:
    """Broken: a worse model passes, or a better one is refused."""
    assert measured([1, 3, 11, None], [5.0, 1.0, 9.0]) == Quality(0.375, 0.5, 0.3333, 5.0)
    assert measured([], []) == Quality(0.0, 0.0, 0.0, 0.0)
    good, bad = Quality(0.9, 1.0, 0.9, 1.0), Quality(0.87, 0.99, 0.9, 1.0)
    assert losses(good, bad, 0.02) == ["nDCG@10 is 0.8700, 0.0300 less than 0.9000; allowed: 0.02"]
    assert len(losses(good, bad, 0.0)) == 2
    assert losses(good, bad, 0.05) == losses(bad, good, 0.0) == losses(None, None, 0.0) == []


def test_questions_are_read_from_lines_of_json(tmp_path: Path) -> None:
    """Broken: a wrong line is skipped in silence, and the quality is that of other questions."""
    file = tmp_path / "questions.jsonl"
    file.write_text(
        '{"question": "수로란?", "document": "a.md"}\n\n{"question": "q", "document": "b", "tenant": "t"}\n'
    )
    assert read_questions(file, "acme") == [Asked("acme", "수로란?", "a.md"), Asked("t", "q", "b")]
    with pytest.raises(ConfigurationError, match="must be texts") as refused:
        read_questions(file, None)
    assert refused.value.where == f"{file}:1"
    for line in (
        "nothing",
        "[]",
        '{"question": "q"}',
        '{"question": "", "document": "d"}',
        '{"question": 3, "document": "d"}',
    ):
        file.write_text(line)
        with pytest.raises(ConfigurationError):
            read_questions(file, "acme")
    file.write_text("\n")
    with pytest.raises(ConfigurationError, match="has 0 questions"):
        read_questions(file, "acme")


def test_the_parameters_follow_the_size() -> None:
    """Broken: an index of a million vectors finds less than one of a thousand, or has one list for all."""
    assert parameters("hnsw", 10).options == {"m": 16, "ef_construction": 64}
    assert parameters("hnsw", 1_000_000).options == {"m": 24, "ef_construction": 128}
    assert [parameters("ivfflat", rows).options["lists"] for rows in (0, 500_000, 1_000_000, 4_000_000)] == [
        1, 500, 1000, 2000,
    ]  # fmt: skip
    assert (probes(1), probes(1000)) == (1, 32)
    small = Generation("g1", "m", 384)
    assert memory_mib(small, 10, {"m": 16}) == 64
    assert memory_mib(small, 500_000, {"m": 16}) == 977
    assert memory_mib(small, 10_000_000, {"m": 16}) == 1024


def health(
    rows: int = 40_000, dead: int = 0, index: DenseIndex | None = None, recalls: tuple[Recall, ...] = ()
) -> Health:
    """The health of a generation with float32 vectors of 384 dimensions."""
    table = TableHealth("vector_g1", rows, dead, 0, 1, None, None)
    others = (replace(table, name="embedding_g1", dead=0), replace(table, name="lexical_g1", dead=0))
    return Health(Generation("g1", "m", 384), (table, *others), (), index, None, recalls)


HNSW = DenseIndex("vector_g1_nearest", "hnsw", valid=True, bytes=1, options={"m": 16, "ef_construction": 64})
IVFFLAT = DenseIndex("vector_g1_nearest", "ivfflat", valid=True, bytes=1, options={"lists": 400})


def low(share: float, *, indexed: bool = True) -> Recall:
    """A recall of a tenant."""
    return Recall("acme", 20, share, 1.0, 2.0, 30.0, indexed)


@pytest.mark.parametrize(
    ("found", "command"),
    [
        (health(), "headrace index rebuild g1"),
        (health(index=replace(HNSW, valid=False)), "headrace index rebuild g1"),
        (replace(health(index=HNSW), left_over=replace(HNSW, valid=False)), "headrace index rebuild g1"),
        (health(dead=20_000, index=HNSW), "headrace index rebuild g1; psql -c 'VACUUM (ANALYZE) vector_g1'"),
        (health(index=HNSW, recalls=(low(0.9),)), "headrace index tune g1 --ef-search 200"),
        (health(index=IVFFLAT, recalls=(low(0.5),)), "headrace index tune g1 --probes 2"),
        (health(index=IVFFLAT), "headrace index rebuild g1 --kind ivfflat"),
        (health(100_000, index=HNSW), "headrace reindex start --storage halfvec"),
    ],
)
def test_advice_names_the_command(found: Health, command: str) -> None:
    """Broken: an index that is slow, full of dead rows or finds too little is not noticed."""
    assert command in [one.command for one in advise(found)]


def test_nothing_is_advised_for_a_healthy_index() -> None:
    """Broken: operators learn to ignore the advice."""
    assert advise(health(index=HNSW, recalls=(low(0.99), low(0.5, indexed=False)))) == []
    assert advise(health(100)) == []
    assert advise(health(dead=900, index=HNSW)) == []
    tuned = replace(health(index=HNSW, recalls=(low(0.9),)), generation=Generation("g1", "m", 384, ef_search=1000))
    assert [one.command for one in advise(tuned)] == ["headrace index rebuild g1"]
