"""The handler of ingest: the document that follows from an event, and its hash; and real change events."""

from __future__ import annotations

import asyncio
import json
import lzma
import os
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from headrace.codec.codec import Codec
from headrace.codec.schema_registry import FixedIds
from headrace.envelope import Change, Context, Operation, Trace, check_transition
from headrace.errors import InvalidRecord
from headrace.handlers import registry
from headrace.kafka.broker_contract import Record
from headrace.payloads import ChangeEvent, DocumentFacts, SourceDocument
from headrace_ingest.events import decode
from headrace_ingest.handler import ChangeEventHandler, content_hash, source_document
from headrace_ingest.settings import IngestSettings

pytestmark = pytest.mark.unit

EVENT = ChangeEvent(
    "acme", "a.md", Operation.UPSERT, 1, "Title", "\ufeff# A\r\n", None, "/s", {"a": "1", "b": "2"}, ("u1", "u2")
)
SAMPLE_LINES = 400


def context(event: ChangeEvent) -> Context[ChangeEvent]:
    """Return a context with that event."""
    trace = Trace("r", "default", 1, datetime(2026, 1, 1, tzinfo=UTC))
    return Context(trace, Change("acme", "a.md", 1, Operation.UPSERT), event)


def test_the_handler_is_found_by_its_name() -> None:
    """The shipped template names it; a stage that does not find it cannot start."""
    assert registry.installed("ingest").find("ingest", "change-event") is ChangeEventHandler


def test_the_text_stays_as_it_was_sent() -> None:
    """Offsets of chunks and citations would point beside the passages in the source."""
    before = context(EVENT)
    after = asyncio.run(ChangeEventHandler().process(before))
    check_transition(before, after, "ingest")
    document = after.payload
    assert isinstance(document, SourceDocument)
    facts = document.facts
    assert (document.text, facts.title, facts.media_type) == ("\ufeff# A\r\n", "Title", "text/markdown")
    assert (facts.source, facts.attributes, facts.acl) == ("/s", {"a": "1", "b": "2"}, ("u1", "u2"))


def test_the_document_fits_its_schema() -> None:
    """The stage could not write what its handler returns."""
    codec = Codec(FixedIds())
    after = asyncio.run(ChangeEventHandler().process(context(EVENT)))
    assert codec.decode(codec.encode(after, SourceDocument), SourceDocument).payload == after.payload


def test_an_upsert_without_text_is_refused() -> None:
    """A document would be emptied by an event that carries no text."""
    with pytest.raises(InvalidRecord, match="content: is missing"):
        ChangeEventHandler().validate(context(replace(EVENT, content=None)))


@pytest.mark.parametrize(
    ("document_id", "expected"),
    [
        ("a.md", "text/markdown"),
        ("docs/A.MARKDOWN", "text/markdown"),
        ("a.rst", "text/x-rst"),
        ("a.rest", "text/x-rst"),
        ("a.txt", "text/plain"),
        ("no-ending", "text/plain"),
        ("dir.md/file", "text/plain"),
    ],
)
def test_media_type_from_the_ending(document_id: str, expected: str) -> None:
    """Headings of Markdown and reStructuredText would not become sections."""
    assert source_document(document_id, EVENT).facts.media_type == expected


def test_a_stated_media_type_comes_before_the_ending() -> None:
    """Upstream could not correct a misleading name."""
    assert source_document("a.md", replace(EVENT, media_type="text/plain")).facts.media_type == "text/plain"


@pytest.mark.parametrize(
    "changed",
    [
        {"title": "Title2"},
        {"content": "# A\r\n"},
        {"media_type": "text/plain"},
        {"source": "/t"},
        {"attributes": {"a": "1", "b": "3"}},
        {"attributes": {"a": "1"}},
        {"attributes": {"a": "1", "b": "2", "c": ""}},
        {"acl": ("u1",)},
        {"acl": ("u1", "u2", "")},
        {"acl": ("u1u2",)},
        {"title": "Title\ufeff", "content": "# A\r\n"},
    ],
)
def test_the_hash_covers_all_that_a_change_can_change(changed: dict[str, Any]) -> None:
    """The index would take a changed document for the one it has, and keep old text, title or readers."""
    first = source_document("a.md", EVENT).facts.content_hash
    assert source_document("a.md", replace(EVENT, **changed)).facts.content_hash != first


@pytest.mark.parametrize(
    ("facts", "recorded"),
    [
        (
            DocumentFacts(
                "Title", "text/markdown", b"", "s3://b/k", {"team": "core", "a": "b"}, ("ann", "bob"), "en", (0, 2)
            ),
            "c8eb34c2d234adb6d89f8fac5a395825",
        ),
        (DocumentFacts("Title", "text/markdown", b"any"), "7d10fa9f41e8af790a21b11a878075b8"),
    ],
)
def test_the_hash_of_a_document_never_changes(facts: DocumentFacts, recorded: str) -> None:
    """Every document that is sent again would be taken for a changed one, at the same version."""
    assert content_hash(facts, "text").hex() == recorded


@pytest.mark.parametrize(
    "changed", [{"version": 9}, {"attributes": {"b": "2", "a": "1"}}, {"request_id": "x"}, {"pipeline": "p"}]
)
def test_the_hash_rests_on_the_document_alone(changed: dict[str, Any]) -> None:
    """The same document sent again would be written again."""
    first = source_document("a.md", EVENT)
    assert source_document("a.md", replace(EVENT, **changed)).facts.content_hash == first.facts.content_hash
    assert len(first.facts.content_hash) == 16


def real_changes() -> Path | None:
    """Return the file of real changes: by the environment, or beside the repository."""
    named = os.environ.get("HEADRACE_CHANGES_FILE")
    path = Path(named) if named else Path(__file__).parents[4] / "shared" / "data" / "peps-changes.jsonl.xz"
    return path if path.exists() else None


@pytest.mark.skipif(real_changes() is None, reason="no file of real changes; HEADRACE_CHANGES_FILE names one")
def test_real_changes_decode_with_the_tenant_of_the_key() -> None:
    """Real edits would be refused, or arrive altered."""
    path = real_changes()
    assert path is not None
    seen = 0
    with lzma.open(path, "rb") as lines:
        for line in islice(lines, 0, None, 3082 // SAMPLE_LINES):
            sent = json.loads(line)
            change = Record("changes", 0, seen, f"peps/{sent['id']}".encode(), line)
            form, event = decode(change, Codec(FixedIds()), IngestSettings())
            assert form == "json"
            assert (event.tenant, event.document_id, event.version) == ("peps", sent["id"], sent["version"])
            assert (event.content, event.title) == (sent.get("content"), sent.get("title"))
            assert event.occurred_at == datetime.fromtimestamp(sent["updated_at"], UTC)
            seen += 1
    assert seen >= SAMPLE_LINES
