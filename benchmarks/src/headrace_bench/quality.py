"""Quality of search: judged sets are streamed through the real services, then asked in each mode.

``headrace-bench quality --squad FILE --questions 1000``. A document scores as its best chunk, and 100 hits are read.
The measures are nDCG@10, recall@10 and MRR@10 by ir-measures. The last line is one JSON object; the exit code is 1 if
hybrid search has less than the floor of ``--floor``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import ir_measures
from ir_measures import RR, Qrel, R, ScoredDoc, nDCG

from headrace.store.keys import create_api_key
from headrace.topology.stages import DOCUMENT_STAGES
from headrace_bench import judged
from headrace_bench.judged import JudgedSet
from headrace_bench.stages import deployment, wait_for_model
from headrace_testing.deployment import Deployment
from headrace_testing.stream import publish

MODES = ("vector", "lexical", "hybrid")
MEASURES = {"ndcg_10": nDCG @ 10, "recall_10": R @ 10, "mrr_10": RR @ 10}
HITS = 100
_SEARCHERS = 4
_STREAM_S = 3600.0


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of each set and mode."""
    sets = [judged.headings(options.documents), *(judged.squad(path) for path in options.squad)]
    sets = [one.drawn(options.questions, options.seed) for one in sets]
    figures: dict[str, Any] = {}
    with deployment(options.state_dir, "sentence-transformers", options.model) as place:
        place.start_all(*(flow.name for flow in DOCUMENT_STAGES))
        wait_for_model(place)
        for number, one in enumerate(sets):
            tenant = f"set{number}"
            started = time.perf_counter()
            publish(place.place.kafka_settings(), one.documents, tenant)
            key = asyncio.run(_indexed(place, tenant, len(one.documents)))
            print(f"{one.name}: indexed in {time.perf_counter() - started:.0f} s", file=sys.stderr)
            figures[one.name] = {
                "documents": len(one.documents), "queries": len(one.queries),
                **{f"{mode}{name}": found for name, env in _gateways(options)
                   for mode, found in _asked(place, env, key, one, ("hybrid",) if env else MODES).items()},
            }  # fmt: skip
    return figures


def _gateways(options: argparse.Namespace) -> list[tuple[str, dict[str, str]]]:
    """Return the gateway as it is by default, and one for each weight to compare it with."""
    weights = [(f"@{weight}", {"HEADRACE_SEARCH_DENSE_WEIGHT": str(weight)}) for weight in options.weights]
    return [("", {}), *weights]


def _asked(
    place: Deployment, env: dict[str, str], key: str, judged_set: JudgedSet, modes: tuple[str, ...]
) -> dict[str, dict[str, float]]:
    """Return the measures of the set in each of these modes."""
    gateway = place.start("gateway", env=env)
    try:
        with httpx.Client(
            base_url=f"http://127.0.0.1:{gateway.port}", headers={"Authorization": f"Bearer {key}"}, timeout=30
        ) as http:
            return {mode: _measured(http, judged_set, mode) for mode in modes}
    finally:
        gateway.kill()


def _measured(http: httpx.Client, judged_set: JudgedSet, mode: str) -> dict[str, float]:
    milliseconds: list[float] = []

    def search(numbered: tuple[int, tuple[str, str]]) -> list[ScoredDoc]:
        number, (text, _) = numbered
        started = time.perf_counter()
        answer = http.post("/v1/search", json={"query": text, "mode": mode, "top_k": HITS})
        answer.raise_for_status()
        milliseconds.append((time.perf_counter() - started) * 1000)
        best: dict[str, float] = {}
        for hit in answer.json()["hits"]:
            best.setdefault(hit["document_id"], hit["score"])
        return [ScoredDoc(str(number), identity, score) for identity, score in best.items()]

    with ThreadPoolExecutor(_SEARCHERS) as threads:
        found = [doc for docs in threads.map(search, enumerate(judged_set.queries)) for doc in docs]
    qrels = [Qrel(str(number), identity, 1) for number, (_, identity) in enumerate(judged_set.queries)]
    values = ir_measures.calc_aggregate(list(MEASURES.values()), qrels, found)
    times = {
        f"p{q}_ms": round(milliseconds[min(len(milliseconds) - 1, len(milliseconds) * q // 100)], 1) for q in (50, 95)
    }
    return {name: round(values[measure], 4) for name, measure in MEASURES.items()} | times


async def _indexed(place: Deployment, tenant: str, documents: int) -> str:
    """Wait until the tenant's documents are indexed and its terms counted; return an API key of the tenant."""
    schema = place.place.schema
    connection = await asyncpg.connect(place.place.postgres, server_settings={"search_path": f"{schema},public"})
    deadline = time.monotonic() + _STREAM_S
    try:
        count = 0
        while count < documents:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{count} of {documents} documents indexed after {_STREAM_S:.0f} s")
            await asyncio.sleep(0.5)
            count = await connection.fetchval("SELECT count(*) FROM document WHERE tenant = $1", tenant)
        return await create_api_key(connection, tenant, "benchmark")
    finally:
        await connection.close()


def main(arguments: list[str] | None = None) -> int:
    """Measure from the command line."""
    parser = argparse.ArgumentParser(prog="headrace-bench quality", description=__doc__)
    parser.add_argument("--squad", type=Path, action="append", default=[], help="a judged set in SQuAD's format")
    parser.add_argument("--documents", type=int, default=660, help="documents of the set of headings")
    parser.add_argument("--questions", type=int, default=1000, help="maximum queries of a set, drawn with the seed")
    parser.add_argument("--seed", type=int, default=1, help="seed of the draw")
    parser.add_argument("--model", default="all-MiniLM-L6-v2", help="embedding model")
    parser.add_argument("--weights", type=float, nargs="*", default=[], help="weights of the dense leg to compare")
    parser.add_argument("--floor", type=float, default=0.0, help="lowest nDCG@10 of hybrid search that passes")
    parser.add_argument(
        "--state-dir", type=Path, default=Path(".headrace/bench"), help="state folder of the local stack"
    )
    options = parser.parse_args(arguments)
    figures = run(options)
    ok = all(one["hybrid"]["ndcg_10"] >= options.floor for one in figures.values())
    print(json.dumps({"name": "quality", "ok": ok, "model": options.model, "seed": options.seed, "sets": figures}))
    return 0 if ok else 1
