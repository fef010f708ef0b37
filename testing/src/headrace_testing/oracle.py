"""The expected result of a change event in the store, computed with the services' own pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from headrace.envelope import Operation
from headrace.payloads import ChangeEvent, SourceDocument
from headrace_chunker.handler import ChunkerSettings, make_chunks
from headrace_ingest.handler import source_document
from headrace_ingest.masking import Masker, make_masker
from headrace_ingest.settings import IngestSettings
from headrace_testing.fold import Expected, Key


def expected(tenant: str, change: Mapping[str, Any]) -> Expected:
    """Return the version of the document that the event creates, chunked with the default settings."""
    if change["op"] == "delete":
        return Expected(change["version"], True, b"")
    document = ingested(tenant, change)
    chunks = make_chunks(tenant, change["id"], document, ChunkerSettings())
    return Expected(change["version"], False, document.facts.content_hash, chunks)


def ingested(tenant: str, change: Mapping[str, Any]) -> SourceDocument:
    """Return the document that an upsert creates, as the chunker receives it."""
    event = ChangeEvent(
        tenant, change["id"], Operation.UPSERT, change["version"], change["title"], change["content"], None,
        change["source"], change.get("attributes") or {},
    )  # fmt: skip
    return source_document(change["id"], _masker().event(event).event)


@cache
def _masker() -> Masker:
    return make_masker(IngestSettings())


def versions(tenant: str, changes: Sequence[Mapping[str, Any]]) -> list[tuple[Key, Expected]]:
    """Return the version that each event creates, in order."""
    return [((tenant, change["id"]), expected(tenant, change)) for change in changes]
