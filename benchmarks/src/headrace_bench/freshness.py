"""Freshness: from the request that changes a document to the first search that finds the change, everything warm."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from uuid import uuid4

import asyncpg
import httpx
import numpy as np

from headrace.store.keys import create_api_key
from headrace_bench.result import Result
from headrace_bench.stages import deployment, wait_for_model
from headrace_testing.data import changes
from headrace_testing.stream import DOCUMENT_STAGES, publish

TENANT = "fresh"
WARM = 15
QUESTION = "the sentence that was changed a moment ago"


def run(state_dir: Path, *, documents: int = 8, edits: int = 60) -> Result:
    """Return the median in milliseconds; the details have the 99th percentile and all samples."""
    events, source = changes(documents)
    with deployment(state_dir, "sentence-transformers") as place:
        place.start_all(*(flow.name for flow in DOCUMENT_STAGES))
        wait_for_model(place)
        gateway = place.start("gateway")
        key = asyncio.run(api_key(place.place.postgres, place.place.schema))
        publish(place.place.kafka_settings(), events, TENANT)
        samples = []
        with httpx.Client(
            base_url=f"http://127.0.0.1:{gateway.port}", headers={"Authorization": f"Bearer {key}"}
        ) as http:
            for number in range(WARM + edits):
                event = events[number % len(events)]
                samples.append(edit(http, event["id"], event["content"], number))
    measured = np.array(samples[WARM:])
    p50, p99 = (float(np.percentile(measured, q)) for q in (50, 99))
    return Result(
        "freshness", p50, "ms (median)", None, "none; the goals are 60 ms in the median and 250 ms at p99",
        {"p50_ms": round(p50, 1), "p99_ms": round(p99, 1), "max_ms": round(float(measured.max()), 1), "edits": edits,
         "documents": documents, "data": source, "goal_p50_ms": 60, "goal_p99_ms": 250},
    )  # fmt: skip


def edit(http: httpx.Client, identity: str, content: str, number: int) -> float:
    """Change one sentence of the document and return the milliseconds until a search returns it.

    The search is restricted to the document and asks the same words each time, as a page that watches one would.
    """
    marker = f"marker{uuid4().hex[:12]}"
    text = f"{content}\n\nNews\n====\n\nThis is {QUESTION}, {marker}.\n"
    change = {"id": identity, "op": "upsert", "version": 2**40 + number, "title": identity, "content": text}
    started = time.perf_counter()
    http.post("/v1/changes", json=change).raise_for_status()
    deadline = started + 60
    while True:
        answer = http.post("/v1/search", json={"query": QUESTION, "top_k": 5, "document_ids": [identity]})
        answer.raise_for_status()
        if any(marker in hit["text"] for hit in answer.json()["hits"]):
            return (time.perf_counter() - started) * 1000
        if time.perf_counter() > deadline:
            raise TimeoutError(f"the change of {identity} was not found within 60 s")


async def api_key(dsn: str, schema: str) -> str:
    """Return a key of the benchmark's tenant, made by the schema's owner."""
    connection = await asyncpg.connect(dsn, server_settings={"search_path": f"{schema},public"})
    try:
        return await create_api_key(connection, TENANT, "benchmark")
    finally:
        await connection.close()
