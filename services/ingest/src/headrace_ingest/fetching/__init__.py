"""Files that change events refer to, fetched from where the operator allows it and from nowhere else."""

from __future__ import annotations

from headrace_ingest.fetching.fetcher import Fetcher
from headrace_ingest.fetching.outcomes import Fetched, ForbiddenReference, ReferenceGone, Unfetchable
from headrace_ingest.fetching.settings import FetchSettings

__all__ = ["FetchSettings", "Fetched", "Fetcher", "ForbiddenReference", "ReferenceGone", "Unfetchable"]
