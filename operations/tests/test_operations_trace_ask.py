"""Asking for a trace: what an ID means, and what is said where nothing is known of it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from headrace_operations.runs.fold import Item, SentChange
from headrace_operations.trace import ask
from headrace_operations.trace.ask import NothingKnown
from headrace_operations.trace.log import Cost, Limits
from headrace_operations.trace.model import DocumentTrace, Traces, VersionTrace
from headrace_operations.trace.request import RequestTrace
from headrace_testing.cluster import FakeCluster

pytestmark = pytest.mark.unit

VERSION = VersionTrace(1, "indexed", "upsert", (), (), None, None, (), (), (), (), ())
CHANGE = Item(SentChange(b"acme/a", (0, 1), 1, "r", "q", 1), "pending", None, None)


@pytest.mark.parametrize(
    ("name", "request_id"),
    [
        ("0b1f9d6e-7c1c-4b7f-8a63-0d6f5f0e4c11", True),
        ("20260102T030405Z-0123abcd", True),
        ("20260102T030405Z", False),
        ("docs/0b1f9d6e-7c1c-4b7f-8a63-0d6f5f0e4c11", False),
        ("a.md", False),
    ],
)
def test_only_ids_that_headrace_makes_are_requests(name: str, *, request_id: bool) -> None:
    """Broken: a document is looked for among the requests, or a request among the documents."""
    assert ask.is_request(name) == request_id


def answer(monkeypatch: pytest.MonkeyPatch, changes: Sequence[Item], documents: Sequence[DocumentTrace]) -> None:
    """Have the log and the store know these."""

    async def traced(*_: object, tenant: str, request: str) -> RequestTrace:
        return RequestTrace(request, tenant, [], changes, documents, 0, (), Cost())

    monkeypatch.setattr(ask, "trace_request", traced)


async def test_a_request_is_known_by_its_changes_or_its_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a request whose changes aged out of the log is called unknown though the store has its documents."""
    document = DocumentTrace("acme", "a", "indexed", 1, None, (VERSION,), ())
    for changes, documents in (([CHANGE], []), ([], [document])):
        answer(monkeypatch, changes, documents)
        found = await ask.ask_request(FakeCluster(), None, Limits(), "acme", "q")
        assert (found.request, found.tenant, found.changes) == ("q", "acme", changes)


async def test_an_unknown_request_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: an empty trace looks like a request of which nothing failed."""
    answer(monkeypatch, [], [])
    with pytest.raises(NothingKnown, match="no request or run 'q' of tenant 'acme'") as unknown:
        await ask.ask_request(FakeCluster(), None, Limits(), "acme", "q")
    assert "--document" in unknown.value.remedy


async def test_a_document_is_known_by_its_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a misspelt ID shows an empty trace in place of an error."""
    asked: list[tuple[str, Sequence[str]]] = []

    class Tracer:
        def __init__(self, *_: object) -> None:
            pass

        async def documents(self, tenant: str, names: Sequence[str]) -> Traces:
            asked.append((tenant, names))
            versions = (VERSION,) if names == ["a"] else ()
            return Traces([DocumentTrace(tenant, names[0], "unknown", None, None, versions, ())], Cost())

    monkeypatch.setattr(ask, "Tracer", Tracer)
    found = await ask.ask_document(FakeCluster(), None, Limits(), "acme", "a")
    assert found.documents[0].versions == (VERSION,)
    with pytest.raises(NothingKnown, match="no document 'b' of tenant 'acme'"):
        await ask.ask_document(FakeCluster(), None, Limits(), "acme", "b")
    assert asked == [("acme", ["a"]), ("acme", ["b"])]
