"""The parts of the reindex run: the command line, the searchers, and the digest of a generation."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import asyncpg
import httpx
import psycopg
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from headrace.config.settings import KafkaSettings
from headrace.store.generations import filled
from headrace.store.keys import create_api_key
from headrace.store.rows import Generation
from headrace.topology.stages import EMBEDDER
from headrace_testing.deployment import Place

_SEARCHERS = 2
_WORDS = (
    "수로", "방앗간", "물레방아", "저수지", "여수로", "갑문", "valve", "sluice", "millrace", "turbine", "weir",
)  # fmt: skip
_CLOSE = 0.999
_TABLES = {
    "document": "tenant, document_id, version, deleted, content_hash, title, source, media_type, "
    "CASE WHEN deleted THEN '{}' ELSE acl END, attributes, "
    "pipeline_id, pipeline_version, request_id, chunk_ids, starts, ends, language, pages",
    "chunk": "tenant, chunk_id, document_id, section, text, text_hash, tokens",
    "{embedding}": "tenant, chunk_id, vector_key",
    "{vectors}": "tenant, vector_key, embedding::text",
    "{lexical}": "tenant, chunk_id, lexical_key, terms, weights::text",
}
"""The columns of each table that follow from the log alone: neither times nor the order of writing.

The log does not say who could read a document that is deleted, so its row is closed after a rebuild (ADR 26)."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A document of one short text that never changes; the text finds it first in every generation."""

    document_id: str
    text: str

    def event(self) -> dict[str, Any]:
        """Return its change event."""
        return {"op": "upsert", "id": self.document_id, "version": 1, "title": "", "source": "",
                "content": self.text}  # fmt: skip


def probes(count: int, chance: random.Random) -> list[Probe]:
    """Return documents in Korean and English, each with words that no other has."""
    found = []
    for number in range(count):
        words = " ".join(chance.sample(_WORDS, 5))
        found.append(Probe(f"probes/{number}", f"{words} 표식{chance.randrange(10**9)} mark{chance.randrange(10**9)}"))
    return found


@dataclass(slots=True)
class CommandLine:
    """Runs ``headrace`` over the place, one command at a time, which another thread may kill."""

    place: Place
    logs: Path
    embedder_url: str
    _process: subprocess.Popen[str] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """Start a command."""
        place = self.place
        env = {
            **os.environ, "HEADRACE_KAFKA_TOPIC_PREFIX": place.prefix, "HEADRACE_STATE_DIR": str(self.logs / "none"),
            "HEADRACE_STORE_DSN": place.runtime_dsn(), "HEADRACE_STORE_SCHEMA_NAME": place.schema,
            "HEADRACE_BOOTSTRAP_POSTGRES_DSN": place.postgres, "HEADRACE_KAFKA_BOOTSTRAP": place.kafka,
            "HEADRACE_REGISTRY_URL": place.registry, "HEADRACE_JSON": "1",
            "HEADRACE_GATEWAY_EMBEDDER_URL": self.embedder_url,
        }  # fmt: skip
        with (self.logs / "commands.log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "headrace_cli.app", *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=log, text=True, env=env,
            )  # fmt: skip
        with self._lock:
            self._process = process
        return process

    def end(self) -> Any:
        """Wait for the command and return its JSON, or None if it was killed; raises :class:`AssertionError`."""
        process = self._process
        assert process is not None
        output, _ = process.communicate(timeout=600)
        with self._lock:
            self._process = None
        if process.returncode == -9:  # SIGKILL
            return None
        assert process.returncode == 0, f"exit code {process.returncode}: {self.complaint()}"
        return json.loads(output.splitlines()[-1])

    def run(self, *words: str) -> Any:
        """Run a command to its end, as :meth:`end` does."""
        self.begin(*words)
        return self.end()

    def kill(self) -> None:
        """Kill the command that runs, if any."""
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                self._process.kill()

    def complaint(self) -> str:
        """Return the end of what commands wrote to stderr."""
        return "\n".join((self.logs / "commands.log").read_text().splitlines()[-12:])

    def has_generation(self, name: str) -> bool:
        """Whether the store knows the generation."""
        with psycopg.connect(self.place.postgres, options=f"-c search_path={self.place.schema},public") as connection:
            found = connection.execute("SELECT FROM generation WHERE name = %s", [name]).fetchone()
        return found is not None


@dataclass(slots=True)
class Searchers:
    """Threads that search for the probes all the time, and note each search that fails, misses or mixes."""

    url: str
    key: str
    asked: Sequence[Probe]
    seed: int
    count: int = 0
    problems: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Self:
        for number in range(_SEARCHERS):
            thread = threading.Thread(target=self._search, args=(self.seed + number,), name=f"searcher {number}")
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _search(self, seed: int) -> None:
        chance = random.Random(seed)
        headers = {"Authorization": f"Bearer {self.key}"}
        with httpx.Client(base_url=self.url, headers=headers, timeout=30, trust_env=False) as http:
            while not self._stop.is_set():
                one, mode = chance.choice(self.asked), chance.choice(("vector", "hybrid"))
                # Spaces make a text that no cache knows, so that the embedder is asked, and change no word.
                text = one.text + " " * chance.randrange(1, 2000) if mode == "hybrid" else one.text
                try:
                    body = {"query": text, "mode": mode, "top_k": 3}
                    answer = http.post("/v1/search", json=body)
                    problem = _problem(answer, one, mode)
                except httpx.HTTPError as error:
                    problem = f"{mode}: {error!r}"
                with self._lock:
                    self.count += 1
                    if problem:
                        self.problems.append(problem)


def _problem(answer: httpx.Response, one: Probe, mode: str) -> str:
    """Return what is wrong with an answer; empty if nothing is."""
    if answer.status_code != httpx.codes.OK:
        return f"{mode}: HTTP {answer.status_code} {answer.text[:300]}"
    hits = answer.json()["hits"]
    if not hits or hits[0]["document_id"] != one.document_id:
        return f"{mode}: {one.document_id} is not first of {[hit['document_id'] for hit in hits]}"
    if mode == "vector" and hits[0]["score"] < _CLOSE:
        return f"{mode}: {one.document_id} scores {hits[0]['score']} by its own text, so another model embedded it"
    return ""


def new_key(place: Place, tenant: str) -> str:
    """Create an API key of the tenant."""

    async def made() -> str:
        settings = {"search_path": f'"{place.schema}", public'}
        connection = await asyncpg.connect(place.postgres, server_settings=settings)
        try:
            return await create_api_key(connection, tenant, "reindex")
        finally:
            await connection.close()

    return asyncio.run(made())


def digest(place: Place, generation: Generation) -> str:
    """Return a digest of everything in the generation that follows from the log."""
    parts = []
    with psycopg.connect(place.postgres, options=f"-c search_path={place.schema},public") as connection:
        for table, columns in _TABLES.items():
            query = (
                f"SELECT md5(coalesce(string_agg(r, E'\\n' ORDER BY r COLLATE \"C\"), '')) FROM "
                f"(SELECT ROW({columns})::text AS r FROM {table}) AS rows"
            )
            row = connection.execute(filled(query, generation).encode()).fetchone()
            assert row is not None
            parts.append(str(row[0])[:12])
    return " ".join(parts)


def empty_index(place: Place, generations: Sequence[str]) -> None:
    """Delete every document, chunk and vector, also the cached ones; the generations stay."""
    tables = ["document", "chunk", "vector_cache", "search_statistics", "term_frequency"]
    tables += [f"{kind}_{name}" for name in generations for kind in ("embedding", "vector", "lexical")]
    with psycopg.connect(place.postgres, options=f"-c search_path={place.schema},public") as connection:
        connection.execute(f"TRUNCATE {', '.join(tables)}".encode())


def rewind_embedder(kafka: KafkaSettings, timeout: float = 60.0) -> None:
    """Let the generation's embedder read the compacted topic ``chunks`` from its beginning.

    Workers that were killed are members until their session ends, so it waits for that; raises
    :class:`AssertionError`.
    """
    admin = AdminClient(kafka.client())
    topic, group = kafka.topic(EMBEDDER.source), kafka.group(EMBEDDER.name)
    numbers = admin.list_topics(topic, 30).topics[topic].partitions
    deadline = time.monotonic() + timeout
    while True:
        places = [TopicPartition(topic, number, 0) for number in numbers]
        altered = admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, places)])
        try:
            problems = [place.error for place in altered[group].result(30).topic_partitions if place.error is not None]
        except KafkaException as error:
            problems = [error.args[0]]
        if not problems:
            return
        assert time.monotonic() < deadline, f"the offsets of {group} cannot be set: {problems[0]}"
        time.sleep(0.5)
