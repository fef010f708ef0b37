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
import json
import random
import sys
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg

from headrace.payloads import IndexedDocument
from headrace.topology.stages import DOCUMENT_STAGES
from headrace_bench.capture_deployment import CONNECT, TABLE, TENANT, Capture, capturing
from headrace_bench.capture_writer import Writer
from headrace_operations.capture.reconcile import documents_of
from headrace_testing.committed import read_all
from headrace_testing.deployment import Place
from headrace_testing.faults.schedules import evenly
from headrace_testing.fold import Expected, Key, Store, compare, read_store
from headrace_testing.oracle import expected
from headrace_testing.stream import dead_letters


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
    for record in read_all(place.kafka, place.kafka_settings().topic("indexed")):
        change = codec.decode(record.value or b"", IndexedDocument).change
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
