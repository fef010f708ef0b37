"""Personal data goes no further than ingest: no topic, table, log, dead letter or stored object behind it holds any."""

from __future__ import annotations

import random
import time
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from headrace.codec.codec import ENVELOPES, Codec
from headrace.objects.places import parse
from headrace.payloads import ChunkedDocument, EmbeddedDocument, SourceDocument
from headrace.topology import topics
from headrace.topology.stages import DOCUMENT_STAGES, INGEST
from headrace.topology.topics import dead_letter_topic, held_topic, replay_topic, retry_topic
from headrace_testing.committed import dead_letters_of, read_all
from headrace_testing.deployment import Deployment, Place
from headrace_testing.faults.checkers import secrets
from headrace_testing.fold import fold, read_store
from headrace_testing.oracle import versions
from headrace_testing.stream import TENANT, publish, wait_until_stored

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

SECRETS = 2000
LIMIT_BYTES = 64 * 1024
"""A larger payload goes to the object store: less than by default, since each secret is looked for in every byte."""
STORED = {ENVELOPES[kind]: kind for kind in (SourceDocument, ChunkedDocument, EmbeddedDocument)}
"""What the large document comes to in the object store."""
RAW = {INGEST.source, *(lane(INGEST.name) for lane in (retry_topic, replay_topic, held_topic, dead_letter_topic))}
"""What upstream sent, as it was sent: ingest's own topics."""


def planted(chance: random.Random) -> list[str]:
    """Secrets of every kind, each another one."""
    made: set[str] = set()
    while len(made) < SECRETS:
        digits = "".join(chance.choice("0123456789") for _ in range(16))
        birth = f"{chance.randint(40, 99)}{chance.randint(1, 12):02}{chance.randint(1, 28):02}"
        letter, century = chance.choice("ABCDEFGH"), chance.choice("1256")
        street = f"서울특별시 강남구 테헤란로 {digits[:3].lstrip('0')}1, {digits[3:6]}호"
        made.add(
            chance.choice([
                f"user{digits[:9]}@example{digits[9:11]}.com", f"010-{digits[:4]}-{digits[4:8]}",
                f"{birth}-{century}{digits[:6]}", f"M{digits[:3]}{letter}{digits[3:7]}", luhn(f"4{digits[:14]}"),
                street,
            ])
        )  # fmt: skip
    return sorted(made)


def luhn(digits: str) -> str:
    """The digits with their check digit."""
    doubled = [int(one) * (2 - place % 2) for place, one in enumerate(reversed(digits))]
    return digits + str(-sum(one - 9 * (one > 9) for one in doubled) % 10)


@pytest.fixture
def objects(deployment: Deployment, tmp_path: Path) -> Path:
    """The folder of the deployment's object store."""
    folder = tmp_path / "objects"
    folder.mkdir()
    deployment.env = {"HEADRACE_OBJECTS_URL": f"file://{folder}", "HEADRACE_OBJECTS_LIMIT_BYTES": str(LIMIT_BYTES)}
    deployment.bootstrap()
    return folder


def documents(secret: list[str]) -> list[dict[str, object]]:
    """Ten secrets a document, in title, text and attributes; the first is too large for a record of any stage."""
    found = []
    for number in range(0, len(secret), 10):
        own = secret[number : number + 10]
        text = "\n\n".join(
            f"## Part {place}\n\nThis part names {one} and goes on.{'' if number else filler(place)}"
            for place, one in enumerate(own[2:])
        )
        found.append(
            {"id": f"d{number}", "op": "upsert", "version": 1, "title": f"About {own[0]} today", "content": text,
             "source": None, "attributes": {"contact": own[1]}}
        )  # fmt: skip
    return found


def filler(place: int) -> str:
    """An eighth of what makes a document large, and no two alike."""
    return "".join(
        f"\n\nMill {place} has wheel {number}, which turns by day." for number in range(LIMIT_BYTES // 8 // 40)
    )


def in_store(folder: Path, codec: Codec) -> list[tuple[str, bytes]]:
    """Every file of the object store, as it lies there, and of each object besides what a reader decodes."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            found.append((f"file {path.name}", data))
            if parse(path.relative_to(folder).as_posix()) is not None:
                name = codec.schema_name(data)
                found.append((name, repr(codec.decode_payload(data, STORED[name])).encode()))
    return found


def places(deployment: Deployment, folder: Path) -> list[tuple[str, bytes]]:
    """Everything that was published or stored behind ingest, large payloads included, and every log."""
    place = deployment.place
    kafka = place.kafka_settings()
    found = in_store(folder, place.codec())
    found += [(service.log.name, service.log.read_bytes()) for service in deployment.services]
    for topic in topics.concrete():
        if topic.name not in RAW:
            for record in read_all(kafka.bootstrap, kafka.topic(topic.name)):
                parts = (record.key, record.value, *(value for _, value in record.headers))
                found.append((topic.name, b"\n".join(part or b"" for part in parts)))
    with psycopg.connect(place.postgres, options=f"-c search_path={place.schema},public") as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", [place.schema]).fetchall()
        for (table,) in tables:
            rows = connection.execute(sql.SQL("SELECT t::text FROM {} AS t").format(sql.Identifier(table))).fetchall()
            found += [(table, str(row).encode()) for (row,) in rows]
    return found


def events(secret: list[str]) -> list[dict[str, object]]:
    """The documents, and events that are refused for a field with a secret in it."""
    bad: list[dict[str, object]] = [
        {"id": "bad-type", "op": "upsert", "version": 1, "content": "x", "media_type": secret[0]},
        {"id": "bad-version", "op": "upsert", "version": secret[1], "content": "x"},
        {"id": "bad-time", "op": "upsert", "version": 1, "content": "x", "occurred_at": secret[2]},
        {"id": "bad-operation", "op": secret[3], "version": 1, "content": "x"},
    ]
    return [*bad, *documents(secret)]


def test_two_thousand_secrets_stay_before_ingest(
    deployment: Deployment, place: Place, objects: Path, seed: int
) -> None:
    """Personal data would be indexed, sent to a model's provider, or kept where nobody looks for it."""
    secret = planted(random.Random(seed))
    deployment.start_all(*(flow.name for flow in DOCUMENT_STAGES))
    publish(place.kafka_settings(), events(secret))
    wait_until_stored(deployment, fold(versions(TENANT, documents(secret))), 120, print)
    assert len(dead_letters_of(place, "ingest")) == 4
    found = places(deployment, objects)
    assert STORED.keys() <= {where for where, _ in found}, "the large document lies in the object store, of each stage"
    assert secrets(found, [one.encode() for one in secret]) == []


def test_p_sees_an_ingest_that_masks_nothing(deployment: Deployment, place: Place, objects: Path, seed: int) -> None:
    """The check for secrets would be green whatever is published."""
    secret = planted(random.Random(seed))[:40]
    deployment.env = {**deployment.env, "HEADRACE_INGEST_MASK": ""}
    deployment.start_all(*(flow.name for flow in DOCUMENT_STAGES))
    publish(place.kafka_settings(), documents(secret))
    deadline = time.monotonic() + 60
    while len(read_store(place.postgres, schema=place.schema).documents) < len(documents(secret)):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    words = [one.encode() for one in secret]
    leaky = {where for where, content in places(deployment, objects) if secrets([(where, content)], words)}
    assert {"documents", "chunks", "indexed", "document", "chunk"} <= leaky
    assert leaky >= STORED.keys(), "what is decoded of the large document"
    assert any(where.startswith("file ") for where in leaky), "the files themselves"
