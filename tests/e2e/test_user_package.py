"""A user's own package adds a handler, and a new pipeline version takes it up while the stream runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from headrace.handlers.pipelines_log import apply
from headrace.pipeline import load
from headrace.topology.stages import DOCUMENT_STAGES
from headrace_testing.data import reference_with_edits
from headrace_testing.deployment import Deployment, Place, Service
from headrace_testing.fold import fold
from headrace_testing.oracle import versions
from headrace_testing.stream import TENANT, dead_letters, publish, wait_until_stored
from headrace_testing.user_package import install

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

HANDLER = '''
from headrace.envelope import Context
from headrace.handler import Handler
from headrace.payloads import SourceDocument

class Stamp(Handler[SourceDocument, SourceDocument]):
    """Notes how many words a document has."""

    name = "stamp"
    version = "7"
    stage = "chunker"

    async def process(self, context: Context[SourceDocument]) -> Context[SourceDocument]:
        return context.with_metadata("chunker", words=len(context.payload.text.split()))
'''

TEMPLATE = """
id: default
description: With the user's own step
stages:
  - stage: ingest
    handlers: [change-event]
  - stage: chunker
    handlers: [stamp, sections]
  - stage: embedder
    handlers: [embed]
  - stage: indexer
    handlers: [index]
"""


def rows(place: Place) -> dict[str, tuple[str, dict[str, Any], list[dict[str, Any]]]]:
    """Pipeline version, metadata and history of every document."""
    with psycopg.connect(place.postgres, options=f"-c search_path={place.schema}") as connection:
        found = connection.execute("SELECT document_id, pipeline_version, metadata, history FROM document").fetchall()
    return {document_id: (version, metadata, history) for document_id, version, metadata, history in found}


def test_package_and_pipeline_version_arrive_while_the_stream_runs(
    deployment: Deployment, place: Place, seed: int, tmp_path: Path
) -> None:
    """A new handler would need a change of ours, a restart of the others, or would touch what is in flight."""
    site = install(tmp_path / "site", "acme", "Stamp", HANDLER)
    changes = reference_with_edits(edits=0, seed=seed, documents=24)
    deployment.start_all(*(flow.name for flow in DOCUMENT_STAGES))
    pids = {service.name: service.process.pid for service in deployment.services}
    publish(place.kafka_settings(), changes[:8])
    wait_until_stored(deployment, fold(versions(TENANT, changes[:8])), 60, print)

    # The stage that gets the handler is restarted with the package; the others go on.
    chunker = next(service for service in deployment.services if service.name == "chunker")
    publish(place.kafka_settings(), changes[8:16])
    assert chunker.drain() == 0
    deployment.services.remove(chunker)
    deployment.start("chunker", env={"PYTHONPATH": str(site)})
    template = load(TEMPLATE, "acme.yaml")
    applied = apply(place.kafka_settings(), place.codec(), template, applied_by="test")
    assert (applied.version.version, applied.changed) == (2, True)
    wait_until_stored(deployment, fold(versions(TENANT, changes[:16])), 60, print)
    ingest = next(service for service in deployment.services if service.name == "ingest")
    wait_for_log(ingest, '"version": 2')
    publish(place.kafka_settings(), changes[16:])
    wait_until_stored(deployment, fold(versions(TENANT, changes)), 60, print)

    stored = rows(place)
    for event in changes[:8]:
        assert stored[event["id"]][0] == "1"
        assert "chunker.words" not in stored[event["id"]][1]
    for event in changes[16:]:
        version, metadata, history = stored[event["id"]]
        assert version == "2"
        assert metadata["chunker.words"] == len(event["content"].split())
        assert history[1]["handlers"] == ["stamp@7", "sections@1"]
    for service in deployment.services:
        if service.name != "chunker":
            assert service.process.poll() is None
            assert service.process.pid == pids[service.name]
    assert dead_letters(place.kafka_settings()) == 0


def wait_for_log(service: Service, text: str) -> None:
    """Wait until the service's log has the text."""
    import time

    deadline = time.monotonic() + 20
    while text not in service.log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
