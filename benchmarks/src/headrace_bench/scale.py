"""Search in a large index: ``headrace-bench scale --passages 1000000``; the last line is one JSON object.

The index is written by COPY and indexed afterwards, as a bulk load is. Then, for tenants of 50 %, 1 % and 0.01 % of the
passages: recall of the dense leg against an exact scan, and the latency of hybrid search with concurrent searchers,
first alone, then while changes are indexed. Latencies are those of :func:`headrace.store.search.search`, which is all
of a search but the question's vector. The same vectors as ``halfvec`` and ``binary`` are measured beside.
The exit code is 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import Process
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import numpy as np
from pgvector import Vector

from headrace.access.readers import EVERY_DOCUMENT
from headrace.filters.model import Condition, Filter, Operator
from headrace.lexical import weights
from headrace.lexical.analyzer import DEFAULT, analyzer_of
from headrace.store import statistics
from headrace.store.generations import activate, create_generation, filled, query_of
from headrace.store.pool import StoreSettings, opened_pool, prepare_connection
from headrace.store.rows import Generation
from headrace.store.schema import create_login, migrate
from headrace.store.search import Question, search
from headrace.store.transactions import tenant_transaction
from headrace_bench.scale_changes import change_for
from headrace_bench.scale_data import TENANTS, Base, load, read_base
from headrace_local.loopback import free_port
from headrace_local.parts import postgres
from headrace_testing.postgres import with_login

SCHEMA, LOGIN, PASSWORD = "headrace", "scale", "scale"
GENERATION = Generation("g1", "all-MiniLM-L6-v2", 384, state="active")
SETTINGS = {
    "shared_buffers": "6GB",
    "maintenance_work_mem": "5GB",
    "max_wal_size": "16GB",
    "effective_cache_size": "12GB",
    "wal_level": "replica",
}
"""Of the server that the benchmark starts: about those of a machine of 16 GiB that runs PostgreSQL alone."""
KIND = Condition("attributes.kind", Operator.EQ, "7")
"""Every hundredth document."""
MEASURED = ("half", "hundredth", "tenthousandth")
_EXACT = (
    "SELECT vector_key FROM {vectors} WHERE tenant = $1 ORDER BY (embedding {operator} $2::vector::{type}) + 0 LIMIT 10"
)
_FOUND = "SELECT vector_key FROM {embedding} WHERE tenant = $1 AND chunk_id = ANY ($2::uuid[])"
GOALS = {"recall": 0.95, "p95_ms": 50.0, "under_changes": 2.0}


Say = Callable[[str], None]


class Asked(NamedTuple):
    """A question with both legs, and its vector alone."""

    tenant: str
    both: Question
    dense: Question


@contextmanager
def server(folder: Path, *, keep: bool = False) -> Iterator[str]:
    """Yield the owner's connection string of a PostgreSQL of its own, whose folder is deleted at the end or kept."""
    port = free_port()
    command = postgres(folder, port, PASSWORD, SETTINGS)
    process = subprocess.Popen(command.argv, user=command.user, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    dsn = f"postgresql://headrace:{PASSWORD}@127.0.0.1:{port}/postgres"
    try:
        asyncio.run(_answers(dsn))
        yield dsn
    finally:
        process.send_signal(2)
        process.wait()
        if not keep:
            shutil.rmtree(folder)


async def _answers(dsn: str) -> None:
    for _ in range(300):
        try:
            await (await asyncpg.connect(dsn)).close()
        except (OSError, asyncpg.PostgresError):
            await asyncio.sleep(0.2)
        else:
            return
    raise TimeoutError("PostgreSQL does not answer")


def questions(base: Base, count: int, seed: int) -> list[Asked]:
    """Return ``count`` questions for each measured tenant: a few words of a passage, and a vector near its own."""
    draw, noise = random.Random(seed), np.random.default_rng(seed)
    asked = []
    for tenant in MEASURED:
        numbers = [draw.randrange(len(base.texts)) for _ in range(count)]
        for number, vector in zip(numbers, base.near(numbers, noise), strict=True):
            words = base.texts[number].split()
            start = draw.randrange(max(1, len(words) - 12))
            terms = weights.query(analyzer_of(DEFAULT), tenant, " ".join(words[start : start + 12]))
            wire = vector.astype("<f4").tobytes()
            asked.append(Asked(tenant, Question(wire, terms), Question(wire)))
    return asked


async def indexed(owner: asyncpg.Connection[asyncpg.Record], generation: Generation) -> dict[str, Any]:
    """Build the index of the vectors; return its seconds and the sizes of table and index in MiB."""
    started = time.monotonic()
    await owner.execute("SET max_parallel_maintenance_workers = 2")
    await owner.execute(query_of("generations", "index", generation))
    seconds = time.monotonic() - started
    return {"build_s": round(seconds, 1), **await _sizes(owner, filled("{vectors}", generation), "nearest")}


async def _sizes(owner: asyncpg.Connection[asyncpg.Record], table: str, index: str) -> dict[str, int]:
    """Return the sizes of a table and of its index in MiB."""
    return {
        "table_mib": await owner.fetchval("SELECT pg_table_size($1::text::regclass) >> 20", table),
        "index_mib": await owner.fetchval("SELECT pg_relation_size($1::text::regclass) >> 20", f"{table}_{index}"),
    }


async def recall(pool: Any, owner: Any, generation: Generation, asked: Sequence[Asked]) -> dict[str, float]:
    """Return the share of the ten nearest vectors, by an exact scan, that search finds, by tenant."""
    shares: dict[str, list[float]] = {}
    for tenant, _, question in asked:
        hits = (await search(pool, tenant, generation, question, top_k=10)).hits
        ids = [UUID(bytes=hit.chunk_id) for hit in hits]
        found = {row[0] for row in await owner.fetch(filled(_FOUND, generation), tenant, ids)}
        assert question.vector is not None
        vector = Vector(np.frombuffer(question.vector, "<f4"))
        exact = {row[0] for row in await owner.fetch(filled(_EXACT, generation), tenant, vector)}
        shares.setdefault(tenant, []).append(len(found & exact) / len(exact))
    return {tenant: round(float(np.mean(one)), 4) for tenant, one in shares.items()}


async def latencies(
    pool: Any,
    generation: Generation,
    asked: Sequence[tuple[str, Question]],
    searchers: int,
    filters: Filter | None = None,
) -> dict[str, float]:
    """Return percentiles in ms of these searches by so many concurrent searchers."""
    taken: list[float] = []
    waiting = iter(asked)

    async def searcher() -> None:
        for tenant, question in waiting:
            started = time.perf_counter()
            await search(pool, tenant, generation, question, top_k=10, filters=filters)
            taken.append((time.perf_counter() - started) * 1000)

    await asyncio.gather(*(searcher() for _ in range(searchers)))
    return {f"p{part}": round(float(np.percentile(taken, part)), 1) for part in (50, 95, 99)}


async def _by_tenant(pool: Any, asked: Sequence[Asked], searchers: int) -> dict[str, dict[str, float]]:
    return {
        tenant: await latencies(
            pool, GENERATION, [(one.tenant, one.both) for one in asked if one.tenant == tenant], searchers
        )
        for tenant in MEASURED
    }


async def _other_questions(
    pool: Any, base: Base, asked: Sequence[Asked], searchers: int
) -> dict[str, dict[str, float]]:
    """Return latencies of questions of very common words, of 10,000 characters, and under a filter of 1 %."""
    half = [one for one in asked if one.tenant == "half"]
    common = weights.query(analyzer_of(DEFAULT), "half", "which of the options can be used in the same way as this one")
    long = weights.query(analyzer_of(DEFAULT), "half", " ".join(base.texts)[:10_000])
    return {
        "common words": await latencies(pool, GENERATION, [("half", Question(terms=common))] * 100, searchers),
        "10,000 characters": await latencies(pool, GENERATION, [("half", Question(terms=long))] * 100, searchers),
        "filter of 1 %": await latencies(pool, GENERATION, [("half", one.both) for one in half], searchers, KIND),
    }


async def _stored_as(owner: Any, pool: Any, storage: str, asked: Sequence[Asked], searchers: int) -> dict[str, Any]:
    """Copy the vectors into a generation of this storage; return figures of the dense leg alone."""
    other = Generation(storage, GENERATION.model, GENERATION.dimensions, storage=storage)
    await create_generation(owner, other)
    await owner.execute(f"DROP INDEX vector_{storage}_nearest")
    await owner.execute(filled("INSERT INTO {vectors} SELECT tenant, vector_key, embedding FROM vector_g1", other))
    await owner.execute(filled("INSERT INTO {embedding} SELECT * FROM embedding_g1", other))
    figures = await indexed(owner, other)
    await owner.execute(filled("VACUUM ANALYZE {vectors}, {embedding}", other))
    figures["recall"] = await recall(pool, owner, other, asked)
    dense = [(one.tenant, one.dense) for one in asked if one.tenant == "half"]
    figures["half_dense_ms"] = await latencies(pool, other, dense, searchers)
    return figures


async def _built(owner: Any, dsn: str, base: Base, options: argparse.Namespace, say: Say) -> dict[str, Any]:
    """Write the passages and build their indexes; return what it took."""
    await create_generation(owner, GENERATION)
    await activate(owner, GENERATION.name)
    await owner.execute("DROP INDEX vector_g1_nearest, lexical_g1_terms")
    await load(dsn, SCHEMA, base, options.passages, options.seed, say)
    report: dict[str, Any] = {"passages": await owner.fetchval("SELECT count(*) FROM chunk"), "base": base.source}
    say("building the index of vectors")
    report["dense"] = await indexed(owner, GENERATION)
    say(f"built in {report['dense']['build_s']} s; building the index of terms")
    started = time.monotonic()
    await owner.execute("CREATE INDEX lexical_g1_terms ON lexical_g1 USING gin (terms)")
    seconds = round(time.monotonic() - started, 1)
    report["lexical"] = {"build_s": seconds, **await _sizes(owner, "lexical_g1", "terms")}
    await owner.execute("VACUUM ANALYZE")
    return report


async def _measure(dsn: str, base: Base, options: argparse.Namespace, say: Say) -> dict[str, Any]:
    owner = await asyncpg.connect(dsn, server_settings={"search_path": f"{SCHEMA},public"}, command_timeout=7200)
    await prepare_connection(owner)
    known = options.folder / "built.json"
    if not known.exists():
        known.write_text(json.dumps(await _built(owner, dsn, base, options, say)))
    report: dict[str, Any] = json.loads(known.read_text())
    if options.build:
        return report
    settings = StoreSettings.model_validate(
        {"dsn": with_login(dsn, LOGIN, PASSWORD), "schema_name": SCHEMA, "pool_maximum": options.searchers + 2}
    )
    asked = questions(base, options.questions, options.seed)
    few = [one for tenant in MEASURED for one in [one for one in asked if one.tenant == tenant][:50]]
    async with opened_pool(settings) as pool:
        for tenant in TENANTS:
            await statistics.refresh(pool, tenant.name, GENERATION)
        say("searching")
        await latencies(pool, GENERATION, [(one.tenant, one.both) for one in asked], options.searchers)  # warms up
        report["hybrid_ms"] = await _by_tenant(pool, asked, options.searchers)
        report["dense"]["half_dense_ms"] = await latencies(
            pool, GENERATION, [(one.tenant, one.dense) for one in asked if one.tenant == "half"], options.searchers
        )
        report["other_ms"] = await _other_questions(pool, base, asked, options.searchers)
        report["dense"]["recall"] = await recall(pool, owner, GENERATION, few)
        say(json.dumps(report))
        report["under_changes_ms"] = await _under_changes(
            settings, options, lambda: _by_tenant(pool, asked, options.searchers)
        )
        for storage in options.storages:
            say(f"the same as {storage}")
            report[storage] = await _stored_as(owner, pool, storage, few, options.searchers)
            say(json.dumps(report[storage]))
    await owner.close()
    return report


async def _under_changes(
    settings: StoreSettings, options: argparse.Namespace, measure: Callable[[], Awaitable[dict[str, Any]]]
) -> dict[str, Any]:
    """Measure while another process writes changes into all tenants at a steady rate; add the rate that it reached."""
    writer = Process(target=change_for, args=(settings, GENERATION, options.changes, options.seed), daemon=True)
    writer.start()
    try:
        before = await _changed(settings)
        started = time.monotonic()
        figures = await measure()
        return {
            **figures,
            "changes_per_s": round((await _changed(settings) - before) / (time.monotonic() - started), 1),
        }
    finally:
        writer.terminate()
        writer.join()


async def _changed(settings: StoreSettings) -> int:
    async with opened_pool(settings) as pool:
        total = 0
        for tenant in TENANTS:
            async with tenant_transaction(pool, tenant.name, reader=EVERY_DOCUMENT, readonly=True) as connection:
                total += await connection.fetchval("SELECT coalesce(sum(version - 1), 0)::bigint FROM document")
    return total


def missed(report: dict[str, Any]) -> list[str]:
    """Return the goals that the figures miss."""
    found = [
        f"recall {value} ({tenant})" for tenant, value in report["dense"]["recall"].items() if value < GOALS["recall"]
    ]
    for tenant, figures in report["hybrid_ms"].items():
        if figures["p95"] > GOALS["p95_ms"]:
            found.append(f"p95 {figures['p95']} ms ({tenant})")
        busy = report["under_changes_ms"][tenant]["p95"]
        if busy > GOALS["under_changes"] * figures["p95"]:
            found.append(f"p95 {busy} ms under changes, {figures['p95']} alone ({tenant})")
    return found


def main(arguments: Sequence[str]) -> int:
    """Run it; return the exit code."""
    parser = argparse.ArgumentParser(prog="headrace-bench scale", description=__doc__)
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--base", type=int, default=6_000, help="real passages that are repeated with edits")
    parser.add_argument("--squad", type=Path, help="a file in the format of SQuAD with more of them")
    parser.add_argument("--questions", type=int, default=300, help="for each tenant")
    parser.add_argument("--searchers", type=int, default=8)
    parser.add_argument("--changes", type=float, default=50, help="a second")
    parser.add_argument("--storages", nargs="*", default=["halfvec", "binary"], choices=["halfvec", "binary"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path(".headrace/scale"))
    parser.add_argument("--build", action="store_true", help="only build the index")
    parser.add_argument("--keep", action="store_true", help="keep the index in the folder, for the next run")
    options = parser.parse_args(arguments)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    base = read_base(options.base, options.squad)
    say(f"{len(base.texts)} real passages from {base.source}")
    with server(options.folder, keep=options.keep) as dsn:
        migrate(dsn, SCHEMA)
        create_login(dsn, LOGIN, PASSWORD)
        report = asyncio.run(_measure(dsn, base, options, say))
    report["missed"] = [] if options.build else missed(report)
    print(json.dumps(report), flush=True)
    return 1 if report["missed"] else 0
