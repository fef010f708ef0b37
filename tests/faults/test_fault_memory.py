"""Row 16: a record that takes more memory than the process may have."""

from __future__ import annotations

import resource
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest

from headrace.codec.codec import Codec
from headrace.handlers.pipelines_log import apply
from headrace_operations.dead_letters.log import DeadLetterLog
from headrace_operations.dead_letters.model import Selection
from headrace_testing.data import reference_with_edits
from headrace_testing.deployment import Deployment
from headrace_testing.fold import fold
from headrace_testing.oracle import versions
from headrace_testing.stream import TENANT, publish, wait_until_stored
from headrace_testing.user_package import install, stream

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]

LIMIT = 6 * 1024**3
"""Bytes of address space: what a stage has at rest, and some."""
DEATHS = 3
HANDLER = '''
import ctypes
from headrace.handler import Handler
from headrace.payloads import SourceDocument

MUCH = 16 * 1024**3
LIBC = ctypes.CDLL(None)
LIBC.malloc.restype = ctypes.c_void_p
LIBC.malloc.argtypes = [ctypes.c_size_t]

class Hungry(Handler):
    """Wants more than there is: Python says so and goes on, a library in C writes to what it did not get and dies."""

    name = "hungry"
    version = "1"
    stage = "chunker"
    consumes = SourceDocument
    produces = SourceDocument

    async def process(self, context):
        if "hungry in python" in context.payload.text:
            bytearray(MUCH)
        if "hungry in c" in context.payload.text:
            ctypes.memset(LIBC.malloc(MUCH), 0, 1)
        return context
'''


def test_row_16_a_worker_out_of_memory(
    store: Deployment, tmp_path: Path, chance: Random, figures: dict[str, Any]
) -> None:
    """Broken: a record that is too big takes the others with it, or its stage dies of it for ever."""
    changes = reference_with_edits(edits=0, seed=0, documents=24)
    python, native = chance.sample(changes, 2)
    python["content"], native["content"] = "It is hungry in python.", "It is hungry in c."
    kafka, codec = store.place.kafka_settings(), store.place.codec()
    apply(kafka, codec, stream("default", ("hungry", "sections")), applied_by="test")
    site = install(tmp_path / "site", "hungry", "Hungry", HANDLER)
    store.env = {"PYTHONPATH": str(site), "HEADRACE_WORKER_BATCH_RECORDS": "8"}
    store.start_all("ingest", "embedder", "indexer")
    publish(kafka, changes)
    deaths = _supervised(store, codec)
    others = [change for change in changes if change not in (python, native)]
    wait_until_stored(store, fold(versions(TENANT, others)), 90, print)
    letters = {entry.document_id or "": entry for entry in DeadLetterLog(kafka, codec).select(Selection())}
    figures |= {"row": 16, "records": len(changes), "deaths": deaths, "dead_letters": len(letters)}
    # Alone it dies so often; before that, twice in each batch that it is in, and batches differ from start to start.
    assert DEATHS <= deaths <= 3 * DEATHS
    assert len(letters) == 2
    assert letters[python["id"]].message.startswith("MemoryError")
    assert letters[python["id"]].handler == "hungry@1"
    assert "deadly" in {entry.reason for entry in letters.values()}


def _supervised(deployment: Deployment, codec: Codec) -> int:
    """Start the chunker within its limit again and again, until there are two dead letters; return its deaths."""
    log = DeadLetterLog(deployment.place.kafka_settings(), codec)
    deadline = time.monotonic() + 180
    deaths = 0
    chunker = None
    while len(log.select(Selection())) < 2:
        assert time.monotonic() < deadline, f"{deaths} deaths, {log.select(Selection())}"
        if chunker is None or chunker.process.poll() is not None:
            if chunker is not None:
                deployment.services.remove(chunker)
                deaths += 1
            chunker = deployment.start("chunker", wait=False)
            resource.prlimit(chunker.process.pid, resource.RLIMIT_AS, (LIMIT, LIMIT))
        time.sleep(0.2)
    return deaths
