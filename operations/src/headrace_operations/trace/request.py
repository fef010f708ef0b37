"""Traces a request or run: its changes with their outcomes, and the traces of the first few documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headrace.access.readers import EVERY_DOCUMENT
from headrace.codec.codec import Codec
from headrace.config.settings import KafkaSettings
from headrace.store import documents
from headrace_operations.runs.fold import Item, Run
from headrace_operations.runs.reader import RunsReader
from headrace_operations.trace.log import Cost, Limits
from headrace_operations.trace.model import DocumentTrace
from headrace_operations.trace.tracer import Tracer

if TYPE_CHECKING:
    from headrace.store.pool import Pool

_ORDER = {"failed": 0, "pending": 1, "done": 2}


@dataclass(frozen=True, slots=True)
class RequestTrace:
    """A request's changes; ``documents`` has the traces of the first few, failed and pending ones first."""

    request: str
    tenant: str
    runs: Sequence[Run]
    changes: Sequence[Item]
    documents: Sequence[DocumentTrace]
    not_shown: int
    notes: tuple[str, ...]
    cost: Cost


async def trace_request(
    kafka: KafkaSettings,
    codec: Codec,
    pool: Pool | None,
    limits: Limits,
    *,
    tenant: str,
    request: str,
    most_documents: int = 5,
) -> RequestTrace:
    """Return the trace of a request or run; it has no changes and documents if the request is unknown.

    The store finds the documents whose newest version came with the request. The scan looks for other changes in every
    partition of ``changes``, within the limits. Raises :class:`headrace.errors.DependencyDown`.
    """
    reader = RunsReader(kafka, codec, pool, limits, since_ms=0)
    reader.asked_for = request
    cost = await reader.read()
    changes = sorted(reader.items(request, tenant), key=lambda item: _ORDER[item.fate])
    names = dict.fromkeys(item.change.document_id for item in changes)
    if pool is not None:
        names |= dict.fromkeys(await documents.by_request(pool, tenant, EVERY_DOCUMENT, request))
    shown = list(names)[:most_documents]
    traces: Sequence[DocumentTrace] = ()
    if shown:
        found = await Tracer(kafka, codec, pool, limits).documents(tenant, shown)
        traces, cost = found.documents, cost + found.cost
    notes = []
    if not reader.complete:
        notes.append(
            "The log was not read completely; changes of this request may be missing. Raise --records or --seconds."
        )
    return RequestTrace(
        request=request,
        tenant=tenant,
        runs=reader.runs(request, tenant),
        changes=changes,
        documents=traces,
        not_shown=len(names) - len(shown),
        notes=tuple(notes),
        cost=cost,
    )
