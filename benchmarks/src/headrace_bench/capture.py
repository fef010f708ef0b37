"""The capture benchmark: a table changes while Kafka Connect and the stages are killed; then checks the store.

``headrace-bench capture --changes 5000 --kills 20 --seed N``. It uses real PostgreSQL, Kafka Connect and Debezium, the
four stages and the hashing provider. Transactions insert rows, change texts, counters and keys, and delete; some stay
open while others commit. Half-way, the capture stops, drops its slot and restarts after a while. All rows are then read
again, and rows deleted in the meantime are reconciled at the end. Then the store must equal the table (D), no document
may have gone back to an older row on the way (V), and there must be no dead letter. The last line is one JSON object
with the figures; the exit code is 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import sql

from headrace.config.captured_tables import Table
from headrace.payloads import IndexedDocument
from headrace_local import parts, shared
from headrace_local.loopback import free_port
from headrace_operations.capture.connector import FAILED, Connect, configuration, slot_of
from headrace_operations.capture.database import drop_slot
from headrace_operations.capture.reconcile import documents_of, reconcile
from headrace_testing.committed import read_all
from headrace_testing.deployment import Deployment, Place, Service
from headrace_testing.faults.schedules import evenly
from headrace_testing.fold import Expected, Key, Store, compare, read_store
from headrace_testing.oracle import expected
from headrace_testing.stream import DOCUMENT_STAGES, dead_letters

TENANT = "acme"
TABLE = "article"
MAPPED = Table.model_validate(
    {"tenant": TENANT, "id": "article/{id}", "title": "{title}", "text": "{body}", "attributes": {"author": "{author}"}}
)
CONNECT = "connect"
MAPPING = """\
tables:
  {schema}.article:
    tenant: acme
    id: "article/{{id}}"
    title: "{{title}}"
    text: "{{body}}"
    attributes: {{author: "{{author}}"}}
"""
_CREATE = """
CREATE TABLE article (id bigint PRIMARY KEY, title text, body text, author text, views int NOT NULL DEFAULT 0);
ALTER TABLE article REPLICA IDENTITY FULL
"""
_WORDS = ("river", "dam", "gate", "sluice", "flow", "pond", "mill", "race", "head", "water", "level", "weir", "spill")
_START_S = 90.0
_LARGE = 800
_OPEN_AT_MOST = 12


@dataclass(slots=True)
class ConnectProcess:
    """Kafka Connect as a process of the test, restarted by hand."""

    folder: Path
    place: Place
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def client(self) -> Connect:
        """Its REST API."""
        return Connect(f"http://127.0.0.1:{self.port}")

    def start(self) -> None:
        """Start it without waiting."""
        command = parts.connect(
            self.folder / CONNECT, self.port, self.place.kafka, lambda _: None, prefix=self.place.prefix
        )
        with (self.folder / "connect.log").open("ab") as output:
            self.process = subprocess.Popen(
                command.argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                env={**os.environ, **command.env},
            )  # fmt: skip

    def wait_ready(self) -> None:
        """Wait until it is ready."""
        deadline = time.monotonic() + _START_S
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/connectors", timeout=10).close()
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@dataclass(slots=True)
class Writer:
    """Changes the table at random; ``done`` counts the changed rows."""

    dsn: str
    chance: random.Random
    rows: dict[int, bool] = field(default_factory=dict)
    """Existing keys, and whether an open transaction uses them."""
    next_key: int = 1
    done: int = 0

    def run(self, changes: int, seconds: float) -> Iterator[int]:
        """Yield after each transaction, spread over the given seconds."""
        begun = time.monotonic()
        with psycopg.connect(self.dsn) as short, psycopg.connect(self.dsn) as long:
            held: list[int] = []
            since = 0
            while self.done < changes:
                if held or self.chance.random() < 0.1:
                    held += self._transaction(long)
                    since += 1
                self._free(self._transaction(short))
                short.commit()
                if held and since > self.chance.randrange(1, _OPEN_AT_MOST):
                    long.commit()
                    self._free(held)
                    held, since = [], 0
                yield self.done
                time.sleep(max(0.0, begun + seconds * self.done / changes - time.monotonic()))

    def _free(self, keys: list[int]) -> None:
        for key in keys:
            if key in self.rows:
                self.rows[key] = False

    def _transaction(self, connection: psycopg.Connection[Any]) -> list[int]:
        """Change one to four rows that no other transaction uses; return their keys."""
        touched: list[int] = []
        for _ in range(self.chance.randrange(1, 5)):
            free = [key for key, taken in self.rows.items() if not taken or key in touched]
            if len(free) < 5 or self.chance.random() < 0.25:
                touched.append(self._insert(connection))
            else:
                touched.append(self._change(connection, self.chance.choice(free)))
            self.rows |= dict.fromkeys((key for key in touched if key in self.rows), True)
            self.done += 1
        return touched

    def _insert(self, connection: psycopg.Connection[Any]) -> int:
        key, self.next_key = self.next_key, self.next_key + 1
        values = (key, self._text(4), self._text(self._length()), self._text(1))
        connection.execute("INSERT INTO article (id, title, body, author) VALUES (%s, %s, %s, %s)", values)
        self.rows[key] = True
        return key

    def _change(self, connection: psycopg.Connection[Any], key: int) -> int:
        kind = self.chance.choices(("body", "views", "key", "delete", "title"), (4, 3, 1, 1, 1))[0]
        if kind == "delete":
            connection.execute("DELETE FROM article WHERE id = %s", (key,))
            del self.rows[key]
        elif kind == "key":
            new, self.next_key = self.next_key, self.next_key + 1
            connection.execute("UPDATE article SET id = %s WHERE id = %s", (new, key))
            del self.rows[key]
            self.rows[new] = True
            return new
        elif kind == "views":
            connection.execute("UPDATE article SET views = views + 1 WHERE id = %s", (key,))
        else:
            text = self._text(self._length() if kind == "body" else 4)
            statement = sql.SQL("UPDATE article SET {} = %s WHERE id = %s").format(sql.Identifier(kind))
            connection.execute(statement, (text, key))
        return key

    def _length(self) -> int:
        """Return a number of words for a text; a tenth are so large that PostgreSQL stores them outside the row."""
        return (
            self.chance.randrange(_LARGE, 4 * _LARGE) if self.chance.random() < 0.1 else self.chance.randrange(5, 150)
        )

    def _text(self, words: int) -> str:
        return " ".join(f"{self.chance.choice(_WORDS)}{self.chance.randrange(1000)}" for _ in range(words))


@dataclass(slots=True)
class Capture:
    """A deployment with a captured table in its own schema."""

    deployment: Deployment
    connect: ConnectProcess
    source: str
    """The schema of the table, and the name of the capture."""

    @property
    def dsn(self) -> str:
        """The source database, with the schema first on the search path."""
        return f"{self.deployment.place.postgres}?options=-csearch_path%3D{self.source}"

    @property
    def file(self) -> Path:
        """The file that maps the table's rows to documents."""
        return self.deployment.logs / "tables.yaml"

    def service(self, name: str) -> Service:
        """Return the running process."""
        return next(service for service in self.deployment.services if service.name == name)

    def begin(self) -> None:
        """Create the table, and start everything."""
        with psycopg.connect(self.deployment.place.postgres) as connection:
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(self.source)))
            connection.execute(sql.SQL("SET search_path = {}").format(sql.Identifier(self.source)))
            connection.execute(_CREATE)
        self.file.write_text(MAPPING.format(schema=self.source))
        self.deployment.env = {**self.deployment.env, "HEADRACE_INGEST_TABLES": str(self.file)}
        self.connect.start()
        self.deployment.bootstrap()
        self.deployment.start_all(*(flow.name for flow in DOCUMENT_STAGES))
        self.connect.wait_ready()

    def configure(self) -> None:
        """Start the connector."""
        place = self.deployment.place
        config = configuration(
            self.source, place.postgres, {f"{self.source}.{TABLE}": MAPPED}, place.kafka_settings().topic("changes")
        )
        self.connect.client.put(self.source, config)

    def pause(self) -> None:
        """Stop the capture and drop its slot, so that nothing is captured until it is configured again."""
        self.connect.wait_ready()
        self.connect.client.delete(self.source)
        slot = slot_of(self.source)
        asyncio.run(drop_slot(self.deployment.place.postgres, slot, slot))

    def reconcile(self) -> int:
        """Delete documents whose rows no longer exist; return the count."""
        place = self.deployment.place
        done = asyncio.run(
            reconcile(
                place.kafka_settings(), place.codec(), place.postgres, self.source, f"{self.source}.{TABLE}", MAPPED,
                dry_run=False,
            )
        )  # fmt: skip
        assert not done.left
        return len(done.gone)

    def kill(self, target: str) -> None:
        """Kill the process and restart it without waiting."""
        if target == CONNECT:
            self.connect.kill()
            self.connect.start()
            return
        victim = self.service(target)
        victim.kill()
        self.deployment.services.remove(victim)
        self.deployment.start(target, victim.slot, wait=False)

    def close(self) -> None:
        """Stop everything and clean up the source database."""
        self.connect.kill()
        self.deployment.close()
        dsn, slot = self.deployment.place.postgres, slot_of(self.source)
        asyncio.run(drop_slot(dsn, slot, slot))
        with psycopg.connect(dsn) as connection:
            connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(self.source)))


@contextmanager
def capturing(state_dir: Path, *, start: bool = True) -> Iterator[Capture]:
    """Yield a table, services and Kafka Connect, which captures it with ``start``; remove everything at the end."""
    endpoints = shared.acquire(state_dir)
    name = f"capture{uuid4().hex[:8]}"
    folder = Path(tempfile.mkdtemp(prefix="headrace-capture-"))
    place = Place(endpoints.kafka_bootstrap, endpoints.registry_url, endpoints.postgres_dsn, f"{name}-", name)
    capture = Capture(Deployment(place, folder), ConnectProcess(folder, place), f"src_{name}")
    try:
        capture.begin()
        if start:
            capture.configure()
            status = capture.connect.client.wait_running(capture.source, _START_S)
            assert status.state != FAILED, status.reason
        yield capture
    finally:
        capture.close()
        shared.release(state_dir)


def table_of(capture: Capture, store: Store) -> dict[Key, Expected]:
    """Return the expected store for the table's rows; versions are the store's own, because the log gives them."""
    with psycopg.connect(capture.dsn) as connection:
        rows = connection.execute("SELECT id, title, body, author FROM article").fetchall()
    version = {key: document.version for key, document in store.documents.items()}
    source = f"{capture.source}.{capture.source}.{TABLE}"
    wanted: dict[Key, Expected] = {
        key: Expected(version[key], True, b"") for key, document in store.documents.items() if document.deleted
    }
    for number, title, body, author in rows:
        key = (TENANT, f"article/{number}")
        change: Mapping[str, Any] = {
            "op": "upsert", "id": key[1], "version": version.get(key, -1), "title": title, "content": body,
            "source": source, "attributes": {} if author is None else {"author": author},
        }  # fmt: skip
        wanted[key] = expected(TENANT, change)
    return wanted


def differences(capture: Capture, timeout: float) -> list[str]:
    """Return the remaining differences from the table, or an empty list as soon as there are none."""
    place = capture.deployment.place
    deadline = time.monotonic() + timeout
    while True:
        store = read_store(place.postgres, schema=place.schema)
        problems = compare(table_of(capture, store), store)
        if not problems or time.monotonic() > deadline:
            return problems
        say(f"{len(problems)} differences or more, first: {problems[0][:200]}")
        time.sleep(2)


def steps_back(place: Place) -> list[str]:
    """V: return the documents whose indexed versions do not increase."""
    codec, found = place.codec(), dict[str, list[int]]()
    for message in read_all(place.kafka, place.kafka_settings().topic("indexed")):
        change = codec.decode(message.value() or b"", IndexedDocument).change
        found.setdefault(change.document_id, []).append(change.version)
    return [
        f"V {document}: {later} after {earlier}"
        for document, versions in found.items()
        for earlier, later in pairwise(versions)
        if later <= earlier
    ][:20]


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures, including ``problems``."""
    chance = random.Random(options.seed)
    targets = evenly(chance, options.kills, [CONNECT, *(flow.name for flow in DOCUMENT_STAGES)])
    due = sorted(chance.randrange(options.changes) for _ in targets)
    killed: dict[str, int] = {}
    never, half = 2 * options.changes, options.changes // 2
    pause, resume = (half, half + options.changes // 20) if options.pause else (never, never)
    with capturing(options.state_dir) as capture:
        writer = Writer(capture.dsn, random.Random(chance.random()))
        begun = time.monotonic()
        for done in writer.run(options.changes, options.seconds):
            if done > pause:
                pause = never
                say(f"{done} changes: the capture ends")
                capture.pause()
            if done > resume:
                resume = never
                capture.connect.wait_ready()
                capture.configure()
                say(f"{done} changes: the capture restarts")
            while due and done >= due[0]:
                due.pop(0)
                target = targets.pop(0)
                say(f"{done} changes: kill {target}")
                capture.kill(target)
                killed[target] = killed.get(target, 0) + 1
        wrote = time.monotonic() - begun
        reconciled = _reconciled(capture, options.timeout) if options.pause else 0
        problems = [f"D {line}" for line in differences(capture, options.timeout)]
        elapsed = time.monotonic() - begun
        place = capture.deployment.place
        problems += steps_back(place)
        letters = dead_letters(place.kafka_settings())
        problems += [f"{letters} records and markers in the dead-letter topics"] if letters else []
        return {
            "changes": writer.done, "rows": len(writer.rows), "killed": killed, "reconciled": reconciled,
            "wrote_s": round(wrote, 1),
            "seconds": round(elapsed, 1), "logs": str(capture.deployment.logs), "problems": problems,
        }  # fmt: skip


def _reconciled(capture: Capture, timeout: float) -> int:
    """Wait until the log has a document for every row, then reconcile; return the number of deleted documents."""
    place, source = capture.deployment.place, f"{capture.source}.{capture.source}.{TABLE}"
    deadline = time.monotonic() + timeout
    while True:
        with psycopg.connect(capture.dsn) as connection:
            rows = {(TENANT, f"article/{row[0]}") for row in connection.execute("SELECT id FROM article")}
        known = documents_of(place.kafka_settings(), place.codec(), source).keys()
        if rows <= known:
            return capture.reconcile()
        if time.monotonic() > deadline:
            raise AssertionError(f"{len(rows - known)} rows have no document after {timeout:.0f} s")
        time.sleep(1)


def say(line: str) -> None:
    """Print the progress."""
    print(line, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the capture from the command line."""
    parser = argparse.ArgumentParser(prog="headrace-bench capture", description=__doc__)
    parser.add_argument("--changes", type=int, default=5000, help="number of changed rows")
    parser.add_argument(
        "--kills", type=int, default=20, help="number of SIGKILLs, spread evenly over Kafka Connect and the stages"
    )
    parser.add_argument(
        "--no-pause", dest="pause", action="store_false", help="do not stop and restart the capture half-way"
    )
    parser.add_argument("--seconds", type=float, default=120.0, help="seconds over which to spread the changes")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds to finish after the last change")
    parser.add_argument(
        "--state-dir", type=Path, default=Path(".headrace/capture"), help="state folder of the local stack"
    )
    parser.add_argument(
        "--seed", type=int, default=random.SystemRandom().randrange(2**32), help="seed of all random choices"
    )
    options = parser.parse_args(arguments)
    figures = run(options)
    print(json.dumps({"name": "capture", "seed": options.seed, "ok": not figures["problems"], **figures}))
    return 1 if figures["problems"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
