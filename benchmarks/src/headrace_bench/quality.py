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
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import numpy as np

from headrace.errors import ConfigurationError
from headrace.store.keys import create_api_key
from headrace.store.statistics import STALE
from headrace.topology.stages import DOCUMENT_STAGES
from headrace_bench import judged
from headrace_bench.judged import JudgedSet
from headrace_bench.stages import deployment, wait_for_model
from headrace_testing.deployment import Deployment
from headrace_testing.stream import publish

MODES = ("vector", "lexical", "hybrid")
MEASURES = {"nDCG@10": "ndcg_10", "R@10": "recall_10", "RR@10": "mrr_10"}
"""Measures as ir-measures names them, and their names in the result."""
HITS = 100
_SEARCHERS = 4
_STREAM_S = 3600.0
_COUNTED = (
    "SELECT max(passages)::float / greatest((SELECT count(*) FROM lexical_g1 WHERE tenant = $1), 1) "
    "FROM search_statistics WHERE tenant = $1"
)
"""The share of the tenant's passages that the estimates of its terms know."""


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of each set and mode."""
    evaluated({}, {})  # refuses an installation without the measures before anything starts
    figures: dict[str, Any] = {}
    reranker = {"HEADRACE_EMBEDDER_RERANKER": options.rerank} if options.rerank else {}
    with deployment(options.state_dir, "sentence-transformers", options.model, reranker) as place:
        place.start_all(*(flow.name for flow in DOCUMENT_STAGES))
        wait_for_model(place)
        for number, one in enumerate(_sets(options)):
            tenant = f"set{number}"
            started = time.perf_counter()
            publish(place.place.kafka_settings(), one.documents, tenant)
            key = asyncio.run(indexed(place, tenant, len(one.documents)))
            print(f"{one.name}: indexed in {time.perf_counter() - started:.0f} s", file=sys.stderr)
            figures[one.name] = {
                "documents": len(one.documents), "queries": len(one.queries),
                **{f"{mode}{name}": found for name, env in _gateways(options, place)
                   for mode, found in _asked(place, env, key, one, ("hybrid",) if env else MODES).items()},
            }  # fmt: skip
    return figures


def _sets(options: argparse.Namespace) -> list[JudgedSet]:
    """Return the sets to measure."""
    if options.sample:
        return [judged.sample()]
    manuals, source = judged.manuals(options.documents)
    sets = [
        judged.headings(manuals, source), judged.untitled(manuals),
        judged.identifiers(manuals, 200, options.seed), *(judged.squad(path) for path in options.squad),
    ]  # fmt: skip
    sets += [one.halved(options.seed) for one in sets[1:] if one.name != "identifiers" and one.queries]
    return [one.drawn(options.questions, options.seed) for one in sets]


def _gateways(options: argparse.Namespace, place: Deployment) -> list[tuple[str, dict[str, str]]]:
    """Return the gateway as it is by default, one for each weight to compare it with, and one with a reranker."""
    weights = [(f"@{weight}", {"HEADRACE_SEARCH_DENSE_WEIGHT": str(weight)}) for weight in options.weights]
    url = f"http://127.0.0.1:{place.embedder_port}/v1"
    reranked = [("+rerank", {"HEADRACE_RERANK_URL": url, "HEADRACE_RERANK_TIMEOUT_S": "30"})]
    return [("", {}), *weights, *(reranked if options.rerank else ())]


def _asked(
    place: Deployment, env: dict[str, str], key: str, judged_set: JudgedSet, modes: tuple[str, ...]
) -> dict[str, dict[str, float]]:
    """Return the measures of the set in each of these modes."""
    gateway = place.start("gateway", env=env)
    try:
        with httpx.Client(
            base_url=f"http://127.0.0.1:{gateway.port}", headers={"Authorization": f"Bearer {key}"}, timeout=30
        ) as http:
            rerank = "HEADRACE_RERANK_URL" in env
            found = {mode: _measured(http, judged_set, mode, rerank=rerank) for mode in modes}
            return found if rerank else found | nothing_fits(http, judged_set)
    finally:
        gateway.kill()


def _measured(http: httpx.Client, judged_set: JudgedSet, mode: str, *, rerank: bool = False) -> dict[str, float]:
    """Return the measures and the times of all queries in this mode."""
    run, milliseconds = searched(http, judged_set, mode, rerank=rerank)
    qrels = {str(number): {identity: 1} for number, (_, identity) in enumerate(judged_set.queries)}
    return {
        **evaluated(qrels, run),
        **{f"p{q}_ms": round(float(np.percentile(milliseconds, q)), 1) for q in (50, 95)},
    }


def searched(
    http: httpx.Client, judged_set: JudgedSet, mode: str = "hybrid", *, rerank: bool = False
) -> tuple[dict[str, dict[str, float]], list[float]]:
    """Return, by the number of each query, the documents that it finds with their scores; and the milliseconds."""
    milliseconds: list[float] = []

    def search(query: tuple[str, str]) -> dict[str, float]:
        """Return each document that was found, with the score of its best chunk."""
        started = time.perf_counter()
        body = {"query": query[0], "mode": mode, "top_k": HITS, "rerank": rerank}
        answer = http.post("/v1/search", json=body)
        answer.raise_for_status()
        milliseconds.append((time.perf_counter() - started) * 1000)
        best: dict[str, float] = {}
        for place, hit in enumerate(answer.json()["hits"]):
            best.setdefault(hit["document_id"], -place if rerank else hit["score"])
        return best

    with ThreadPoolExecutor(_SEARCHERS) as threads:
        run = {str(number): found for number, found in enumerate(threads.map(search, judged_set.queries))}
    return run, milliseconds


def nothing_fits(http: httpx.Client, judged_set: JudgedSet) -> dict[str, dict[str, float]]:
    """Return the shares of queries of which search says that nothing fits: of those with an answer, and of the others.

    Empty for a set without queries that have no answer.
    """
    if not judged_set.unanswered:
        return {}

    def said(query: str) -> bool:
        answer = http.post("/v1/search", json={"query": query, "top_k": 1})
        answer.raise_for_status()
        return not answer.json()["fits"]

    asked = {"answered": [query for query, _ in judged_set.queries], **judged_set.unanswered}
    with ThreadPoolExecutor(_SEARCHERS) as threads:
        return {"nothing_fits": {
            kind: round(float(np.mean(list(threads.map(said, queries)))), 4) for kind, queries in asked.items()
        }}  # fmt: skip


def evaluated(qrels: Mapping[str, Mapping[str, int]], run: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the means of the measures, by ir-measures, for the judged documents and the found ones of each query.

    Raises :class:`ConfigurationError` without the extra ``quality``.
    """
    try:
        import ir_measures  # noqa: PLC0415  # an extra: it needs scipy
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "the package ir-measures is not installed", where="headrace-bench quality", remedy="Run `make quality`."
        ) from error
    found = ir_measures.calc_aggregate([ir_measures.parse_measure(name) for name in MEASURES], qrels, run)
    return {MEASURES[str(measure)]: round(value, 4) for measure, value in found.items()}


async def indexed(place: Deployment, tenant: str, documents: int) -> str:
    """Wait until the tenant's documents are indexed and its terms counted; return an API key of the tenant."""
    schema = place.place.schema
    connection = await asyncpg.connect(place.place.postgres, server_settings={"search_path": f"{schema},public"})
    deadline = time.monotonic() + _STREAM_S
    try:
        count = 0
        counted = 0.0
        while count < documents or counted < 1 - STALE:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{count} of {documents} documents indexed after {_STREAM_S:.0f} s")
            await asyncio.sleep(0.5)
            count = await connection.fetchval("SELECT count(*) FROM document WHERE tenant = $1", tenant)
            counted = await connection.fetchval(_COUNTED, tenant) or 0.0
        return await create_api_key(connection, tenant, "benchmark")
    finally:
        await connection.close()


def main(arguments: list[str] | None = None) -> int:
    """Measure from the command line."""
    parser = argparse.ArgumentParser(prog="headrace-bench quality", description=__doc__)
    parser.add_argument("--squad", type=Path, action="append", default=[], help="a judged set in SQuAD's format")
    parser.add_argument("--sample", action="store_true", help="only the small set that needs no file")
    parser.add_argument("--documents", type=int, default=660, help="documents of the set of headings")
    parser.add_argument("--questions", type=int, default=1000, help="maximum queries of a set, drawn with the seed")
    parser.add_argument("--seed", type=int, default=1, help="seed of the draw")
    parser.add_argument("--model", default="all-MiniLM-L6-v2", help="embedding model")
    parser.add_argument("--weights", type=float, nargs="*", default=[], help="weights of the dense leg to compare")
    parser.add_argument("--rerank", metavar="MODEL", help="also rank hybrid hits again by this cross-encoder")
    parser.add_argument("--floor", type=float, default=0.0, help="lowest nDCG@10 of hybrid search that passes")
    parser.add_argument(
        "--state-dir", type=Path, default=Path(".headrace/bench"), help="state folder of the local stack"
    )
    options = parser.parse_args(arguments)
    figures = run(options)
    ok = all(one["hybrid"]["ndcg_10"] >= options.floor for one in figures.values())
    print(json.dumps({"name": "quality", "ok": ok, "model": options.model, "seed": options.seed, "sets": figures}))
    return 0 if ok else 1
