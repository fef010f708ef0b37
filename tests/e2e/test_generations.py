"""A second generation of the index beside the first: filled from the log, replayed into, switched to and back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Protocol

import psycopg
import pytest

from headrace.topology.stages import DOCUMENT_STAGES
from headrace_testing.committed import read_all
from headrace_testing.data import reference_with_edits
from headrace_testing.deployment import Deployment, Place
from headrace_testing.fold import Store, fold, read_store
from headrace_testing.oracle import versions
from headrace_testing.stream import TENANT, metric, publish, wait_until_stored

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

SECOND = {"HEADRACE_KAFKA_GENERATION": "g2", "HEADRACE_EMBEDDER_DIMENSIONS": "64"}


class CommandLine(Protocol):
    """Runs ``headrace``; the exit code must be ``code``. Returns the JSON that it printed, or its complaint."""

    def __call__(self, *words: str, code: int = 0, owner: bool = False) -> Any:
        """Run it, with the owner's DSN if asked."""


@pytest.fixture
def headrace(place: Place, tmp_path: Path) -> CommandLine:
    """The command line over the test's Kafka, registry and store; returns what it printed, or its complaint."""
    env = {
        **os.environ, "HEADRACE_KAFKA_TOPIC_PREFIX": place.prefix, "HEADRACE_STATE_DIR": str(tmp_path / "none"),
        "HEADRACE_STORE_DSN": place.runtime_dsn(), "HEADRACE_STORE_SCHEMA_NAME": place.schema,
        "HEADRACE_KAFKA_BOOTSTRAP": place.kafka, "HEADRACE_REGISTRY_URL": place.registry, "HEADRACE_JSON": "1",
    }  # fmt: skip

    def run(*words: str, code: int = 0, owner: bool = False) -> Any:
        dsn = {"HEADRACE_BOOTSTRAP_POSTGRES_DSN": place.postgres} if owner else {}
        done = subprocess.run(
            [sys.executable, "-m", "headrace_cli.app", *words], env={**env, **dsn}, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout) if code == 0 else done.stderr

    return run


def stores(place: Place) -> list[Store]:
    """The store as each generation has it."""
    return [read_store(place.postgres, schema=place.schema, generation=name) for name in ("g1", "g2")]


def test_a_second_generation_is_filled_beside_the_first_and_switched_to(
    deployment: Deployment, place: Place, seed: int, tmp_path: Path, headrace: CommandLine
) -> None:
    """A new model would need a stop, take the first one's records, or be searched before it is complete."""
    changes = reference_with_edits(edits=8, seed=seed, documents=16)
    deployment.start_all(*(flow.name for flow in DOCUMENT_STAGES))
    publish(place.kafka_settings(), changes[:18])
    wait_until_stored(deployment, fold(versions(TENANT, changes[:18])), 90, print)

    made = headrace("generations", "create", "g2", "--model", "hashing-64", "--dimensions", "64", owner=True)
    assert (made["state"], len(made["topics"])) == ("building", 10)
    assert headrace("generations", "create", "g2", "--model", "hashing-64", "--dimensions", "64", owner=True)[
        "topics"
    ] == []  # fmt: skip
    assert "exists with hashing-64" in headrace(
        "generations", "create", "g2", "--model", "other", "--dimensions", "3", owner=True, code=2
    )
    assert "is not filled" in headrace("reindex", "switch", "g2", owner=True, code=1)
    refused = headrace("replay", "--stage", "embedder", "--all", "--into", "g9", code=6)
    assert "g1 (hashing-384, 384 dimensions, active); g2 (hashing-64, 64 dimensions, building)" in refused

    first = list(deployment.services)
    deployment.start("embedder", "1", env=SECOND, wait=False)
    deployment.start("indexer", "1", env=SECOND, wait=False)
    publish(place.kafka_settings(), changes[18:])
    expected = fold(versions(TENANT, changes))
    wait_until_stored(deployment, expected, 90, print)
    wait_until_stored(deployment, expected, 90, print, generation="g2")

    before = stores(place)
    texts = [metric(one, "headrace_texts_embedded_total") for one in deployment.services if one.name == "embedder"]
    done = headrace("replay", "--stage", "embedder", "--all", "--into", "g2")
    assert (done["state"], done["generation"], done["sent"]) == ("DONE", "g2", len(changes))
    done = headrace("replay", "--stage", "indexer", "--all", "--into", "g2")
    assert (done["state"], done["source"]) == ("DONE", "vectors")
    for lane in ("replay.embedder", "replay.indexer"):
        assert read_all(place.kafka, place.kafka_settings().topic(lane)) == []  # the first one's lanes
    assert before == stores(place)  # every row's xmin included
    assert texts == [
        metric(one, "headrace_texts_embedded_total") for one in deployment.services if one.name == "embedder"
    ]

    assert headrace("reindex", "switch", "g2", "--force", owner=True)["active"] == "g2"
    assert {one["name"]: one["state"] for one in headrace("generations", "list")} == {"g1": "retired", "g2": "active"}
    assert headrace("audit", owner=True)["generation"] == "g2"
    assert headrace("reindex", "rollback", "--force", owner=True)["active"] == "g1"
    assert all(one.ready() for one in first)


TITLED = "{title}: {body}"


def test_a_template_with_titles_embeds_what_a_change_of_title_changes(
    deployment: Deployment, place: Place, seed: int, headrace: CommandLine
) -> None:
    """Documents would be found by the vectors of their old titles, or an index would mix texts of two templates."""
    changes = reference_with_edits(edits=0, seed=seed, documents=3)
    made = headrace(
        "generations", "create", "g2", "--model", "hashing-384", "--dimensions", "384", "--template", TITLED, owner=True
    )
    assert made["template"] == TITLED
    second = {"HEADRACE_KAFKA_GENERATION": "g2", "HEADRACE_EMBEDDER_TEXT_TEMPLATE": TITLED}
    deployment.start_all("ingest", "chunker")
    embedder = deployment.start("embedder", env=second)
    deployment.start("indexer", env=second)
    publish(place.kafka_settings(), changes)
    wait_until_stored(deployment, fold(versions(TENANT, changes)), 90, print, generation="g2")
    texts, before = metric(embedder, "headrace_texts_embedded_total"), rows(place)

    renamed = [{**change, "version": 2, "title": "Renamed"} for change in changes]
    publish(place.kafka_settings(), renamed)
    wait_until_stored(deployment, fold(versions(TENANT, renamed)), 90, print, generation="g2")
    after = rows(place)
    assert {chunk: written for chunk, (written, _) in after.items()} == {
        chunk: written for chunk, (written, _) in before.items()
    }
    assert not {key for _, key in after.values()} & {key for _, key in before.values()}
    assert metric(embedder, "headrace_texts_embedded_total") == 2 * texts
    assert headrace("audit", "--generation", "g2", "--deep", owner=True)["findings"] == []

    assert embedder.drain() == 0
    wrong = deployment.start("embedder", "1", wait=False, env={"HEADRACE_KAFKA_GENERATION": "g2"})
    publish(place.kafka_settings(), [{**change, "version": 3} for change in renamed])
    deadline = time.monotonic() + 60
    while f"generation g2 has the template '{TITLED}', not '{{body}}'" not in wrong.log.read_text():
        assert time.monotonic() < deadline, wrong.log.read_text()
        time.sleep(0.1)
    assert not wrong.ready()


def rows(place: Place) -> dict[str, tuple[str, bytes]]:
    """Who wrote each chunk, and by which key its vector goes."""
    with psycopg.connect(place.postgres, options=f"-c search_path={place.schema},public") as connection:
        found = connection.execute(
            "SELECT chunk_id::text, c.xmin::text, vector_key FROM chunk AS c JOIN embedding_g2 USING (tenant, chunk_id)"
        ).fetchall()
    return {chunk: (written, key) for chunk, written, key in found}


def test_what_cannot_go_into_a_generation_is_refused_before_anything_moves(
    deployment: Deployment, place: Place, seed: int, headrace: CommandLine
) -> None:
    """A replay would put vectors of one model, or of another size, among those of another."""
    headrace("generations", "create", "g2", "--model", "hashing-64", "--dimensions", "64", owner=True)
    said = headrace("replay", "--stage", "indexer", "--from-offset", "vectors.g1:0:0", "--into", "g2", code=2)
    assert "Use its source topic vectors.g2" in said
    assert "cannot fill a generation" in headrace("replay", "--stage", "chunker", "--all", "--into", "g2", code=2)
    assert headrace("replay", "list") == []
    deployment.start_all("ingest", "chunker")
    publish(place.kafka_settings(), reference_with_edits(edits=0, seed=seed, documents=2))
    wrong = deployment.start("embedder", wait=False, env={"HEADRACE_KAFKA_GENERATION": "g2"})
    deadline = time.monotonic() + 60
    refusal = "generation g2 has model hashing-64 with 64 dimensions, but this embedder runs hashing-384"
    while refusal not in wrong.log.read_text():
        assert time.monotonic() < deadline, wrong.log.read_text()
        time.sleep(0.1)
    assert not wrong.ready()
    second = place.kafka_settings().of("g2")
    assert read_all(place.kafka, second.topic("vectors")) == []
