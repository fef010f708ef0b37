"""Fetches the files that change events refer to, only from locations that the operator allows."""

from __future__ import annotations

from headrace_ingest.fetching.fetcher import Fetcher
from headrace_ingest.fetching.outcomes import Fetched, ForbiddenReference, ReferenceGone, Unfetchable
from headrace_ingest.fetching.settings import FetchSettings

__all__ = ["FetchSettings", "Fetched", "Fetcher", "ForbiddenReference", "ReferenceGone", "Unfetchable"]
