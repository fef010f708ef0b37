"""Traces a document or a request by its ID."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from headrace_operations.cluster import Cluster
from headrace_operations.errors import NotThere
from headrace_operations.trace.log import Limits
from headrace_operations.trace.model import Traces
from headrace_operations.trace.request import RequestTrace, trace_request
from headrace_operations.trace.tracer import Tracer

if TYPE_CHECKING:
    from headrace.store.pool import Pool

_REQUEST = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d{8}T\d{6}Z-[0-9a-f]{8}")


class NothingKnown(NotThere):
    """Neither the log nor the store has it."""

    code = "nothing-known"
    default_remedy = "Check the ID: a file's ID is its path within the ingested folder. `headrace search` shows IDs."


def is_request(name: str) -> bool:
    """Whether the name is the ID of a request (a UUID) or of a run; any other name is a document's."""
    return _REQUEST.fullmatch(name) is not None


async def ask_request(cluster: Cluster, pool: Pool | None, limits: Limits, tenant: str, name: str) -> RequestTrace:
    """Return the trace of a request or run; raises :class:`NothingKnown` and :class:`DependencyDown`."""
    found = await trace_request(cluster.kafka, cluster.codec, pool, limits, tenant=tenant, request=name)
    if not found.changes and not found.documents:
        raise NothingKnown(
            f"no request or run {name!r} of tenant {tenant!r} in the log or the store",
            remedy="`headrace runs` lists the latest runs. If this is a document's ID, use --document.",
        )
    return found


async def ask_document(cluster: Cluster, pool: Pool | None, limits: Limits, tenant: str, name: str) -> Traces:
    """Return every version that the log or the store has; raises :class:`NothingKnown` and :class:`DependencyDown`."""
    found = await Tracer(cluster.kafka, cluster.codec, pool, limits).documents(tenant, [name])
    if not found.documents[0].versions:
        raise NothingKnown(f"no document {name!r} of tenant {tenant!r} in the log or the store")
    return found
