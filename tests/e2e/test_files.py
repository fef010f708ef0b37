"""Files from change events to the index: every kind, inline and by reference, beside some that are refused."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from headrace.store.queries import load
from headrace.topology.stages import DOCUMENT_STAGES
from headrace_testing import files
from headrace_testing.committed import dead_letters_of, read_all
from headrace_testing.deployment import Deployment, Place
from headrace_testing.stream import TENANT, publish

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

SECRET = "hana.kim@example.co.kr"
BODY = "The wheel turns as long as water comes down the channel. " * 12
RESUME = {"basics": {"name": "Hana", "email": SECRET}, "work": [{"position": "Lead", "name": "Acme", "summary": BODY}]}
PAGE = f"<html lang=en><title>Page</title><h1>Web</h1><p>{BODY} {SECRET}</p></html>"


def word_file() -> bytes:
    """A Word document with a table and a secret."""
    document = files.docx("Word title")
    document.add_heading("설치", 1)
    document.add_paragraph(f"{BODY} {SECRET}")
    table = document.add_table(2, 2)
    table.cell(0, 0).text, table.cell(1, 1).text = "head", "value"
    return files.saved(document)


def upsert(identity: str, data: bytes | None = None, **fields: object) -> dict[str, object]:
    """An event with a file."""
    encoded = {} if data is None else {"content_base64": base64.b64encode(data).decode()}
    return {"id": identity, "op": "upsert", "version": 1, **encoded, **fields}


def hits(place: Place) -> dict[str, list[dict[str, Any]]]:
    """Every chunk as search shows it, by document, in the order of the text."""
    found: dict[str, list[dict[str, Any]]] = {}
    with psycopg.connect(place.postgres, options=f"-c search_path={place.schema},public", row_factory=dict_row) as own:
        chunks = [row["chunk_id"] for row in own.execute("SELECT chunk_id FROM chunk").fetchall()]
        query = load("search")["hits"].replace("$1", "%(tenant)s").replace("$2", "%(chunks)s")
        query = query.replace("$3", "(SELECT name FROM generation WHERE state = 'active')")
        for row in own.execute(query, {"tenant": TENANT, "chunks": chunks}).fetchall():
            found.setdefault(row["document_id"], []).append(row)
    return {name: sorted(rows, key=lambda row: row["ordinal"]) for name, rows in found.items()}


def test_files_of_every_kind_are_found_with_their_sections_and_pages(
    deployment: Deployment, place: Place, tmp_path: Path
) -> None:
    """A user who sends files would find nothing, find it at the wrong place, or publish what stands in them."""
    report = files.pdf(
        [[("Heading1", "First"), ("BodyText", BODY)], [("Heading1", "Second"), ("BodyText", f"{BODY} {SECRET}")]],
        title="Report",
    )
    (tmp_path / "notes.md").write_text(f"# Notes\n\n{BODY}\n", encoding="utf-8")
    events = [
        upsert("report.pdf", report),
        upsert("manual", word_file(), media_type="text/plain"),
        upsert("page", PAGE.encode()),
        upsert("resume", json.dumps(RESUME).encode()),
        upsert("inline", content=PAGE, media_type="text/html"),
        upsert("notes", reference=(tmp_path / "notes.md").as_uri()),
        upsert("inside", reference="http://169.254.169.254/latest/meta-data/"),
        upsert("locked", files.encrypted_pdf()),
    ]
    deployment.env = {"HEADRACE_FETCH_FOLDERS": str(tmp_path)}
    deployment.start_all(*(flow.name for flow in DOCUMENT_STAGES))
    publish(place.kafka_settings(), events)
    deadline = time.monotonic() + 60
    while len(found := hits(place)) < 6 or len(dead_letters_of(place, "ingest")) < 2:
        assert time.monotonic() < deadline, sorted(found)
        time.sleep(0.2)
    assert sorted(found) == ["inline", "manual", "notes", "page", "report.pdf", "resume"]
    assert {(tuple(row["section"]), row["page"]) for row in found["report.pdf"]} == {(("First",), 1), (("Second",), 2)}
    assert {row["title"] for row in found["report.pdf"]} == {"Report"}
    assert {tuple(row["section"]) for row in found["manual"]} == {("설치",)}
    assert any("| head |" in str(row["text"]) for row in found["manual"])
    assert {row["page"] for name in found if name != "report.pdf" for row in found[name]} == {None}
    assert {(row["title"], row["language"]) for row in found["page"]} == {("Page", "en")}
    assert ("Work", "Lead – Acme") in {tuple(row["section"]) for row in found["resume"]}
    assert found["notes"][0]["source"] == (tmp_path / "notes.md").as_uri()
    refused = {letter.document_id: letter.reason for letter in dead_letters_of(place, "ingest")}
    assert refused == {"inside": "forbidden-reference", "locked": "invalid-record"}
    kafka = place.kafka_settings()
    for topic in ("documents", "chunks", "vectors.g1"):
        for record in read_all(kafka.bootstrap, kafka.topic(topic)):
            assert SECRET.encode() not in (record.value or b""), topic
    assert not any(SECRET in str(row["text"]) for rows in found.values() for row in rows)
    assert sum("[EMAIL-" in str(row["text"]) for rows in found.values() for row in rows) >= 5
