"""Freshness: from the request that changes a document to the first search that finds the change, everything warm."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import asyncpg
import httpx
import numpy as np

from headrace.store.keys import create_api_key
from headrace.topology.stages import DOCUMENT_STAGES
from headrace_bench.result import Result
from headrace_bench.stages import deployment, wait_for_model
from headrace_testing.data import changes
from headrace_testing.stream import publish

TENANT = "fresh"
WARM = 300
"""Edits before the first measured one: a freshly started broker compiles its own code for about 200 of them."""
WATCH_S = 0.01
"""Seconds between the watching client's searches: 100 per second, so no figure is more precise than that."""
QUESTION = "the sentence that was changed a moment ago"
GOAL = {"goal_p50_ms": 60, "goal_p99_ms": 200}


def run(state_dir: Path, *, documents: int = 8, edits: int = 100) -> Result:
    """Return the median in milliseconds for a client that searches every 10 ms.

    The details have the 99th percentile, and both for a client that searches without a pause. That one takes about one
    core for itself, the gateway and PostgreSQL, so on two cores it measures its own load as well.
    """
    events, source = changes(documents)
    with deployment(state_dir, "sentence-transformers") as place:
        place.start_all(*(flow.name for flow in DOCUMENT_STAGES))
        wait_for_model(place)
        gateway = place.start("gateway")
        key = asyncio.run(api_key(place.place.postgres, place.place.schema))
        publish(place.place.kafka_settings(), events, TENANT)
        with httpx.Client(
            base_url=f"http://127.0.0.1:{gateway.port}", headers={"Authorization": f"Bearer {key}"}
        ) as http:
            samples = []
            for number in range(WARM + 2 * edits):
                event, watch_s = events[number % len(events)], WATCH_S if number < WARM + edits else 0.0
                samples.append(edit(http, event["id"], event["content"], number, watch_s))
    watched, continuous = (_percentiles(part) for part in (samples[WARM:-edits], samples[-edits:]))
    return Result(
        "freshness", watched["p50_ms"], "ms (median)", None, "none; the goals are 60 ms in the median, 200 ms at p99",
        {**watched, **{f"continuous_{name}": value for name, value in continuous.items()}, **GOAL, "edits": edits,
         "warm_up_edits": WARM, "watch_ms": WATCH_S * 1000, "documents": documents, "data": source},
    )  # fmt: skip


def _percentiles(samples: Sequence[float]) -> dict[str, float]:
    measured = np.array(samples)
    p50, p99 = (float(np.percentile(measured, q)) for q in (50, 99))
    return {"p50_ms": round(p50, 1), "p99_ms": round(p99, 1), "max_ms": round(float(measured.max()), 1)}


def edit(http: httpx.Client, identity: str, content: str, number: int, watch_s: float = 0.0) -> float:
    """Change one sentence of the document and return the milliseconds until a search returns it.

    The search is restricted to the document and always uses the same words, like a page that watches a document;
    ``watch_s`` is its pause before each search.
    """
    marker = f"marker{uuid4().hex[:12]}"
    text = f"{content}\n\nNews\n====\n\nThis is {QUESTION}, {marker}.\n"
    change = {"id": identity, "op": "upsert", "version": 2**40 + number, "title": identity, "content": text}
    started = time.perf_counter()
    http.post("/v1/changes", json=change).raise_for_status()
    deadline = started + 60
    while True:
        time.sleep(watch_s)
        answer = http.post(
            "/v1/search", json={"query": QUESTION, "top_k": 5, "filter": {"field": "document", "eq": identity}}
        )
        answer.raise_for_status()
        if any(marker in hit["text"] for hit in answer.json()["hits"]):
            return (time.perf_counter() - started) * 1000
        if time.perf_counter() > deadline:
            raise TimeoutError(f"the change to {identity} was not found within 60 s")


async def api_key(dsn: str, schema: str) -> str:
    """Return an API key for the benchmark's tenant, created by the schema's owner."""
    connection = await asyncpg.connect(dsn, server_settings={"search_path": f"{schema},public"})
    try:
        return await create_api_key(connection, TENANT, "benchmark")
    finally:
        await connection.close()
