"""For each reader what he may read: random searches of many readers over mixed ACLs, through the real services.

``headrace-bench access --searches 10000 --readers 50``. Changes with ACLs pass the stages; then readers ask every route
of the gateway at once, some give up, and PostgreSQL cancels queries of the gateway. Between rounds, ACLs change. Every
answer is compared with a plain model: no document that the reader may not read, and the exact best passages of those
that he may. The last line is one JSON object; the exit code is 1 if anything differed. ``--mutant`` breaks the product
on purpose, and must lead to the exit code 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import httpx

from headrace.access.readers import EVERY_DOCUMENT
from headrace.retrieval.mode import Mode
from headrace.retrieval.query_vectors import EmbedderAccess, EmbedderClient
from headrace.retrieval.questions import Questions, SearchSettings
from headrace.store import statistics
from headrace.store.generations import get_generation
from headrace.store.keys import create_api_key
from headrace.store.pool import StoreSettings, create_pool, prepare_connection
from headrace.store.rows import Generation
from headrace.store.search import Question
from headrace.topology.stages import DOCUMENT_STAGES, GENERATOR
from headrace_bench.stages import deployment, wait_for_model
from headrace_testing.access import ranking
from headrace_testing.access.routes import Answered, Play
from headrace_testing.access.world import World, acl, change, query, world
from headrace_testing.deployment import LOGIN, Deployment

if TYPE_CHECKING:
    from headrace.store.pool import Pool

TENANT = "acme"
_BATCH = 200
_ARRIVAL_S = 300.0
_QUIET_S = 3.0
_CHANGED = 0.1
"""Share of the documents whose ACL changes between two rounds."""
_QUESTIONS = 12
_LETTERS = 20
_OPEN = "ALTER POLICY readable ON {table} USING (tenant = current_tenant())"
_TABLES = ("document", "chunk", "artifact")
_CANCEL = (
    "SELECT count(pg_cancel_backend(pid)) FROM (SELECT pid FROM pg_stat_activity "
    "WHERE usename = $1 AND state = 'active' AND query LIKE '%may_read%' ORDER BY random() LIMIT 2) AS running"
)


@dataclass(frozen=True, slots=True)
class Mutant:
    """A product with one promise broken: SQL for the owner, and Python for the gateway's process."""

    sql: Sequence[str] = ()
    code: str = ""


_FORGET = """
from headrace.store import queries, {module}
load = queries.load
def forgetful(file):
    condition = "{condition}" if file == "{file}" else "no such text"
    return {{name: text.replace(condition, "") for name, text in load(file).items()}}
{module}.load = forgetful
"""
_ANYBODY = """
from headrace.store import transactions
transactions._SEE = transactions._SEE.replace("$2, true", "'{*}' || left($2, 0), true")
"""
_POLICIES = tuple(_OPEN.replace("{table}", table) for table in _TABLES)
MUTANTS = {
    "legs": Mutant(_POLICIES, _FORGET.format(module="search", file="legs", condition="AND may_read(d.acl)")),
    "documents": Mutant(_POLICIES, _FORGET.format(module="documents", file="documents", condition="AND may_read(acl)")),
    "artifacts": Mutant(
        _POLICIES, _FORGET.format(module="artifacts", file="artifacts", condition="AND may_read_artifact(a)")
    ),
    "anybody": Mutant(code=_ANYBODY),
}
"""What ``--mutant`` takes."""


@dataclass(slots=True)
class Stage:
    """The running services, with what the bench knows about their contents."""

    place: Deployment
    owner: asyncpg.Connection[Any]
    pool: Pool
    http: httpx.AsyncClient
    operator: str
    play: Play
    generation: Generation

    @property
    def world(self) -> World:
        """Readers and documents."""
        return self.play.world

    async def send(self, changes: Sequence[dict[str, Any]]) -> None:
        """Post changes."""
        for first in range(0, len(changes), _BATCH):
            answer = await self.http.post(
                "/v1/changes", json={"changes": changes[first : first + _BATCH]}, headers=_bearer(self.operator)
            )
            answer.raise_for_status()

    async def index(self, names: Sequence[str]) -> float:
        """Send these documents as they should be, wait until search shows them; return the seconds."""
        started = time.perf_counter()
        await self.send([change(name, self.world.documents[name]) for name in names])
        left = list(names)

        async def arrived() -> bool:
            while left:
                part = [{"id": name, "version": self.world.documents[name].version} for name in left[:500]]
                answer = await self.http.post(
                    "/v1/documents:lookup", json={"documents": part}, headers=_bearer(self.operator)
                )
                answer.raise_for_status()
                if not all(one["indexed"] for one in answer.json()["documents"]):
                    return False
                del left[:500]
            return True

        await _until(arrived, f"{len(left)} documents are not indexed")
        return time.perf_counter() - started


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Return the counts, and what differed from the model."""
    mutant = MUTANTS[options.mutant] if options.mutant else Mutant()
    with deployment(options.state_dir, "hashing") as place:
        environment = {}
        if mutant.code:
            (place.logs / "sitecustomize.py").write_text(mutant.code, encoding="utf-8")
            environment = {"PYTHONPATH": str(place.logs)}
        place.start_all(*(flow.name for flow in DOCUMENT_STAGES), GENERATOR.name)
        wait_for_model(place)
        place.start("gateway", env=environment)
        return asyncio.run(_played(place, options, mutant))


async def _played(place: Deployment, options: argparse.Namespace, mutant: Mutant) -> dict[str, Any]:
    chance = Random(options.seed)
    async with _opened(place, options, chance) as stage:
        seconds = await stage.index(sorted(stage.world.documents))
        print(f"{len(stage.world.documents)} documents indexed in {seconds:.0f} s", file=sys.stderr)
        await _dead_letters(stage, chance)
        await _settled(stage)
        for statement in mutant.sql:
            await stage.owner.execute(statement)
        stage.play.passages = await ranking.read_passages(stage.owner, TENANT, stage.generation)
        changed = []
        for number in range(options.rounds):
            await _asked(stage, chance)
            await _round(stage, options, (number + 1) * options.searches // options.rounds)
            changed.append(round(await _change_acls(stage, chance), 2))
            print(f"round {number + 1}: {dict(stage.play.done)}, {stage.play.problems[:3]}", file=sys.stderr)
        await _walls(stage)
        return {
            "name": "access", "ok": not stage.play.problems, "mutant": options.mutant, "seed": options.seed,
            "readers": options.readers, "documents": len(stage.world.documents),
            "passages": len(stage.play.passages.texts), "counts": dict(sorted(stage.play.done.items())),
            "acl_changes_s": changed, "problems": stage.play.problems,
        }  # fmt: skip


@asynccontextmanager
async def _opened(place: Deployment, options: argparse.Namespace, chance: Random) -> AsyncIterator[Stage]:
    schema = place.place.schema
    owner = await asyncpg.connect(place.place.postgres, server_settings={"search_path": f"{schema},public"})
    await prepare_connection(owner)
    generation = await get_generation(owner, "g1")
    assert generation is not None
    drawn = world(chance, readers=options.readers, documents=options.documents)
    bound = [await create_api_key(owner, TENANT, "bound", reader) for reader in drawn.readers]
    acting = await create_api_key(owner, TENANT, "acting", None)
    operator = await create_api_key(owner, TENANT, "operator", EVERY_DOCUMENT)
    access = EmbedderAccess(f"http://127.0.0.1:{place.embedder_port}", None, 30.0, "HEADRACE_GATEWAY_EMBEDDER_")
    embedder = EmbedderClient(access)
    questions = Questions(embedder, SearchSettings())

    async def ask(text: str, mode: Mode) -> Question:
        return await questions.ask(generation, TENANT, text, mode)

    pool = await create_pool(StoreSettings.model_validate({"dsn": place.place.runtime_dsn(), "schema_name": schema}))
    gateway = next(service for service in place.services if service.name == "gateway")
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.port}", timeout=60) as http:
        passages = ranking.Passages([], [], [], [], ranking.NO_VECTORS, [], 0, 0.0, {})
        play = Play(http, drawn, passages, ask, bound, acting, chance)
        try:
            yield Stage(place, owner, pool, http, operator, play, generation)
        finally:
            await embedder.close()
            await pool.close()
            await owner.close()


async def _dead_letters(stage: Stage, chance: Random) -> None:
    """Send files that cannot be opened, with ACLs, and wait until the gateway knows their dead letters."""
    letters = {f"broken/{number}.pdf": acl(chance, stage.world.readers) for number in range(_LETTERS)}
    broken = [
        {"op": "upsert", "id": name, "version": 1, "content_base64": "JVBERi0xLjQK", "acl": list(known)}
        for name, known in letters.items()
    ]
    await stage.send(broken)

    async def arrived() -> bool:
        body = {"documents": [{"id": name} for name in letters]}
        answer = await stage.http.post("/v1/documents:lookup", json=body, headers=_bearer(stage.operator))
        return all(one["dead_letter"] is not None for one in answer.json()["documents"])

    await _until(arrived, "the broken files are no dead letters")
    stage.play.letters = letters


async def _settled(stage: Stage) -> None:
    """Estimate the frequencies of terms, and wait until no indexer does it any more: they are part of the scores."""
    await statistics.refresh(stage.pool, TENANT, stage.generation)
    while True:
        before = await stage.owner.fetchval("SELECT max(refreshed_at) FROM search_statistics")
        await asyncio.sleep(_QUIET_S)
        if before == await stage.owner.fetchval("SELECT max(refreshed_at) FROM search_statistics"):
            return


async def _asked(stage: Stage, chance: Random) -> None:
    """Have some readers ask a question; the answers may be made only from what they may read."""
    positions = chance.sample(range(len(stage.world.readers)), min(_QUESTIONS, len(stage.world.readers)))

    async def ask(position: int) -> None:
        reader = stage.world.readers[position]
        body = {"question": query(chance), "wait_s": 60}
        answer = await stage.http.post("/v1/ask", json=body, headers=_bearer(stage.play.bound[position]), timeout=90)
        answer.raise_for_status()
        identifier = UUID(answer.json()["id"])
        sources = await _sources(stage, identifier)
        cited = {one["document_id"] for one in answer.json()["citations"]}
        if extra := (sources | cited) - stage.world.readable(reader):
            stage.play.problems.append(f"{reader.names}: an answer is made from {sorted(extra)}")
        stage.play.done["answers"] += 1
        stage.play.artifacts[identifier] = Answered(reader, frozenset(sources))

    for position in positions:
        await ask(position)


async def _sources(stage: Stage, identifier: UUID) -> set[str]:
    return set(await stage.owner.fetchval("SELECT sources FROM artifact WHERE artifact_id = $1", identifier))


async def _round(stage: Stage, options: argparse.Namespace, searches: int) -> None:
    """Ask until so many searches were compared, while PostgreSQL cancels queries of the gateway."""
    cancelling = asyncio.create_task(_cancel_queries(stage))
    try:
        while stage.play.done["searches"] < searches and not stage.play.problems:
            await stage.play.run(200, at_once=options.at_once, cancel=options.cancel)
    finally:
        cancelling.cancel()
        await asyncio.gather(cancelling, return_exceptions=True)


async def _cancel_queries(stage: Stage) -> None:
    schema = stage.place.place.schema
    own = await asyncpg.connect(stage.place.place.postgres, server_settings={"search_path": f"{schema},public"})
    try:
        while True:
            stage.play.done["cancelled by PostgreSQL"] += await own.fetchval(_CANCEL, LOGIN)
            await asyncio.sleep(0.05)
    finally:
        await own.close()


async def _change_acls(stage: Stage, chance: Random) -> float:
    """Change some ACLs and nothing else; return the seconds until all take effect."""
    documents = stage.world.documents
    names = chance.sample(sorted(documents), max(1, int(len(documents) * _CHANGED)))
    for name in names:
        known = documents[name]
        documents[name] = replace(known, acl=acl(chance, stage.world.readers), version=known.version + 1)
    return await stage.index(names)


async def _walls(stage: Stage) -> None:
    """Ask with the services' login, without naming a reader and without a condition: the policies alone answer."""
    public = {name for name, known in stage.world.documents.items() if not known.acl}
    async with stage.pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT set_config('headrace.tenant', $1, true)", TENANT)
        for table in ("document", "chunk"):
            found = {row["document_id"] for row in await connection.fetch(f"SELECT document_id FROM {table}")}
            if found != public:
                stage.play.problems.append(f"the policies of {table} show {len(found - public)} documents too many")


async def _until(done: Callable[[], Awaitable[bool]], otherwise: str) -> None:
    deadline = time.monotonic() + _ARRIVAL_S
    while not await done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{otherwise} after {_ARRIVAL_S:.0f} s")
        await asyncio.sleep(0.1)


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def main(arguments: list[str] | None = None) -> int:
    """Ask from the command line."""
    parser = argparse.ArgumentParser(prog="headrace-bench access", description=__doc__)
    parser.add_argument("--searches", type=int, default=10_000, help="searches that are compared")
    parser.add_argument("--readers", type=int, default=50, help="readers")
    parser.add_argument(
        "--documents", type=int, default=1_650, help="documents; half of the readers may then read more than 500"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds; ACLs change after each")
    parser.add_argument("--at-once", type=int, default=12, help="requests at a time")
    parser.add_argument("--cancel", type=float, default=0.1, help="share of the requests that are given up")
    parser.add_argument("--seed", type=int, default=1, help="seed of all draws")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), help="what to break on purpose")
    parser.add_argument(
        "--state-dir", type=Path, default=Path(".headrace/bench"), help="state folder of the local stack"
    )
    options = parser.parse_args(arguments)
    figures = run(options)
    print(json.dumps(figures, ensure_ascii=False))
    return 0 if figures["ok"] else 1
